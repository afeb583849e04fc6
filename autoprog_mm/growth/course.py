# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The epochs of a run, whatever its searches choose."""
import math
from dataclasses import astuple, replace
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from ..utils.errors import UserError
from .budget import Spending, Timeline, divide_budget
from .schedule import Stage
from .scoring import search_passes, stage_candidates, stage_choices
from .subnet import Subnet


class Course:
    """Says how long stages are, and how far the recipe has come at each moment.

    Without ``speedup``, stages have the recipe's epochs as they were built.
    With it, the whole run costs ``epochs / speedup`` epochs of the full
    network. What a search costs is paid from its stage's budget, and the
    subnet that it chooses runs as long as the rest lasts.

    Args:
        stages (list[Stage]): The schedule's rows. Their epochs change in
            place, now and after each decision.
        epochs (int): Epochs of the recipe.
        steps_per_epoch (int): Training steps of an epoch.
        speedup (float, optional): Defaults to None.
        shares (Sequence[float], optional): Weight of each stage in the budget.
            Defaults to None, equal ones.
        costs (dict[Subnet, float], optional): Cost of an epoch of whatever may
            run, in epochs of the full network. Not used without ``speedup``.
        search (OneShotSearch, optional): Only its settings are read. Defaults
            to None.

    Raises:
        UserError: If the budget is too small for the stages, or one of them
            for its search.
    """

    def __init__(self,
                 stages: List[Stage],
                 epochs: int,
                 steps_per_epoch: int,
                 speedup: Optional[float] = None,
                 shares: Optional[Sequence[float]] = None,
                 costs: Optional[Mapping[Subnet, float]] = None,
                 search=None) -> None:
        self.stages = stages
        self.epochs = epochs
        self.speedup = speedup
        self.costs: Dict[Subnet, float] = dict(costs or {})
        self._steps_per_epoch = steps_per_epoch
        self._shares = [1.] * len(stages) if shares is None else list(shares)
        self._search = search
        self._spent: List[Spending] = []  # and what the search under way is going to
        self._least: List[float] = []  # of each stage with its search, whatever is chosen
        if speedup is None:
            self.timeline = Timeline([Spending(0, stages[-1].end_epoch, 1.)], epochs)
            return
        self._check()
        self._plan(0)

    @property
    def budget(self) -> float:
        """float: What the run may cost, in epochs of the full network."""
        return self.epochs / self.speedup

    @property
    def max_epochs(self) -> int:
        """int: Epochs of the run, as far as they are known."""
        return self.stages[-1].end_epoch

    def begin_stage(self, index: int, candidates: Sequence[Subnet]) -> None:
        """A stage begins; what a search in it costs is going to be spent.

        Args:
            index (int): Of the stage.
            candidates (Sequence[Subnet]): What its search compares, or what it
                runs.
        """
        if self.speedup is None or self._search is None:
            return  # it is planned already
        if len(candidates) == 1:
            self._plan(index, candidates[0])
            return
        begin = self.stages[index].begin_epoch
        self._settle(index)
        self._spent.append(Spending(begin, begin + self._search.epochs,
                                    self.search_cost(candidates) / self._search.epochs))
        self._plan(index)

    def decide(self, index: int, choice: Subnet) -> None:
        """A search has decided: the rest of its stage's budget is for ``choice``.

        Args:
            index (int): Of its stage.
            choice (Subnet): What runs to the stage's end.
        """
        if self.speedup is not None:
            self._plan(index, choice)

    def buys(self, index: int, candidates: Sequence[Subnet]) -> Optional[List[float]]:
        """Epochs of each candidate that a stage's budget, less its search, buys.

        Args:
            index (int): Of the stage, whose search is under way.
            candidates (Sequence[Subnet]): What its search compares.

        Returns:
            list[float] | None: At least 1 each; None without a ``speedup``.
        """
        if self.speedup is None:
            return None
        spent, _, shares = self._left(index)
        rest = (self.budget - spent) * shares[0] / (sum(shares) or 1.)
        return [max(1., rest / self.costs[candidate]) for candidate in candidates]

    def search_cost(self, candidates: Sequence[Subnet]) -> float:
        """Cost of a search, with its own work, in epochs of the full network."""
        costs = [self.costs[candidate] for candidate in candidates]
        training = self._search.epochs * sum(costs) / len(costs)
        passes = search_passes(self._search, self._steps_per_epoch)
        return training + passes * sum(costs) / self._steps_per_epoch

    def state_dict(self) -> dict:
        """What a checkpoint keeps, in plain types."""
        return dict(
            costs=[[*astuple(subnet), cost] for subnet, cost in self.costs.items()],
            spent=[list(spending) for spending in self._spent],
            spendings=[list(spending) for spending in self.timeline.spendings],
            epochs=[[stage.begin_epoch, stage.end_epoch] for stage in self.stages])

    def load_state_dict(self, state: dict) -> None:
        """Go on from a checkpoint's :meth:`state_dict`, of the same stages and costs."""
        self._spent = [Spending(*spending) for spending in state['spent']]
        self.timeline = Timeline([Spending(*s) for s in state['spendings']], self.epochs)
        self.stages[:] = [
            replace(stage, begin_epoch=begin, end_epoch=end)
            for stage, (begin, end) in zip(self.stages, state['epochs'])]

    # ---------------------------------------------------------------- private

    def _settle(self, index: int) -> None:
        """Enter the stages before ``index`` as spent."""
        if index == 0:
            return
        done = self._spent[-1].end_epoch if self._spent else 0
        self._spent += [s for s in self.timeline.spendings
                        if done <= s.begin_epoch < self.stages[index].begin_epoch]

    def _left(self, index: int) -> Tuple[float, float, List[float]]:
        """What is spent, in all and in stage ``index``, and what it and later ones may spend."""
        begin = self.stages[index].begin_epoch
        spent = sum(s.whole_cost for s in self._spent)
        in_stage = sum(s.whole_cost for s in self._spent if s.begin_epoch >= begin)
        whole = sum(self._shares) or 1.
        shares = [self.budget * share / whole for share in self._shares[index:]]
        shares[0] = max(0., shares[0] - in_stage)
        return spent, in_stage, shares

    def _plan(self, index: int, choice: Optional[Subnet] = None) -> None:
        """Divide what is left among the stages from ``index`` on."""
        self._settle(index)
        begin = self.stages[index].begin_epoch
        spent, in_stage, shares = self._left(index)
        subnets = [choice or self.stages[index].subnet]
        for stage in self.stages[index + 1:]:  # which nothing makes smaller
            subnets.append(Subnet.covering([subnets[-1], stage.subnet]))
        costs = [self.costs[subnet] for subnet in subnets]
        # Rounding may have left too little for an epoch each.
        lengths = divide_budget(max(self.budget - spent, sum(costs)), costs, shares)
        if choice is not None and index < len(self.stages) - 2 and self._search is not None:
            # The searches to come must be paid, too. Before the last stage there are none.
            left = self.budget - spent - sum(self._least[index + 1:])
            most = max(1, int(left / costs[0] + 1e-9))
            if lengths[0] > most:
                left = max(self.budget - spent - most * costs[0], sum(costs[1:]))
                lengths = [most, *divide_budget(left, costs[1:], shares[1:])]
        searched = self._spent[-1].end_epoch - begin if in_stage else 0
        planned, at = [], begin
        for stage, length, cost in zip(self.stages[index:], lengths, costs):
            first = at + (searched if stage.index == index else 0)
            planned.append(Spending(first, first + length, cost))
            self.stages[stage.index] = replace(stage, begin_epoch=at, end_epoch=first + length)
            at = first + length
        self.timeline = Timeline(self._spent + planned, self.epochs)
        self._spent = self.timeline.spendings[:len(self._spent)]

    def _check(self) -> None:
        rows = [self.costs[stage.subnet] for stage in self.stages]
        largest = math.floor(100 * self.epochs / sum(rows)) / 100
        if self.budget < sum(rows):
            way_out = f'The largest that works is {largest:g}; or lower num_stages, or raise ' \
                'train_cfg.max_epochs.' if largest >= 1 else \
                'Lower num_stages, or raise train_cfg.max_epochs.'
            raise UserError(
                f'speedup={self.speedup:g} of AutoProgHook leaves too little for an epoch of each '
                f'of the {len(rows)} stages. {way_out}')
        if self._search is None:
            return
        reachable = [[self.stages[0].subnet], *stage_choices(self.stages)]
        ways = [[stage_candidates(self.stages, stage.index, current) for current in before]
                for stage, before in zip(self.stages, reachable)]
        self._least = [max(map(self._least_of, of_stage)) for of_stage in ways]
        # Share of the budget, what it must pay, and of what.
        needs = [(self._shares[i] / sum(self._shares), self._least[i],
                  f'the search of stage {i}, and an epoch of what it chooses,', 'the stage')
                 for i, of_stage in enumerate(ways) if any(len(c) > 1 for c in of_stage)]
        if needs:
            needs.append((1., sum(self._least), 'all searches, and an epoch of what they choose,',
                          'the run'))
        share, cost, what, whose = min(
            needs, key=lambda need: need[0] / need[1], default=(1., 0., '', ''))
        if cost <= share * self.budget * (1 + 1e-9):
            return
        largest = math.floor(100 * share * self.epochs / cost) / 100
        if not share:
            way_out = 'Give it a share in stage_shares of AutoProgHook'
        elif largest >= 1:
            way_out = f'The largest speedup that works is {largest:g}; or lower num_stages'
        else:
            way_out = 'Lower search.epochs, search.eval_batches or num_stages'
        raise UserError(
            f'search.epochs ({self._search.epochs}) may need more than the budget of {whose}: '
            f'{what} cost up to {cost:.3g} epochs of the full network, and with '
            f'speedup={self.speedup:g} {whose} has {share * self.budget:.3g}. {way_out}, or set '
            'search=None.')

    def _least_of(self, candidates: Sequence[Subnet]) -> float:
        """What a stage costs at least: its search, and an epoch of whatever is chosen."""
        search = self.search_cost(candidates) if len(candidates) > 1 else 0.
        return search + max(self.costs[candidate] for candidate in candidates)
