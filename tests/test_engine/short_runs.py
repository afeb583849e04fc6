# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The first epochs of a micro run, or those after a checkpoint of it.

Where a checkpoint of a run equals another run's in all that training goes on
with, so does the rest of the run.
"""
import time

import pytest
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from tests.micro import run


class Stopped(Exception):  # noqa: N818
    """Ends a run early."""


class StopAfter(Hook):
    """Ends a run after the validation of an epoch, counted from 1."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def after_val_epoch(self, runner, metrics=None) -> None:
        if runner.epoch == self.epoch:
            self.runner = runner
            raise Stopped


def run_until(epoch: int, cfg: Config, *hooks: Hook) -> Runner:
    """Train to the end of an epoch, and validate it."""
    stop = StopAfter(epoch)
    with pytest.raises(Stopped):
        run(cfg, *hooks, stop)
    return stop.runner


def resumed(cfg: Config, checkpoint=None) -> Config:
    """The config to go on from a checkpoint, or from the newest in the work directory."""
    cfg = cfg.copy()
    cfg.experiment_name = f'resumed_{time.time_ns()}'
    cfg.resume = True
    cfg.load_from = None if checkpoint is None else str(checkpoint)
    return cfg
