# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The state of a run of stages in a checkpoint: out, in, and what must match."""
import logging
from dataclasses import astuple
from itertools import chain, repeat
from typing import List, Optional, Sequence

from mmengine.hooks import EarlyStoppingHook
from mmengine.logging import print_log

from ..growth.schedule import Stage
from ..growth.search import OneShotSearch
from ..growth.subnet import Subnet
from ..models.weights import SAVED_IN_MODEL, STATE
from ..utils.errors import UserError
from ..utils.modules import unwrap
from .checkpoint import differing_parameters
from .loops import recipe_validations, validates
from .optimizers import MoGrowMixin
from .run_budget import RunBudget
from .run_settings import check_settings

# Version of the hook's checkpoint state.
SCHEMA = 4


def schedule_rows(stages: Sequence[Stage]) -> List[List[int]]:
    """Begin epoch, end epoch, depth and resolution of each stage."""
    return [[s.begin_epoch, s.end_epoch, *astuple(s.subnet)] for s in stages]


def pack_state(hook) -> dict:
    """What a checkpoint keeps of a run of stages, in plain types.

    Args:
        hook (AutoProgHook): The run's conductor.
    """
    return dict(
        schema=SCHEMA,
        model=type(hook.parts.backbone).__name__,
        stages=hook.rows,
        regularization=[dict(stage.regularization) for stage in hook.stages],
        steps_per_epoch=hook.inputs.num_steps,
        subnet=astuple(hook.parts.backbone.awake_subnet),
        search=None if hook.search is None else hook.search.state_dict(),
        choice=hook.choice and astuple(hook.choice),
        index=hook.stage_index,
        course=hook.budget.state_dict(),
        settings=hook.settings,
        sampler_seed=hook.inputs.sampler_seed,
        ledger=hook.record.ledger.state_dict())


def restore(hook, runner, state: dict) -> None:
    """Have a run go on from where it was saved.

    Args:
        hook (AutoProgHook): The run's conductor, set up.
        runner (Runner): Its runner.
        state (dict): From :func:`pack_state`.

    Raises:
        UserError: If the state is of a run with other stages.
    """
    check_state(state, hook.rows, hook.stages, hook.inputs.num_steps, hook.search)
    hook.inputs.sampler_seed = state['sampler_seed']
    hook.stage_index = state['index']
    hook.budget.load_state_dict(state['course'])
    hook.choice = Subnet(*state['choice']) if state['choice'] else None
    if hook.search is not None:
        hook.search.load_state_dict(state['search'])
    hook.record.ledger.load_state_dict(state['ledger'])
    hook.parts.optim_wrapper.shrink(hook.parts.backbone, Subnet(*state['subnet']))
    recall_validations(runner)


def find_state(checkpoint: dict, runner, budget: RunBudget) -> dict:
    """The state to resume from.

    Args:
        checkpoint (dict): As loaded.
        runner (Runner): The run that is to go on from it.
        budget (RunBudget): Its budget.

    Returns:
        dict: From :func:`pack_state`.

    Raises:
        UserError: If the checkpoint has none, or is of another run.
    """
    expected = ['optimizer'] + bool(runner.param_schedulers) * ['param_schedulers']
    missing = [key for key in expected if key not in checkpoint]
    if missing:
        raise UserError(
            f'The checkpoint to resume from has no {" and no ".join(missing)}: best '
            'checkpoints are saved without. Resume from an epoch_*.pth, or use load_from '
            'without resume to start from its weights.')
    state = checkpoint.get(STATE)
    if state is None:
        raise UserError(
            'The checkpoint to resume from was saved without AutoProgHook, so what was awake '
            'is not known. Use load_from without resume to start from its weights.')
    if state['schema'] == 3:  # of before there were budgets
        end = state['stages'][-1][1]
        state = dict(state, schema=SCHEMA, course=dict(
            settings=dict(speedup=None), pace=None, costs=[], spent=[],
            spendings=[[0, end, 1., end]], epochs=[row[:2] for row in state['stages']]))
    if state['schema'] != SCHEMA:
        raise UserError(
            f'The checkpoint has AutoProg state of schema {state["schema"]}; this version '
            f'reads schema {SCHEMA}. Resume with the version that it was made with, or '
            'use load_from without resume to start from its weights.')
    if 'max_lag' in (state['search'] or {}).get('settings', ()):
        raise UserError(
            'The checkpoint is of an older search, which compared other subnets by other losses, '
            'and cannot go on by these. Resume with the version that it was made with, or use '
            'load_from without resume to start from its weights.')
    own, weights = unwrap(runner.model).state_dict(), checkpoint['state_dict']
    for each in (own, weights):  # of which the state knows more
        each.pop(SAVED_IN_MODEL, None)
    # mmengine would only warn, and train on with what fits.
    differing = differing_parameters(own, weights)
    if differing is not None:
        raise UserError(
            f'The checkpoint is of another model, a {state["model"]}: {differing}. Resume with '
            'the model that it was made with.')
    budget.check(state['course'])
    # Older ones have none, and another wrapper is refused when the run begins.
    if 'settings' in state and isinstance(runner.optim_wrapper, MoGrowMixin):
        check_settings(checkpoint, state['settings'], runner)
    return state


def check_state(state: dict, rows: List[List[int]], stages: Sequence[Stage],
                steps_per_epoch: int, search: Optional[OneShotSearch]) -> None:
    """Raise a UserError unless a state is of a run like this one.

    Args:
        state (dict): From :func:`find_state`.
        rows (list[list[int]]): Of this run's schedule, before searches.
        stages (Sequence[Stage]): Its stages.
        steps_per_epoch (int): Its training steps of an epoch.
        search (OneShotSearch | None): Its search.
    """
    if state['stages'] != rows:
        raise UserError(
            'The checkpoint was made with another schedule. Stages as [begin epoch, end '
            f'epoch, depth, resolution]: {state["stages"]} there, {rows} here. Resume with '
            'the same num_stages, initial_scale, speedup, max_epochs and model.')
    mine = [dict(stage.regularization) for stage in stages]
    if state.get('regularization', mine) != mine:
        raise UserError(
            f'The checkpoint was made with other strengths of regularization in its stages: '
            f'{state["regularization"]} there, {mine} here. Resume with the same regularization of '
            'AutoProgHook.')
    if (state['search'] is None) != (search is None):
        raise UserError(
            f'The checkpoint was made {"without" if search else "with"} a search and '
            f'AutoProgHook now has {"one" if search else "search=None"}; set the same.')
    if state['steps_per_epoch'] != steps_per_epoch:
        raise UserError(
            f'The checkpoint was made with {state["steps_per_epoch"]} steps an epoch, but now '
            f'there are {steps_per_epoch}. Resume with the same data, batch size and '
            'number of processes.')


def recall_validations(runner) -> None:
    """Tell ``EarlyStoppingHook`` of the validations before a resume, which it does not save.

    Args:
        runner (Runner): One that has read a checkpoint.
    """
    loop = runner.train_loop
    counts = [recipe_validations(loop, epoch) for epoch in range(1, runner.epoch + 1)
              if validates(loop, epoch)] if getattr(loop, 'course', None) else []
    for hook in runner.hooks:
        scores = runner.message_hub.log_scalars.get(f'val/{getattr(hook, "monitor", None)}')
        if not isinstance(hook, EarlyStoppingHook) or scores is None:
            continue
        for score, count in zip(scores.data[0].tolist(), chain(counts, repeat(1))):
            hook.wait_count += count - 1
            stops, reason = hook._check_stop_condition(score)
            if stops:
                loop.stop_training = True
                print_log(
                    f'The run that is resumed was stopped early, and is stopped again: {reason} '
                    'Set other options of EarlyStoppingHook to go on.', logger='current',
                    level=logging.WARNING)
                break
