# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The recipe's learning rate and momentum, over consumed compute."""
import math
from copy import deepcopy
from types import SimpleNamespace
from typing import Any, List, Sequence

from ..utils.errors import UserError
from ..utils.plain_config import plain_config
from .run_settings import describe_differences


class Pace:
    """Sets what the recipe's schedulers would, at any moment of the recipe.

    The schedulers run on copies of the optimizer's groups, ahead to the steps
    around the moment. Between two steps, numbers are interpolated. So what it
    sets is a function of the moment only.

    Args:
        optim_wrapper (OptimWrapper): What is set.
        schedulers (Sequence[_ParamScheduler]): The recipe's, as built, before
            any step.
        steps_per_epoch (int): Steps of an epoch of the recipe.

    Raises:
        UserError: If a scheduler waits for the results of validations.
    """

    def __init__(self, optim_wrapper, schedulers: Sequence, steps_per_epoch: int) -> None:
        for scheduler in schedulers:
            if getattr(scheduler, 'need_val_args', False):
                raise UserError(
                    f'speedup of AutoProgHook moves schedulers to where their values are due, but '
                    f'{type(scheduler).__name__} of param_scheduler waits for validations. Use '
                    'another scheduler, or speedup=None.')
        self._optim_wrapper = optim_wrapper  # a resume replaces its groups
        # Many groups are alike, and are scheduled alike.
        options, kinds = _options(optim_wrapper.param_groups), []
        for group in options:
            if group not in kinds:
                kinds.append(group)
        self._kinds = [kinds.index(group) for group in options]
        # All that a scheduler wants of an optimizer.
        self._optimizer = SimpleNamespace(
            param_groups=[dict(group) for group in kinds], step=_counted, _global_step=0)
        self._schedulers = deepcopy(list(schedulers), {id(optim_wrapper): self._optimizer})
        for scheduler in self._schedulers:
            scheduler.base_values = [scheduler.base_values[options.index(kind)] for kind in kinds]
        self._keys = {s.param_name for s in schedulers} | {'betas'}  # what they set
        # What the values are a function of, in plain types.
        self.recipe = dict(
            groups=[plain_config({key: group[key] for key in group if key in self._keys})
                    for group in kinds], steps_per_epoch=steps_per_epoch,
            param_scheduler=[dict(plain_config(vars(scheduler), ('optimizer', 'verbose')),
                                  type=type(scheduler).__name__) for scheduler in schedulers])
        self._steps_per_epoch = steps_per_epoch
        self._step = 0
        self._before = self._after = kinds

    def check(self, recipe: dict) -> None:
        """Raise a UserError if a run to resume had another :attr:`recipe`."""
        if recipe != self.recipe:
            raise UserError(
                'The checkpoint was made with another optimizer or param_scheduler: '
                f'{describe_differences(recipe, self.recipe)}. With speedup, values come from '
                'these at each step. Set the same to resume, or use load_from without resume to '
                'start from its weights.')

    def set(self, epoch: float) -> None:
        """Set the values of a moment of the recipe; moments ascend.

        Args:
            epoch (float): Epochs of the recipe that are over; may be a fraction.
        """
        values = self.values(epoch)
        for group, kind in zip(self._optim_wrapper.param_groups, self._kinds):
            group.update(values[kind])

    def values(self, epoch: float) -> List[dict]:
        """What :meth:`set` would set in each kind of group.

        Args:
            epoch (float): See :meth:`set`.
        """
        # Round-off must not keep a moment off its step.
        moment = round(epoch * self._steps_per_epoch, 6)
        step = math.ceil(moment)
        if self._step < step:
            self._advance(step - 1)
            self._before = _options(self._optimizer.param_groups)
            self._advance(step)
            self._after = _options(self._optimizer.param_groups)
        part = moment - (self._step - 1)
        return [{key: _between(before[key], after[key], part) for key in self._keys & after.keys()}
                for before, after in zip(self._before, self._after)]

    def _advance(self, step: int) -> None:
        """To a step, as ``ParamSchedulerHook`` does."""
        by_epoch = [s for s in self._schedulers if s.by_epoch]
        by_step = [s for s in self._schedulers if not s.by_epoch]
        while self._step < step:
            self._step += 1
            for scheduler in by_step:
                scheduler.step()
            if self._step % self._steps_per_epoch == 0:
                for scheduler in by_epoch:
                    scheduler.step()


def _options(groups: Sequence[dict]) -> List[dict]:
    return [{key: value for key, value in group.items() if key != 'params'} for group in groups]


def _counted() -> None:
    """A step of an optimizer that counts, as schedulers expect."""


_counted._with_counter = True


def _between(before: Any, after: Any, part: float) -> Any:
    if before == after or part == 1:
        return after
    if isinstance(before, tuple):  # betas
        return tuple(_between(a, b, part) for a, b in zip(before, after))
    return before + part * (after - before)
