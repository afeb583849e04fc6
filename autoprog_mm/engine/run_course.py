# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The course of a run that trains: what its subnets cost, and who follows it."""
from typing import Dict, List, Optional, Sequence

from mmengine.dist import broadcast_object_list

from ..datasets.seeded import batch_size_of
from ..growth.course import Course
from ..growth.probe import probe_batch, probe_steps
from ..growth.schedule import Stage
from ..growth.scoring import stage_choices
from ..growth.search import OneShotSearch
from ..growth.subnet import Subnet
from ..utils.errors import UserError
from .loops import ResumableTrainLoop
from .run_parts import RunParts

_ROUNDS = 5  # of steps that are timed


def begin_course(runner, parts: RunParts, stages: List[Stage], search: Optional[OneShotSearch],
                 speedup: Optional[float], shares: Optional[Sequence[float]], budget: str,
                 state: Optional[dict]) -> Course:
    """Make the course of a run, and have its training loop follow it.

    Args:
        runner (Runner): One that is about to train.
        parts (RunParts): Its parts.
        stages (list[Stage]): Its schedule, which gets other epochs in place.
        search (OneShotSearch | None): Its search.
        speedup (float | None): See :class:`AutoProgHook`.
        shares (Sequence[float] | None): See :class:`AutoProgHook`.
        budget (str): See :class:`AutoProgHook`.
        state (dict | None): Of :meth:`Course.state_dict`, on resume: what was
            measured is not measured again.

    Raises:
        UserError: For a training loop that can't follow, or too small a budget.
    """
    loop, steps = runner.train_loop, len(runner.train_dataloader)
    if speedup is None:
        return Course(stages, runner.max_epochs, steps)
    if not isinstance(loop, ResumableTrainLoop):
        raise UserError(
            f'speedup of AutoProgHook changes the number of epochs, and needs train_cfg.type='
            f"'ResumableTrainLoop', but train_cfg builds {type(loop).__name__}.")
    if len(loop.dynamic_milestones) > 1:
        raise UserError(
            'train_cfg.dynamic_intervals counts epochs of a run, which speedup of AutoProgHook '
            'changes. Use val_interval, which counts those of the recipe, or speedup=None.')
    subnets = {stage.subnet for stage in stages} | {
        subnet for choices in stage_choices(stages, search and search.bounds) for subnet in choices}
    costs = {Subnet(*subnet): cost for *subnet, cost in state['costs']} \
        if state else _costs(runner, parts, sorted(subnets, key=parts.backbone.flops), budget)
    course = Course(stages, runner.max_epochs, steps, speedup, shares, costs, search)
    loop.course = course
    return course


def _costs(runner, parts: RunParts, subnets: Sequence[Subnet], budget: str) -> Dict[Subnet, float]:
    """Cost of a step of each, with that of the full network, the last, as 1."""
    if budget == 'flops':
        seconds = {subnet: parts.backbone.flops(subnet) for subnet in subnets}
    else:
        # All ranks time, since a model may synchronise in its forward pass.
        batch = probe_batch(parts.model, batch_size_of(runner.train_dataloader))
        seconds = probe_steps(parts.model, parts.optim_wrapper, subnets, batch, _ROUNDS)
    full = seconds[parts.backbone.full_subnet]
    # Two digits are what a measurement is worth.
    costs = [{subnet: float(f'{cost / full:.2g}') if budget == 'time' else cost / full
              for subnet, cost in seconds.items()}]
    broadcast_object_list(costs)
    return costs[0]
