# Copyright (c) the autoprog_mm authors. All rights reserved.
"""How long a run takes, whatever its searches choose."""
from functools import lru_cache
from typing import Callable, List, NamedTuple, Optional, Sequence

from ..growth.schedule import Stage
from ..growth.scoring import search_passes, stage_candidates
from ..growth.subnet import Subnet


class Range(NamedTuple):
    """Seconds, between what the cheapest and the dearest open choices leave.

    Args:
        low (float): At least.
        high (float): At most; the same if nothing is open.
    """

    low: float
    high: float

    def __add__(self, other: 'Range') -> 'Range':
        return Range(self.low + other.low, self.high + other.high)


class Forecast:
    """Adds up what is left of a run, with searches and validations.

    Args:
        stages (Sequence[Stage]): The schedule.
        steps_per_epoch (int): Training steps of an epoch.
        step (Callable): Seconds of a training step, of its subnet.
        search (OneShotSearch, optional): Only its settings ``epochs``,
            ``evals``, ``eval_batches`` and ``cost`` are read.
            Defaults to None, the manual schedule.
        own_work (bool): Whether to count what searches do besides training.
            Defaults to True.
        validate (Callable, optional): Seconds of a validation, of the depth
            that is awake. Defaults to None: there are none.
        validates (Callable): Whether an epoch, counted from 1, is followed by
            one. Defaults to after each.
        epoch (float): Seconds of an epoch besides its steps. Defaults to 0.
        budgeted (bool): Whether stages are as long as a budget lasts, so that
            what is chosen makes no difference. Defaults to False.
    """

    def __init__(self,
                 stages: Sequence[Stage],
                 steps_per_epoch: int,
                 step: Callable[[Subnet], float],
                 search=None,
                 own_work: bool = True,
                 validate: Optional[Callable[[int], float]] = None,
                 validates: Callable[[int], bool] = lambda epoch: True,
                 epoch: float = 0.,
                 budgeted: bool = False) -> None:
        self.stages = list(stages)
        self.steps_per_epoch = steps_per_epoch
        self.step = step
        self.search = search
        self.own_work = own_work
        self.validate = validate
        self.validates = validates
        self.epoch = epoch
        self.budgeted = budgeted
        self._after = lru_cache(maxsize=None)(self._from_stage)

    def whole(self) -> Range:
        """Range: Seconds of the whole run."""
        return self._from_stage(0, self.stages[0].subnet)

    def left(self, epoch: int, steps: int, candidates: Sequence[Subnet]) -> Range:
        """Seconds from the middle of a run to its end.

        Args:
            epoch (int): Epoch under way, from 0.
            steps (int): Its steps that are done.
            candidates (Sequence[Subnet]): What the stage may still run to its
                end: those of the search that goes on, or the one that runs.
        """
        if epoch >= self.stages[-1].end_epoch:
            return Range(0., 0.)
        stage = next(s for s in self.stages if s.begin_epoch <= epoch < s.end_epoch)
        return self._stage(stage, list(candidates), epoch, steps)

    # ---------------------------------------------------------------- private

    def _from_stage(self, index: int, current: Subnet) -> Range:
        if index == len(self.stages):
            return Range(0., 0.)
        stage = self.stages[index]
        # A budget's stages are planned with their rows, as `Course` does.
        candidates = [Subnet.covering([current, stage.subnet])] if self.budgeted else \
            stage_candidates(self.stages, index, current, self.search is not None)
        return self._stage(stage, candidates, stage.begin_epoch, 0)

    def _stage(self, stage: Stage, candidates: List[Subnet], epoch: int, steps: int) -> Range:
        fixed = 0.
        if len(candidates) > 1:
            end = stage.begin_epoch + self.search.epochs
            mean = sum(map(self.step, candidates)) / len(candidates)
            fixed += self._epochs(mean, max(c.depth for c in candidates), epoch, steps, end)
            if self.own_work:
                left = search_passes(
                    self.search, self.steps_per_epoch, epoch - stage.begin_epoch, steps)
                fixed += left * sum(map(self.step, candidates))
            epoch, steps = end, 0
            if self.budgeted:
                candidates = [stage.subnet]
        ways = [
            Range(*[self._epochs(self.step(c), c.depth, epoch, steps, stage.end_epoch)] * 2) +
            self._after(stage.index + 1, c) for c in candidates
        ]
        return Range(fixed + min(way.low for way in ways), fixed + max(way.high for way in ways))

    def _epochs(self, step: float, depth: int, epoch: int, steps: int, end: int) -> float:
        """From ``steps`` steps of ``epoch`` to the begin of epoch ``end``."""
        if epoch >= end:
            return 0.
        whole = self.steps_per_epoch * step + self.epoch
        done = steps * step + (self.epoch if steps else 0.)
        validations = 0 if self.validate is None else sum(
            map(self.validates, range(epoch + 1, end + 1)))
        return (end - epoch) * whole - done + (
            validations * self.validate(depth) if validations else 0.)
