# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Shipped configs keep what `speedup` promises in multiply-adds, without data and without a run."""
import random
from functools import cache

import pytest
import torch
from mmpretrain.registry import MODELS, TASK_UTILS

from autoprog_mm.growth import Subnet, build_schedule, stage_candidates
from autoprog_mm.growth.course import Course
from autoprog_mm.utils import UserError
from tests.test_configs import CONFIGS, read

GROWING = [config for config in CONFIGS if not config.startswith('baseline')]
STEPS = 1251  # of an epoch of ImageNet at the recipe's batch


@cache
def parts_of(config, folder, jpeg_root):
    """The hook of a config, its stages, and the cost of whatever may run; nothing has memory."""
    cfg = read(config, folder, jpeg_root)
    with torch.device('meta'):
        backbone = MODELS.build(cfg.model).backbone
    hook, full = cfg.custom_hooks[0], backbone.full_subnet
    stages = build_schedule(
        hook.num_stages, cfg.train_cfg.max_epochs, full, hook.initial_scale,
        resolution_divisor=hook.get('resolution_divisor', 32))
    backbone.min_depth = stages[0].subnet.depth
    depths, sizes = ({getattr(stage.subnet, name) for stage in stages}
                     for name in ('depth', 'resolution'))
    return hook, stages, {
        subnet: backbone.flops(subnet) / backbone.flops(full)
        for subnet in (Subnet(depth, size) for depth in depths for size in sizes)}


def plan(config, folder, jpeg_root, speedup, searches=False):
    hook, stages, costs = parts_of(config, folder, jpeg_root)
    return Course(list(stages), stages[-1].end_epoch, STEPS, speedup, costs=costs,
                  search=TASK_UTILS.build(hook.search) if searches else None)


@pytest.mark.parametrize('speedup', [2, 3])
@pytest.mark.parametrize('config', GROWING)
def test_the_promise_is_kept_to_three_percent(config, speedup, jpeg_root):
    course = plan(config, jpeg_root, jpeg_root, speedup)
    spent = sum((stage.end_epoch - stage.begin_epoch) * course.costs[stage.subnet]
                for stage in course.stages)
    assert course.epochs / spent == pytest.approx(speedup, rel=0.03)
    # By the rule, to half an epoch of the cheapest stage.
    assert abs(spent - course.epochs / speedup) <= course.costs[course.stages[0].subnet] / 2 + 1e-9


@pytest.mark.parametrize('speedup', [2, 3])
@pytest.mark.parametrize('config', [config for config in GROWING if 'autoprog' in config])
def test_with_searches_it_is_kept_to_half_an_epoch_of_the_last_choice(config, speedup, jpeg_root):
    """Whatever they choose; or refused, by a sentence that names what works."""
    rng = random.Random(0)
    for _ in range(5):
        try:
            course = plan(config, jpeg_root, jpeg_root, speedup, searches=True)
        except UserError as error:
            assert 'The largest speedup that works is' in str(error) or \
                'Lower search.epochs, search.eval_batches or num_stages' in str(error)
            return
        search, spent, current = course._search, 0., course.stages[0].subnet
        for index in range(len(course.stages)):
            candidates = stage_candidates(course.stages, index, current)
            course.begin_stage(index, candidates)
            epochs = -search.epochs if len(candidates) > 1 else 0
            if epochs:
                spent += course.search_cost(candidates)
                before = current
                current = rng.choice(candidates)
                course.decide(index, current)
            else:
                before, current = current, candidates[0]
            stage = course.stages[index]
            spent += (stage.end_epoch - stage.begin_epoch + epochs) * course.costs[current]
        assert abs(spent - course.epochs / speedup) <= course.costs[before] / 2 + 1e-9
