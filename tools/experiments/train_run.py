# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Train one run of a suite, in the folder that run.py has made for it."""
import argparse
import fcntl
import json
import os
import os.path as osp
import platform
import sys
import time

# Works from a checkout that is not installed, too.
sys.path.insert(0, osp.join(osp.dirname(osp.realpath(__file__)), '..', '..'))

import torch
from compute import spent_compute
from folder import CONFIG, RESULT, STARTED
from mmengine.fileio import load
from mmengine.runner import Runner

from autoprog_mm.engine.hooks import AutoProgHook
from autoprog_mm.launch import (
    build_runner,
    check_datasets,
    check_work_dir,
    prepare_config,
    read_config,
)
from autoprog_mm.launch.errors import exit_on_user_error
from autoprog_mm.record.ledger import RECORD_FILE
from autoprog_mm.utils import write_atomically


def train_run(folder: str) -> None:
    """Train the run of a folder, from its checkpoint if there is one, and write its result.

    Args:
        folder (str): The run's folder, with its config.

    Raises:
        RuntimeError: If another process trains in this folder, or if the run
            ends before its last epoch.
    """
    lock = open(osp.join(folder, '.lock'), 'w')  # as long as the process lives
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise RuntimeError(f'{folder}: another process trains this run. Stop it, or wait.') \
            from None
    args = argparse.Namespace(
        config=osp.join(folder, CONFIG), work_dir=folder, launcher='none', amp=False,
        resume='auto' if osp.exists(osp.join(folder, 'last_checkpoint')) else None,
        no_pin_memory=False, cfg_options=None)
    cfg = prepare_config(read_config(args.config), args)
    check_work_dir(cfg.work_dir)
    check_datasets(cfg, ('train_dataloader', 'val_dataloader'))
    runner = build_runner(cfg, args.resume)
    runner.train()
    record = load(osp.join(folder, RECORD_FILE))
    if not record['finished']:
        raise RuntimeError('The run was stopped before its last epoch.')
    hook = next(hook for hook in runner.hooks if isinstance(hook, AutoProgHook))
    compute = spent_compute(record, hook.parts.backbone.flops, hook.search)
    online = evaluate(runner)
    runner.optim_wrapper.swap_momentum()
    momentum = evaluate(runner)
    result = dict(
        top1=momentum, top1_online=online, compute=compute,
        train_seconds=record['train_seconds'],
        date=time.strftime('%Y-%m-%d', time.gmtime()), machine=machine(),
        **load(osp.join(folder, STARTED)), record=record)
    write_atomically(osp.join(folder, RESULT), json.dumps(result))


@torch.no_grad()
def evaluate(runner: Runner) -> float:
    """Top-1 of the model as it is, in percent, by the validation's data and evaluator."""
    loader, evaluator = runner.val_dataloader, runner.val_evaluator
    runner.model.eval()
    for batch in loader:
        evaluator.process(data_batch=batch, data_samples=runner.model.val_step(batch))
    return evaluator.evaluate(len(loader.dataset))['accuracy/top1']


def machine() -> dict:
    """What this runs on, for whoever reads the figures."""
    model = platform.processor()
    if osp.exists('/proc/cpuinfo'):
        with open('/proc/cpuinfo', encoding='utf-8') as file:
            names = [line.split(':', 1)[1] for line in file if line.startswith('model name')]
        model = names[0].strip() if names else model
    return dict(
        cpu=model, cores=os.cpu_count(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        system=platform.system(), python=platform.python_version())


if __name__ == '__main__':
    with exit_on_user_error():
        train_run(sys.argv[1])
