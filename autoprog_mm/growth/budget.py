# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Time counted in compute: how a run spends a share of what its recipe costs.

All costs here are in epochs of the full network.
"""
import math
from bisect import bisect_right
from itertools import accumulate
from typing import List, NamedTuple, Optional, Sequence, Tuple

from ..utils.checks import check_number
from ..utils.errors import UserError

BUDGETS = ('time', 'flops')


def check_budget(speedup: Optional[float], stage_shares: Optional[Sequence[float]], budget: str,
                 num_stages: int) -> None:
    """Raise a UserError unless these can make a budget, whatever the network.

    Args:
        speedup (float | None): At least 1.
        stage_shares (Sequence[float] | None): Weight of each stage.
        budget (str): One of :data:`BUDGETS`.
        num_stages (int): Stages of the schedule.
    """
    if budget not in BUDGETS:
        raise UserError(f'budget must be one of {BUDGETS}, but got {budget!r}.')
    if speedup is None:
        if stage_shares is not None:
            raise UserError(
                f'stage_shares ({stage_shares!r}) divides the budget that speedup sets. Set '
                'speedup of AutoProgHook too, or leave stage_shares out.')
        return
    check_number('speedup', speedup, low=1)
    if stage_shares is None:
        return
    if not isinstance(stage_shares, Sequence) or len(stage_shares) != num_stages:
        raise UserError(
            f'stage_shares must be {num_stages} numbers, one for each of num_stages, but got '
            f'{stage_shares!r}.')
    for i, share in enumerate(stage_shares):
        check_number(f'stage_shares[{i}]', share)
    if not sum(stage_shares):
        raise UserError(f'stage_shares ({stage_shares!r}) must have a positive sum.')


def divide_budget(budget: float, costs: Sequence[float], shares: Sequence[float]) -> List[int]:
    """Whole epochs of each stage, at least one, that together cost ``budget``.

    The last stage is rounded first. What rounding leaves over goes to the
    stages before it, so that the sum is right to half an epoch of the first.

    Args:
        budget (float): What all stages may cost.
        costs (Sequence[float]): Of an epoch of each stage.
        shares (Sequence[float]): Weight of each stage; only ratios matter.

    Returns:
        list[int]: Epochs of each stage.

    Raises:
        UserError: If ``budget`` is too small for an epoch of each.
    """
    if budget < sum(costs) * (1 - 1e-9):
        raise UserError(
            f'a budget of {budget:.4g} epochs of the full network is too small for one epoch of '
            f'each stage, which costs {sum(costs):.4g}.')
    lengths: List[int] = []
    for k in reversed(range(len(costs))):
        before, weight = sum(costs[:k]), sum(shares[:k + 1])
        mine = budget * (shares[k] / weight if weight else 1 / (k + 1))
        # The stages before it need an epoch each.
        most = int((budget - before) / costs[k] + 1e-9) if k else math.inf
        lengths.append(max(1, min(most, int(mine / costs[k] + 0.5))))
        budget -= lengths[-1] * costs[k]
    return lengths[::-1]


class Spending(NamedTuple):
    """Epochs that cost the same each.

    Args:
        begin_epoch (int): The first.
        end_epoch (int): The first after them.
        cost (float): Of one of them.
        recipe (float, optional): Epochs of the recipe that pass meanwhile.
            Defaults to None, until a :class:`Timeline` has said it.
    """

    begin_epoch: int
    end_epoch: int
    cost: float
    recipe: Optional[float] = None

    @property
    def whole_cost(self) -> float:
        """float: Of all of them."""
        return (self.end_epoch - self.begin_epoch) * self.cost


class Timeline:
    """What a run has spent, and how far its recipe has come, at each moment.

    Args:
        spendings (Sequence[Spending]): All epochs of the run, in order. Those
            without ``recipe`` share what the others leave of it, by their
            cost: what is past stays, when the rest is planned anew.
        epochs (int): Epochs of the recipe.
    """

    def __init__(self, spendings: Sequence[Spending], epochs: int) -> None:
        left = epochs - sum(s.recipe for s in spendings if s.recipe is not None)
        cost = sum(s.whole_cost for s in spendings if s.recipe is None)
        self.spendings = [
            s._replace(recipe=left * s.whole_cost / cost) if s.recipe is None else s
            for s in spendings]
        self.epochs = epochs
        self._begins = [s.begin_epoch for s in self.spendings]
        self._spent = [0., *accumulate(s.whole_cost for s in self.spendings)]
        self._recipe = [0., *accumulate(s.recipe for s in self.spendings)]

    @property
    def total(self) -> float:
        """float: What the run costs."""
        return self._spent[-1]

    def spent(self, epoch: float) -> float:
        """What the run has cost after ``epoch`` epochs, which may be a fraction."""
        i, part = self._find(epoch)
        return self._spent[i] + part * self.spendings[i].whole_cost

    def recipe_epoch(self, epoch: float) -> float:
        """The recipe's epoch, a fraction, after ``epoch`` epochs of the run."""
        i, part = self._find(epoch)
        return self._recipe[i] + part * self.spendings[i].recipe

    def _find(self, epoch: float) -> Tuple[int, float]:
        """Index of the spending under way, and its part that is over."""
        i = max(0, bisect_right(self._begins, epoch) - 1)
        begin, end = self.spendings[i][:2]
        return i, (min(epoch, end) - begin) / (end - begin)

    def is_due(self, epoch: int, interval: int, begin: int = 0) -> bool:
        """Whether something that the recipe does every so often is due after ``epoch`` epochs.

        It is due at the end of the epoch in which the recipe's epoch passes
        the moment, and at the end of the run.

        Args:
            epoch (int): Epochs that are done, at least 1.
            interval (int): Epochs of the recipe.
            begin (int): Epoch of the recipe, from 1, before which it is never
                due. Defaults to 0.
        """
        if epoch >= self.spendings[-1].end_epoch:
            return self.epochs >= begin
        return self.dues(epoch, interval, begin) > 0

    def dues(self, epoch: int, interval: int, begin: int = 0) -> int:
        """How often something is due in an epoch, see :meth:`is_due`; at the end maybe never."""
        # From the first multiple on that isn't before `begin`.
        return self.passes(epoch, interval, math.ceil(begin / interval) * interval)

    def passes(self, epoch: int, interval: int, start: int = 0) -> int:
        """How often the recipe comes to ``start`` or whole intervals after it in an epoch.

        Args:
            epoch (int): The epoch, from 1.
            interval (int): Epochs of the recipe.
            start (int): Epoch of the recipe, from 1. Defaults to 0, which no
                epoch comes to.
        """
        before, now = (max(-1, math.floor((self.recipe_epoch(e) - start) / interval + 1e-9))
                       for e in (epoch - 1, epoch))
        return now - before
