# Copyright (c) the autoprog_mm authors. All rights reserved.
from math import cos, pi

import pytest
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS

from autoprog_mm.engine.pace import Pace

STEPS = 10  # of an epoch
WARM_UP = dict(type='LinearLR', start_factor=0.1, begin=0, end=2, convert_to_iter_based=True)
COSINE = dict(type='CosineAnnealingLR', T_max=6, eta_min=0.001, begin=2, end=8,
              convert_to_iter_based=True)


def build(schedulers, optimizer='AdamW', **options):
    weights = [torch.nn.Parameter(torch.zeros(2)) for _ in range(4)]
    # Two are alike.
    groups = [dict(params=[weight], lr=lr) for weight, lr in zip(weights, (0.5, 0.1, 0.5, 0.1))]
    groups[3]['weight_decay'] = 0.3
    wrapper = OptimWrapper(getattr(torch.optim, optimizer)(groups, lr=0.1, **options))
    return wrapper, [
        PARAM_SCHEDULERS.build(cfg, default_args=dict(optimizer=wrapper, epoch_length=STEPS))
        for cfg in schedulers]


def options(wrapper):
    return [{k: v for k, v in g.items() if k != 'params'} for g in wrapper.param_groups]


def played(schedulers, epochs, **kwargs):
    """What mmengine's hook sets before each step, played on a second optimizer."""
    wrapper, built = build(schedulers, **kwargs)
    seen = [options(wrapper)]
    for step in range(1, epochs * STEPS + 1):
        wrapper.optimizer.step()
        wrapper._global_step += 1
        for scheduler in built:
            if not scheduler.by_epoch or step % STEPS == 0:
                scheduler.step()
        seen.append(options(wrapper))
    return seen


@pytest.mark.parametrize('schedulers, more', [
    ([WARM_UP, COSINE], {}),
    ([dict(type='MultiStepLR', milestones=[2, 5], gamma=0.1)], {}),
    ([dict(type='StepLR', step_size=3), dict(type='LinearLR', start_factor=0.5, end=7,
                                             by_epoch=False)], {}),
    ([dict(type='PolyLR', power=0.9, eta_min=0.01, end=80, by_epoch=False)], {}),
    ([dict(type='ExponentialLR', gamma=0.7)], {}),
    ([dict(type='OneCycleLR', eta_max=0.5, total_steps=80, by_epoch=False)],
     dict(optimizer='SGD', momentum=0.9)),
    ([dict(type='CosineRestartLR', periods=[30, 50], restart_weights=[1, 0.5], eta_min=0.,
           by_epoch=False)], {}),
    ([WARM_UP, COSINE, dict(type='CosineAnnealingMomentum', T_max=8, eta_min=0.8, end=8)], {}),
    ([dict(type='LinearMomentum', start_factor=0.5, end=40, by_epoch=False)],
     dict(optimizer='SGD', momentum=0.9)),
    ([dict(type='ConstantLR', factor=0.3, end=3)], {}),
    ([WARM_UP, dict(type='mmpretrain.CycleCosineLR', eta_min=0.001, begin=2, end=8, cooldown=2,
                    convert_to_iter_based=True)], {}),
])
def test_any_scheduler_gives_the_recipes_value_at_the_recipes_moment(schedulers, more):
    expected = played(schedulers, 8, **more)
    wrapper, built = build(schedulers, **more)
    pace = Pace(wrapper, built, STEPS)
    assert options(wrapper) == expected[0]
    for step in (0, 1, 2, 9, 10, 11, 20, 25, 50, 79, 80):
        pace.set(step / STEPS)
        assert options(wrapper) == expected[step], step


def test_values_between_two_steps_by_hand():
    wrapper, built = build([WARM_UP, COSINE])
    pace = Pace(wrapper, built, STEPS)
    # The warm-up rises from 0.1 to 1 in the 19 steps of two epochs but one.
    pace.set(0.55)
    assert wrapper.param_groups[0]['lr'] == pytest.approx(0.5 * (0.1 + 0.9 * 5.5 / 19))
    assert wrapper.param_groups[1]['lr'] == pytest.approx(0.1 * (0.1 + 0.9 * 5.5 / 19))
    # The cosine falls over 60 steps from its first value; a straight line joins two steps.
    low, high = (0.001 + 0.499 * (1 + cos(pi * step / 60)) / 2 for step in (30, 31))
    pace.set(5.025)
    assert wrapper.param_groups[0]['lr'] == pytest.approx(0.75 * low + 0.25 * high)


def test_a_moment_is_set_alike_from_any_moment_before():
    ways = []
    for moments in ([3.137], [i / 97 for i in range(305)] + [3.137]):
        wrapper, built = build([WARM_UP, COSINE])
        pace = Pace(wrapper, built, STEPS)
        for moment in moments:
            pace.set(moment)
        ways.append(options(wrapper))
    assert ways[0] == ways[1]


def test_a_scheduler_that_waits_for_validations_is_refused():
    wrapper, built = build([dict(type='ReduceOnPlateauLR', monitor='loss', rule='less')])
    with pytest.raises(ValueError, match='ReduceOnPlateauLR of param_scheduler waits for valid'):
        Pace(wrapper, built, STEPS)
