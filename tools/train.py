# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Train a model from a config, as mmpretrain's tool of this name."""
import argparse
import os.path as osp
import signal
import sys

# Ctrl-C while libraries are imported, which takes seconds, just ends it.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler and __name__ == '__main__':
    signal.signal(signal.SIGINT, signal.SIG_DFL)
# Works from a checkout that is not installed, too.
sys.path.insert(0, osp.join(osp.dirname(osp.realpath(__file__)), '..'))

from autoprog_mm.launch import (  # noqa: E402
    Parser,
    add_speedup,
    build_runner,
    check_checkpoint,
    check_datasets,
    check_init_cfg,
    check_work_dir,
    exit_on_user_error,
    parse_with_common,
    prepare_config,
    read_config,
)


def parse_args() -> argparse.Namespace:
    parser = Parser(description='Train a model')
    parser.add_argument('config', help='train config file path')
    parser.add_argument('--work-dir', help='the dir to save logs and models')
    parser.add_argument(
        '--resume',
        nargs='?',
        type=str,
        const='auto',
        help='resume from this checkpoint, or, if none is given, from the latest one in the '
        'work directory')
    add_speedup(parser)
    parser.add_argument(
        '--no-validate', action='store_true', help='do not validate during training')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the actual batch size')
    parser.add_argument(
        '--no-persistent-workers',
        action='store_true',
        help='disable the persistent_workers option in dataloaders')
    return parse_with_common(parser)


def main() -> None:
    args = parse_args()
    cfg = read_config(args.config)
    if args.resume != 'auto':
        check_checkpoint('--resume', args.resume, resumes=True)
    cfg = prepare_config(cfg, args)
    check_checkpoint('load_from', cfg.get('load_from'), resumes=bool(cfg.get('resume')))
    check_init_cfg('model', cfg.get('model'))
    check_work_dir(cfg.work_dir)
    check_datasets(cfg, ('train_dataloader', 'val_dataloader'))
    build_runner(cfg, args.resume).train()


if __name__ == '__main__':
    with exit_on_user_error():
        main()
