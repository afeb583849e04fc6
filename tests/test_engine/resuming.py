# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Comparing a resumed run with one that was never stopped.

A run that goes on from a checkpoint is a function of that checkpoint. So if all
that a checkpoint holds is the same one step later, the rest of the run is, too.
"""
from mmengine.hooks import Hook

from tests.micro import differences, load, run

# Stages are two epochs long. A search of one leaves an epoch to its choice; one
# of two is still under way after a stage's first epoch.
SEARCHES = {
    epochs: dict(
        type='OneShotSearch', epochs=epochs, eval_batches=2, evals=(2, 1), cost='flops')
    for epochs in (1, 2)
}
SEARCH = SEARCHES[1]
EVERY_STEP = dict(
    default_hooks__checkpoint__by_epoch=False, default_hooks__checkpoint__interval=1)
EXACT = ('state_dict', 'online_state_dict', 'optimizer', 'param_schedulers')


class StopError(Exception):
    """Ends a run as if it were killed."""


class StopAfter(Hook):
    """Ends a run after a number of steps, when its checkpoints are written."""
    priority = 'LOWEST'

    def __init__(self, steps):
        self.steps = steps

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        inside = self.steps % len(runner.train_dataloader)
        if inside and runner.iter + 1 == self.steps:
            raise StopError

    def before_train_epoch(self, runner):  # the epoch before is saved and validated
        if runner.iter == self.steps:
            raise StopError


def run_until(cfg, steps, *hooks):
    """Train until so many steps are done, and what follows them if they end an epoch."""
    hook = StopAfter(steps)
    try:
        run(cfg, *hooks, hook)
    except StopError:
        pass


def resumed_until(cfg, checkpoint, steps, *hooks):
    cfg.resume, cfg.load_from = True, str(checkpoint)
    run_until(cfg, steps, *hooks)


def without_clocks(record):
    return {
        **record, 'train_seconds': None,
        'stages': [{**stage, 'seconds': None} for stage in record['stages']]
    }


def assert_same_state(expected, got):
    """Compare all that two checkpoints hold, but for clocks and paths."""
    expected, got = load(expected), load(got)
    assert expected.keys() == got.keys()
    for key in EXACT:
        found = differences(expected[key], got[key], key)
        assert found == [], found
    states = [dict(checkpoint['autoprog']) for checkpoint in (expected, got)]
    ledgers = [without_clocks(state.pop('ledger')) for state in states]
    assert states[0] == states[1]
    assert ledgers[0] == ledgers[1]
    for key in ('epoch', 'iter', 'seed'):
        assert expected['meta'][key] == got['meta'][key]
