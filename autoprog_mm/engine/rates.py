# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The learning rate that a run will have, foretold."""
from typing import List, Optional, Sequence

import torch
from mmengine.dist import get_world_size
from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmpretrain.registry import PARAM_SCHEDULERS

from ..datasets.seeded import batch_size_of
from ..growth.course import Course
from ..utils.errors import UserError
from .pace import Pace

_STEPS = 200  # of an epoch: three digits need no more
_MOST_STEPS = 500_000  # of all, which take seconds


def foretell_rates(runner, epochs: int, moments: Sequence[float]) -> Optional[List[float]]:
    """Base learning rates at moments of the recipe.

    Args:
        runner (Runner): One that is about to train.
        epochs (int): Epochs of the recipe.
        moments (Sequence[float]): Epochs of the recipe that are over, ascending.

    Returns:
        list[float] | None: One a moment; None if they wait for the results of
        validations, or would take long to find out.
    """
    schedulers = runner.cfg.get('param_scheduler') or []
    schedulers = schedulers if isinstance(schedulers, list) else [schedulers]
    if not all(isinstance(scheduler, dict) and 'type' in scheduler for scheduler in schedulers):
        return None
    schedulers = [s for s in schedulers if issubclass(_kind(s), LRSchedulerMixin)]
    steps = len(runner.train_dataloader)
    if all(scheduler.get('by_epoch', True) for scheduler in schedulers):
        steps = min(steps, _STEPS)
    if schedulers and epochs * steps > _MOST_STEPS:
        return None
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=_base_rate(runner))
    built = [PARAM_SCHEDULERS.build(
        {'end': epochs if scheduler.get('by_epoch', True) else epochs * steps, **scheduler},
        default_args=dict(optimizer=optimizer, epoch_length=steps)) for scheduler in schedulers]
    if not built:
        return [optimizer.param_groups[0]['lr']] * len(moments)
    try:
        pace = Pace(optimizer, built, steps)
    except UserError:
        return None
    return [pace.values(moment)[0]['lr'] for moment in moments]


def foretell_stage_rates(runner, course: Course) -> Optional[List[float]]:
    """Base learning rates where stages begin, and at the end of the run.

    Args:
        runner (Runner): One that is about to train.
        course (Course): Its course.

    Returns:
        list[float] | None: See :func:`foretell_rates`.
    """
    ends = [*(stage.begin_epoch for stage in course.stages), course.max_epochs]
    return foretell_rates(runner, course.epochs, list(map(course.timeline.recipe_epoch, ends)))


def _kind(scheduler: dict) -> type:
    kind = scheduler['type']
    return PARAM_SCHEDULERS.get(kind) if isinstance(kind, str) else kind


def _base_rate(runner) -> float:
    """What schedulers begin with, of parameters that have no rate of their own."""
    wrapper = runner.optim_wrapper
    base = wrapper.base_param_settings or wrapper.optimizer.param_groups[0]
    rate = base.get('initial_lr', base['lr'])
    scaling = runner.cfg.get('auto_scale_lr') or {}
    if wrapper.base_param_settings is not None and scaling.get('enable'):
        # mmengine scales the groups only.
        images = batch_size_of(runner.train_dataloader) * get_world_size()
        rate *= images / scaling['base_batch_size']
    return rate
