# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What hooks, optimizer wrapper and momentum cost, against the step that they serve.

A real run of the config's last stage, the full network, on images that are made
for it. What our hooks do before and after each step is timed in place, and the
wrapper's own work (gradients looked at, momentum copies moved) as well. After
it, moving the momentum copies and what mmengine's EMAHook does take turns.
"""
import argparse
import os
import os.path as osp
import tempfile
import time
from collections import defaultdict
from statistics import median

from common import (  # isort: skip  (before torch, for torchvision's sake)
    find_device, read_config, seconds, write_json)

import cv2
import numpy as np
from mmengine.model import ExponentialMovingAverage
from mmengine.runner import Runner

from autoprog_mm.engine import AutoProgHook, MoGrowEMAHook, RunGuardHook
from autoprog_mm.engine.optimizers import FiniteSteps, MomentumCopies
from autoprog_mm.launch import Parser, exit_on_user_error, prepare_config

# Whose methods are timed, under which name.
TIMED = {
    'hooks': [(hook, method) for hook in (AutoProgHook, MoGrowEMAHook, RunGuardHook)
              for method in ('before_train_iter', 'after_train_iter')],
    'momentum': [(MomentumCopies, 'update')],
    'check of gradients': [(FiniteSteps, 'check')],
}


def parse_args() -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument('config', nargs='?', default='configs/baseline/deit-s_baseline_in1k.py')
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--steps', type=int, default=5)
    parser.add_argument('--rounds', type=int, default=15, help='turns of the momentum updates')
    parser.add_argument('--out', help='JSON file for the figures')
    return parser.parse_args()


class Clock:
    """Adds up what named methods take, step by step."""

    def __init__(self) -> None:
        self.accounts = defaultdict(float)
        for account, methods in TIMED.items():
            for owner, name in methods:
                self._wrap(owner, name, account)

    def _wrap(self, owner: type, name: str, account: str) -> None:
        plain = getattr(owner, name)

        def timed(*args, **kwargs):
            begin = time.perf_counter()
            try:
                return plain(*args, **kwargs)
            finally:
                self.accounts[account] += time.perf_counter() - begin

        setattr(owner, name, timed)


def make_images(folder: str, number: int) -> None:
    rng = np.random.RandomState(0)
    for i in range(number):
        path = osp.join(folder, f'class_{i % 2}', f'{i}.jpg')
        os.makedirs(osp.dirname(path), exist_ok=True)
        cv2.imwrite(path, rng.randint(0, 256, (256, 256, 3), dtype=np.uint8))


def build_runner(args: argparse.Namespace, folder: str) -> Runner:
    cfg = read_config(args.config)
    pipeline = cfg.train_dataloader.dataset.pipeline
    cfg.train_dataloader.dataset = dict(
        type='CustomDataset', data_root=osp.join(folder, 'images'), pipeline=pipeline)
    options = {
        'train_dataloader.batch_size': args.batch_size, 'train_dataloader.num_workers': 0,
        'train_cfg.max_epochs': 1, 'default_hooks.checkpoint.interval': -1,
        'default_hooks.checkpoint.save_last': False, 'log_level': 'ERROR'}
    return Runner.from_cfg(prepare_config(cfg, argparse.Namespace(
        config=args.config, work_dir=osp.join(folder, 'run'), launcher='none', resume=None,
        amp=False, no_validate=True, auto_scale_lr=False, no_pin_memory=False,
        no_persistent_workers=True, cfg_options=options)))


def main() -> None:
    args = parse_args()
    device, name = find_device()
    clock, steps = Clock(), []
    with tempfile.TemporaryDirectory() as folder:
        make_images(osp.join(folder, 'images'), args.batch_size * (args.steps + 1))
        runner = build_runner(args, folder)
        loop = runner.build_train_loop(runner._train_loop)
        runner._train_loop, run_iter = loop, loop.run_iter

        def timed_iter(index: int, batch: dict) -> None:
            before = dict(clock.accounts)
            taken = seconds(lambda: run_iter(index, batch), device)
            steps.append(dict({account: total - before.get(account, 0.)
                               for account, total in clock.accounts.items()}, step=taken))

        loop.run_iter = timed_iter
        runner.train()
    rows = {key: median(step[key] for step in steps[1:]) for key in steps[0]}  # the first warms up
    model, copies = runner.model, len(runner.optim_wrapper.ema_decays)
    momentum = MomentumCopies(model, runner.optim_wrapper.ema_decays)
    average = ExponentialMovingAverage(model)
    turns = [(seconds(momentum.update, device),
              seconds(lambda: average.update_parameters(model), device))
             for _ in range(args.rounds)]
    ours, theirs = (median(times) for times in zip(*turns))
    print(f'{args.config}, batch {args.batch_size}, {name}, medians of {args.steps} steps')
    print(f'{"step":<22} {rows["step"]:>9.4f}s')
    for account in TIMED:
        print(f'{account:<22} {rows[account]:>9.4f}s {rows[account] / rows["step"]:>7.2%}')
    total = sum(rows[account] for account in TIMED)
    print(f'{"together":<22} {total:>9.4f}s {total / rows["step"]:>7.2%}')
    print(f'Momentum, in turns: {ours * 1e3:.2f} ms for {copies} copies, {ours / copies * 1e3:.2f} '
          f"ms each; mmengine's EMAHook {theirs * 1e3:.2f} ms for one: "
          f'{theirs / (ours / copies):.2f} times as long.')
    write_json(args.out, dict(
        vars(args), device=name, seconds=rows, share=total / rows['step'],
        in_turns=dict(momentum=ours, copies=copies, ema_hook=theirs)))


if __name__ == '__main__':
    with exit_on_user_error():
        main()
