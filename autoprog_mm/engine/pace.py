# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The recipe's learning rate and momentum, over consumed compute."""
from copy import deepcopy
from types import SimpleNamespace
from typing import Any, List, Sequence

from ..utils.errors import UserError


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
        # All that a scheduler wants of an optimizer.
        self._optimizer = SimpleNamespace(
            param_groups=self._options(optim_wrapper.param_groups), step=_counted, _global_step=0)
        self._schedulers = deepcopy(list(schedulers), {id(optim_wrapper): self._optimizer})
        self._steps_per_epoch = steps_per_epoch
        self._step = 0
        self._before = self._after = self._options(self._optimizer.param_groups)

    def set(self, epoch: float) -> None:
        """Set the values of a moment of the recipe; moments ascend.

        Args:
            epoch (float): Epochs of the recipe that are over; may be a fraction.
        """
        # Round-off must not keep a moment off its step.
        moment = round(epoch * self._steps_per_epoch, 6)
        while self._step < moment:
            self._advance()
        part = moment - (self._step - 1)
        for group, before, after in zip(
                self._optim_wrapper.param_groups, self._before, self._after):
            for key in after:
                group[key] = _between(before[key], after[key], part)

    def _advance(self) -> None:
        """To the next step, as ``ParamSchedulerHook`` does."""
        self._step += 1
        for by_epoch in (False, True):
            if by_epoch and self._step % self._steps_per_epoch:
                continue
            for scheduler in self._schedulers:
                if scheduler.by_epoch is by_epoch:
                    scheduler.step()
        self._before, self._after = self._after, self._options(self._optimizer.param_groups)

    @staticmethod
    def _options(groups: Sequence[dict]) -> List[dict]:
        return [{key: value for key, value in group.items() if key != 'params'}
                for group in groups]


def _counted() -> None:
    """A step of an optimizer that counts, as schedulers expect."""


_counted._with_counter = True


def _between(before: Any, after: Any, part: float) -> Any:
    if before == after or part == 1:
        return after
    if isinstance(before, tuple):  # betas
        return tuple(_between(a, b, part) for a, b in zip(before, after))
    return before + part * (after - before)
