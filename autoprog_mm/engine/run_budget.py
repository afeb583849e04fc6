# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What a run may cost: what its subnets cost, and who follows its course."""
import logging
from dataclasses import asdict
from typing import Dict, List, Optional, Sequence

from mmengine.logging import print_log
from mmpretrain.engine.hooks import PreciseBNHook, SwitchRecipeHook, WarmupParamHook

from ..growth.budget import check_budget
from ..growth.course import Course
from ..growth.schedule import Stage
from ..growth.scoring import planned_subnets
from ..growth.search import OneShotSearch
from ..growth.subnet import Subnet
from ..planning.outlook import LARGE_SEARCH_SHARE, describe_course, look_ahead
from ..utils.errors import UserError
from .loops import ResumableTrainLoop
from .pace import Pace
from .rates import foretell_stage_rates
from .run_parts import RunParts
from .run_settings import describe_differences
from .stage_inputs import StageInputs
from .step_times import time_training_steps

_LEAST_SPEED_UP = 1.1  # a run that saves less warns
# Hooks of mmpretrain that count epochs of the run, by what.
_COUNTING = {SwitchRecipeHook: 'action_epoch', WarmupParamHook: 'warmup_epochs',
             PreciseBNHook: 'interval'}


class RunBudget:
    """Has a run cost what was promised, and its recipe follow what is spent.

    Args:
        speedup (float | None): See :class:`AutoProgHook`.
        stage_shares (Sequence[float] | None): See :class:`AutoProgHook`.
        budget (str): See :class:`AutoProgHook`.
        num_stages (int): Stages of the schedule.

    Raises:
        UserError: If these can't make a budget.
    """

    def __init__(self, speedup: Optional[float], stage_shares: Optional[Sequence[float]],
                 budget: str, num_stages: int) -> None:
        check_budget(speedup, stage_shares, budget, num_stages)
        self.speedup = speedup
        self.stage_shares = stage_shares
        self.of = budget
        self.course: Optional[Course] = None  # until a run trains
        self.seconds: Optional[Dict[Subnet, float]] = None  # of steps, if they were timed
        self._pace: Optional[Pace] = None

    def take_over(self, runner) -> None:
        """Take over the schedulers, before a resume reads states that they never had.

        Args:
            runner (Runner): One that is about to train, in ``before_run``.
        """
        if self.speedup is not None:
            self._pace = Pace(runner.optim_wrapper, runner.param_schedulers or [],
                              len(runner.train_dataloader))
            runner.param_schedulers = []

    def check(self, state: dict) -> None:
        """Raise a UserError if a run to resume had another budget or recipe.

        Args:
            state (dict): Of :meth:`state_dict`.
        """
        there, here = state['settings'], self._settings()
        if there != here:
            raise UserError(
                'The checkpoint was made with another budget of AutoProgHook: '
                f'{describe_differences(there, here)}. Set the same to resume, or use load_from '
                'without resume to start from its weights.')
        if self._pace is not None:
            self._pace.check(state['pace'])

    def begin(self, runner, parts: RunParts, inputs: StageInputs, stages: List[Stage],
              search: Optional[OneShotSearch], state: Optional[dict]) -> None:
        """Make the course, and have the training loop follow it.

        Args:
            runner (Runner): One that is about to train.
            parts (RunParts): Its parts.
            inputs (StageInputs): Its samples.
            stages (list[Stage]): Its schedule, which gets other epochs in place.
            search (OneShotSearch | None): Its search.
            state (dict | None): What a checkpoint keeps of the run, on resume:
                what was measured is not measured again.

        Raises:
            UserError: For a training loop that can't follow, too small a
                budget, or a state of other stages.
        """
        loop, steps = runner.train_loop, len(runner.train_dataloader)
        self._steps_per_epoch = steps
        if self.speedup is None:
            if search is not None and search.rule == 'compute':
                raise UserError(
                    "search.rule='compute' compares what the rest of a budget buys, and needs "
                    "speedup of AutoProgHook. Set it, or search.rule='trend'.")
            self.course = Course(stages, runner.max_epochs, steps)
            self._announce(runner, parts, search)
            return
        if not isinstance(loop, ResumableTrainLoop):
            raise UserError(
                f'speedup of AutoProgHook changes the number of epochs, and needs train_cfg.type='
                f"'ResumableTrainLoop', but train_cfg builds {type(loop).__name__}.")
        if len(loop.dynamic_milestones) > 1:
            raise UserError(
                'train_cfg.dynamic_intervals counts epochs of a run, which speedup of '
                'AutoProgHook changes. Use val_interval, which counts those of the recipe, or '
                'speedup=None.')
        for hook in runner.hooks:
            for kind, option in _COUNTING.items():
                if isinstance(hook, kind):
                    raise UserError(
                        f'{type(hook).__name__} of custom_hooks counts epochs of a run ({option}), '
                        'which speedup of AutoProgHook changes. Leave it out, or use speedup=None.')
        subnets = planned_subnets(stages, search is not None)
        costs = {Subnet(*subnet): cost for *subnet, cost in state['course']['costs']} if state \
            else self._measure(runner, parts, inputs, sorted(subnets, key=parts.backbone.flops))
        if not subnets <= costs.keys():
            raise UserError(
                'The checkpoint was made with another schedule or search: '
                f'{", ".join(map(str, sorted(subnets - costs.keys(), key=str)))} (depth x pixels) '
                'may run here, and could not there. Resume with the same num_stages, '
                'initial_scale and search of AutoProgHook.')
        self.course = Course(
            stages, runner.max_epochs, steps, self.speedup, self.stage_shares, costs, search)
        loop.course = self.course
        if state is None or search is None:  # or decisions have changed the plan since
            self._announce(runner, parts, search)

    def begin_epoch(self, runner) -> None:
        """Have all follow the course as it is now, for decisions change it.

        Args:
            runner (Runner): One that is about to train an epoch.
        """
        self.move(runner.iter)
        if self.speedup is not None:  # mmengine has told components of the recipe's
            runner.message_hub.update_info('max_epochs', runner.max_epochs)
            runner.message_hub.update_info('max_iters', runner.max_iters)

    def move(self, steps: int) -> None:
        """Set the learning rate and momentum that are due after so many steps of the run."""
        if self._pace is not None:
            self._pace.set(self.course.timeline.recipe_epoch(steps / self._steps_per_epoch))

    def describe(self, steps: int) -> Optional[dict]:
        """The record's ``budget`` after so many steps of the run; None without ``speedup``."""
        if self.speedup is None:
            return None
        done = self.course.timeline.recipe_epoch(steps / self._steps_per_epoch)
        return dict(
            speedup=self.speedup, of=self.of, epochs=self.course.max_epochs,
            recipe_epochs=done, spent=done / self.course.epochs,
            costs=[dict(asdict(subnet), cost=cost) for subnet, cost in self.course.costs.items()])

    def state_dict(self) -> dict:
        """What a checkpoint keeps, in plain types."""
        return dict(self.course.state_dict(), settings=self._settings(),
                    pace=self._pace and self._pace.recipe)

    def load_state_dict(self, state: dict) -> None:
        """Go on from a checkpoint's :meth:`state_dict`."""
        self.course.load_state_dict(state)

    def _settings(self) -> dict:
        if self.speedup is None:
            return dict(speedup=None)
        shares = None if self.stage_shares is None else list(self.stage_shares)
        return dict(speedup=self.speedup, stage_shares=shares, budget=self.of)

    def _announce(self, runner, parts: RunParts, search: Optional[OneShotSearch]) -> None:
        """Say what the run will do, and warn of what saves little."""
        course, flops = self.course, parts.backbone.flops
        if len(course.stages) == 1 and self.speedup is None:
            return  # the recipe as it is
        outlook = look_ahead(course, self._steps_per_epoch, flops, search)
        print_log('\n'.join(describe_course(
            course, self.of, flops, outlook, foretell_stage_rates(runner, course))), 'current')
        if len(course.stages) == 1:
            return
        if outlook.speed_up.high < _LEAST_SPEED_UP:
            way_out = 'Lower initial_scale of AutoProgHook, or set its speedup.' \
                if self.speedup is None else 'Raise speedup of AutoProgHook.'
            print_log(
                f'By multiply-adds this run is {outlook.speed_up.high:.2f} times as fast as the '
                f'full network at most. {way_out}', logger='current', level=logging.WARNING)
        if outlook.search_share > LARGE_SEARCH_SHARE:
            print_log(
                f"The searches' own work, scoring and timing, is up to "
                f'{outlook.search_share:.1%} of the run. Lower search.eval_batches or '
                'search.evals of AutoProgHook.',
                logger='current', level=logging.WARNING)

    def _measure(self, runner, parts: RunParts, inputs: StageInputs,
                 subnets: Sequence[Subnet]) -> Dict[Subnet, float]:
        """Cost of a step of each, with that of the full network as 1; the same on all ranks."""
        full = parts.backbone.full_subnet
        if self.of == 'flops':
            whole = parts.backbone.flops(full)
            return {subnet: parts.backbone.flops(subnet) / whole for subnet in subnets}
        limit = next((hook.max_batch_per_step for hook in runner.hooks
                      if hasattr(hook, 'max_batch_per_step')), None)
        self.seconds = time_training_steps(parts, inputs, subnets, limit)
        # Two digits are what a measurement is worth.
        return {subnet: float(f'{seconds / self.seconds[full]:.2g}')
                for subnet, seconds in self.seconds.items()}
