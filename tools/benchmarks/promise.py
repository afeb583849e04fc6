# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Whether a budget of time keeps its promise, without whole runs.

A real training, with its hooks and its loader, of the subnets of a config's
stages. They take turns of some steps each, and before each round their steps
are timed as a run with budget='time' does. Compared are the costs, with that
of the full network as 1, and the speed-up that a run would have.
"""
import argparse
import os.path as osp
import tempfile
import time
from statistics import median

from common import (  # isort: skip  (before torch, for torchvision's sake)
    find_device, read_config, write_json)

from mmengine.hooks import Hook

from autoprog_mm.engine import AutoProgHook, MicroBatchHook
from autoprog_mm.engine.step_times import time_training_steps
from autoprog_mm.growth.course import Course
from autoprog_mm.launch import (
    OptionsAction,
    Parser,
    build_runner,
    exit_on_user_error,
    prepare_config,
)
from autoprog_mm.utils import UserError
from autoprog_mm.utils.checks import check_int


def parse_args() -> argparse.Namespace:
    parser = Parser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', nargs='?', default='configs/prog/deit-micro_prog_mnist5k.py')
    parser.add_argument('--steps', type=int, default=40, help='of each turn, of a batch each')
    parser.add_argument('--rounds', type=int, default=3, help='turns of each subnet')
    parser.add_argument('--speedup', type=float, nargs='+', default=[2., 3.])
    parser.add_argument('--cfg-options', nargs='+', action=OptionsAction, default={})
    parser.add_argument('--out', help='JSON file for the figures')
    return parser.parse_args()


class TakeTurns(Hook):
    """Has each epoch train the next subnet, and takes the time of its steps."""

    priority = 'VERY_LOW'  # after AutoProgHook

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.found, self.timed = {}, {}
        self._begin = None  # of the second step: the first one warms up

    def before_train_epoch(self, runner) -> None:
        hook = next(h for h in runner.hooks if isinstance(h, AutoProgHook))
        rows = list(dict.fromkeys(stage.subnet for stage in hook.stages))
        subnet = rows[runner.epoch % len(rows)]
        limit = next((h.max_batch_per_step for h in runner.hooks
                      if isinstance(h, MicroBatchHook)), None)
        if subnet == rows[0]:
            for row, seconds in time_training_steps(hook.parts, hook.inputs, rows, limit).items():
                self.timed.setdefault(row, []).append(seconds)
        # Up and down, as no run does.
        hook.parts.backbone.set_subnet(subnet)
        hook.parts.optim_wrapper.shrink(hook.parts.backbone, subnet)
        hook.inputs.apply(hook.stages[0].regularization, subnet.resolution)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if batch_idx == 0:
            self._begin = time.perf_counter()

    def after_train_epoch(self, runner) -> None:
        seconds = (time.perf_counter() - self._begin) / (len(runner.train_dataloader) - 1)
        self.found.setdefault(runner.model.backbone.awake_subnet, []).append(seconds)
        runner.train_loop.stop_training = runner.epoch + 1 == self.rounds * len(self.timed)


def train(args: argparse.Namespace, folder: str):
    """The hook that has taken the time, and the runner."""
    cfg = read_config(args.config)
    where = next(i for i, hook in enumerate(cfg.custom_hooks) if hook['type'] == 'AutoProgHook')
    options = {f'custom_hooks.{where}.search': None, 'log_level': 'ERROR'}
    cfg = prepare_config(cfg, argparse.Namespace(
        config=args.config, work_dir=osp.join(folder, 'run'), launcher='none', resume=None,
        amp=False, no_validate=True, auto_scale_lr=False, no_pin_memory=False,
        no_persistent_workers=False, cfg_options={**options, **args.cfg_options}))
    loader, hook = cfg.train_dataloader, cfg.custom_hooks[where]
    loader.dataset.indices = args.steps * loader.batch_size
    hook.speedup = hook.stage_shares = None
    # All turns are in the first of its stages.
    epochs = cfg.train_cfg.max_epochs
    cfg.train_cfg.max_epochs = (1 + args.rounds * hook.num_stages) * hook.num_stages
    cfg.default_hooks.checkpoint.interval, cfg.default_hooks.checkpoint.save_last = -1, False
    runner, turns = build_runner(cfg), TakeTurns(args.rounds)
    runner.register_hook(turns, turns.priority)
    runner.train()
    return runner, turns, epochs


def main() -> None:
    args = parse_args()
    check_int('--steps', args.steps, least=2)
    check_int('--rounds', args.rounds)
    _, name = find_device()
    with tempfile.TemporaryDirectory() as folder:
        runner, turns, epochs = train(args, folder)
    full = runner.model.backbone.full_subnet
    found, timed = ({subnet: median(each) for subnet, each in seconds.items()}
                    for seconds in (turns.found, turns.timed))
    print(f'{args.config}, batch {runner.train_dataloader.batch_size}, '
          f'{runner.train_dataloader.num_workers} workers, {name}, medians of {args.rounds} turns '
          f'of {args.steps} steps')
    print(f'{"subnet":>9}  {"trained":>9}  {"timed":>9}  {"cost":>6}  {"timed":>6}  {"off":>6}')
    rows = []
    for subnet in found:
        cost, probed = found[subnet] / found[full], timed[subnet] / timed[full]
        rows.append(dict(subnet=str(subnet), trained=turns.found[subnet],
                         timed=turns.timed[subnet], off=probed / cost - 1))
        print(f'{subnet!s:>9}  {found[subnet]:>8.4f}s  {timed[subnet]:>8.4f}s  {cost:>6.3f}  '
              f'{probed:>6.3f}  {probed / cost - 1:>+6.1%}')
    hook = next(h for h in runner.hooks if isinstance(h, AutoProgHook))
    results = []
    for speedup in args.speedup:
        try:
            course = Course(list(hook.stages), epochs, args.steps, speedup, costs={
                row: float(f'{timed[row] / timed[full]:.2g}') for row in timed})
        except UserError as error:
            print(f'speedup={speedup:g}: {error}')
            continue
        seconds = sum((s.end_epoch - s.begin_epoch) * found[s.subnet] for s in course.stages)
        results.append(dict(promised=speedup, comes_to=epochs * found[full] / seconds))
        print(f'Promised {speedup:g}, in seconds it comes to {results[-1]["comes_to"]:.2f} '
              f'({results[-1]["comes_to"] / speedup - 1:+.1%}).')
    write_json(args.out, dict(vars(args), device=name, subnets=rows, speedups=results))


if __name__ == '__main__':
    with exit_on_user_error():
        main()
