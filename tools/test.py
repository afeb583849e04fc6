# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Test a checkpoint, as mmpretrain's tool of this name."""
import argparse
import os.path as osp
import signal
import sys
from copy import deepcopy
from typing import Optional

# Ctrl-C while libraries are imported, which takes seconds, just ends it.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler and __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.SIG_DFL)
# Works from a checkout that is not installed, too.
sys.path.insert(0, osp.join(osp.dirname(osp.realpath(__file__)), '..'))

import mmengine  # noqa: E402
from mmengine.config import Config, ConfigDict  # noqa: E402
from mmengine.evaluator import DumpResults  # noqa: E402

from autoprog_mm.engine.rehearsal import rehearse_test  # noqa: E402
from autoprog_mm.launch import (  # noqa: E402
    Parser,
    build_runner,
    check_checkpoint,
    check_datasets,
    check_work_dir,
    exit_on_user_error,
    parse_with_common,
    prepare_config,
    read_config,
)
from autoprog_mm.utils import UserError  # noqa: E402

FORMATS = ('.json', '.yaml', '.yml', '.pkl', '.pickle')  # that mmengine writes


def parse_args() -> argparse.Namespace:
    parser = Parser(description='Test a model')
    parser.add_argument('config', help='test config file path')
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument('--work-dir', help='the dir to save the evaluation metrics')
    parser.add_argument('--out', help='the file to write results to')
    parser.add_argument(
        '--out-item',
        choices=['metrics', 'pred'],
        help='whether --out gets metrics or predictions; defaults to predictions')
    parser.add_argument('--show-dir', help='directory for pictures of the predictions')
    parser.add_argument(
        '--show', action='store_true', help='show the predictions in a window')
    parser.add_argument(
        '--interval', type=int, default=1, help='visualize one in so many samples')
    parser.add_argument(
        '--wait-time', type=float, default=2, help='seconds that each window is shown')
    parser.add_argument(
        '--tta',
        action='store_true',
        help='test-time augmentation, by `tta_model` and `tta_pipeline` of the config or else '
        'by averaging with the flipped image')
    return parse_with_common(parser)


def merge_test_args(cfg: Config, args: argparse.Namespace) -> None:
    """Merge what only this tool has: visualization, and test-time augmentation."""
    cfg.load_from = args.checkpoint
    # The Runner writes the config into the work directory: not over that of the training.
    object.__setattr__(cfg, '_filename', None)
    if args.show or args.show_dir is not None:
        cfg.setdefault('visualizer', dict(
            type='mmpretrain.UniversalVisualizer', vis_backends=[dict(type='LocalVisBackend')]))
        cfg.default_hooks.setdefault('visualization', dict(type='VisualizationHook'))
        cfg.default_hooks.visualization.update(
            enable=True,
            show=args.show,
            wait_time=args.wait_time,
            out_dir=args.show_dir,
            interval=args.interval)
    if args.tta:
        cfg.setdefault('tta_model', dict(type='mmpretrain.AverageClsScoreTTA'))
        if 'tta_pipeline' not in cfg:
            pipeline = deepcopy(cfg.test_dataloader.dataset.pipeline)
            flips = [dict(type='RandomFlip', prob=1.), dict(type='RandomFlip', prob=0.)]
            pipeline[-1] = dict(type='TestTimeAug', transforms=[flips, [pipeline[-1]]])
            cfg.tta_pipeline = pipeline
        cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
        cfg.test_dataloader.dataset.pipeline = cfg.tta_pipeline
    if args.amp:
        cfg.test_cfg.fp16 = True


def check_out(path: str, item: Optional[str]) -> None:
    """Check, before the test, that its results can be written."""
    known = FORMATS if item == 'metrics' else ('.pkl', '.pickle')
    if not path.endswith(known):
        raise UserError(f'--out: a file of {item or "pred"} must end with {" or ".join(known)}, '
                        f'but is {path!r}.')
    check_work_dir(osp.dirname(osp.abspath(path)), '--out')


def main() -> None:
    args = parse_args()
    if args.out is None and args.out_item is not None:
        raise UserError('--out-item needs --out, the file to write to.')
    if args.out:
        check_out(args.out, args.out_item)
    cfg = read_config(args.config)
    check_checkpoint('checkpoint', args.checkpoint)
    merge_test_args(cfg, args)
    cfg = prepare_config(cfg, args)
    check_work_dir(cfg.work_dir)
    if args.show_dir is not None:
        check_work_dir(args.show_dir, '--show-dir')
    check_datasets(cfg, ('test_dataloader', ))
    runner = build_runner(cfg)
    rehearse_test(runner)
    if args.out and args.out_item in ('pred', None):
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
    metrics = runner.test()
    if args.out and args.out_item == 'metrics':
        mmengine.dump(metrics, args.out)


if __name__ == '__main__':
    with exit_on_user_error():
        main()
