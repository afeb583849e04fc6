# Copyright (c) the autoprog_mm authors. All rights reserved.
from types import SimpleNamespace

import pytest
import torch
from mmpretrain.registry import PARAM_SCHEDULERS

from autoprog_mm.engine.run_parts import _cooldown_epochs

STEPS = 10  # of an epoch
COSINE = dict(type='CycleCosineLR', begin=1, end=8, cooldown=2)


@pytest.mark.parametrize('max_epochs, expected', [(8, 2), (20, 14), (7, 1), (6, 0), (3, 0)])
@pytest.mark.parametrize('by_step', [False, True])
@pytest.mark.parametrize('several', [False, True])
def test_what_comes_after_the_cycle_is_cooldown(max_epochs, expected, by_step, several):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.)
    schedulers = [PARAM_SCHEDULERS.build(cfg, default_args=dict(
        optimizer=optimizer, epoch_length=STEPS)) for cfg in (
            dict(type='LinearLR', end=1), dict(COSINE, convert_to_iter_based=by_step))]
    runner = SimpleNamespace(
        param_schedulers=dict(one=[], other=schedulers) if several else schedulers,
        train_dataloader=range(STEPS), max_epochs=max_epochs)
    assert _cooldown_epochs(runner) == expected
    # With a budget, nothing is left of them.
    for schedulers in ([], None):
        runner.param_schedulers = schedulers
        assert _cooldown_epochs(runner) == 0
