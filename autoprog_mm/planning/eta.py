# Copyright (c) the autoprog_mm authors. All rights reserved.
"""How long a run that is under way will still take."""
from collections import defaultdict, deque
from functools import lru_cache
from statistics import mean, median
from typing import Callable, Deque, Dict, Optional, Sequence, Tuple

from ..growth.schedule import Stage
from ..growth.scoring import FORWARD_SHARE
from ..growth.subnet import Subnet
from .forecast import Forecast, Range

# Steps of a subnet after which it is known what its steps take.
_ENOUGH = 5
_RECENT = 200  # steps of each subnet, and epochs, that count
_BLOCKS = 9


class Eta:
    """Foresees the rest of a run from the steps that it has made.

    A step of a subnet takes what its own steps took. Until there are a few,
    it takes what those of other subnets took, in proportion to FLOPs. Rare
    outliers, such as a step that compiles, do not count.

    Args:
        stages (Sequence[Stage]): The schedule.
        steps_per_epoch (int): Training steps of an epoch of this process.
        flops (Callable): Multiply-adds of a subnet, ``backbone.flops``.
        search (OneShotSearch, optional): The run's search. Defaults to None.
        val_steps (int): Steps of a validation of this process, of as many
            images as a training step; once one was timed, its time counts.
            Defaults to 0, there are no validations.
        validates (Callable): Whether an epoch, counted from 1, is followed by
            a validation. Defaults to after each.
        budgeted (bool): See :class:`Forecast`. Defaults to False.
    """

    def __init__(self,
                 stages: Sequence[Stage],
                 steps_per_epoch: int,
                 flops: Callable[[Subnet], float],
                 search=None,
                 val_steps: int = 0,
                 validates: Callable[[int], bool] = lambda epoch: True,
                 budgeted: bool = False) -> None:
        self.stages = stages  # whose epochs may change
        self.steps_per_epoch = steps_per_epoch
        self.flops = lru_cache(maxsize=None)(flops)
        self.search = search
        self.val_steps = val_steps
        self.validates = validates
        self.budgeted = budgeted
        self._steps: Dict[Subnet, Deque[float]] = defaultdict(lambda: deque(maxlen=_RECENT))
        self._firsts: Deque[Tuple[Subnet, float]] = deque(maxlen=_RECENT)
        self._validation: Optional[Tuple[int, float]] = None
        self._clock: Optional[float] = None
        self._is_first = True

    def begin_epoch(self) -> None:
        """The next step is an epoch's first, which waits for the loader, and more."""
        self._is_first = True

    def tick(self, subnet: Subnet, clock: float) -> None:
        """A step has ended.

        Args:
            subnet (Subnet): What it trained.
            clock (float): Seconds of training and of waiting for data so far.
        """
        if self._clock is not None:
            seconds = clock - self._clock
            if self._is_first:
                self._firsts.append((subnet, seconds))
            else:
                self._steps[subnet].append(seconds)
        self._clock, self._is_first = clock, False

    def validated(self, depth: int, seconds: float) -> None:
        """A validation has ended.

        Args:
            depth (int): What was awake.
            seconds (float): How long it took.
        """
        self._validation = depth, seconds

    def left(self, epoch: int, steps: int, candidates: Sequence[Subnet]) -> Optional[Range]:
        """Seconds to the end of the run.

        Args:
            epoch (int): Epoch under way, from 0.
            steps (int): Its steps that are done.
            candidates (Sequence[Subnet]): What the stage may still run to its
                end: those of the search that goes on, or what runs.

        Returns:
            Range | None: None in the first steps of a process.
        """
        known = {subnet: _typical(seconds) for subnet, seconds in self._steps.items()
                 if len(seconds) >= _ENOUGH}
        if not known:
            return None
        rate = sum(known.values()) / sum(map(self.flops, known))

        def step(subnet: Subnet) -> float:
            return known[subnet] if subnet in known else rate * self.flops(subnet)

        def validate(depth: int) -> float:
            full = self.stages[-1].subnet
            timed, seconds = self._validation or (
                full.depth, self.val_steps * FORWARD_SHARE * step(full))
            return seconds * depth / timed

        gaps = [seconds - step(subnet) for subnet, seconds in self._firsts]
        return Forecast(
            self.stages, self.steps_per_epoch, step, self.search,
            validate=validate if self.val_steps else None, validates=self.validates,
            epoch=max(0., _typical(gaps)) if gaps else 0.,
            budgeted=self.budgeted).left(epoch, steps, candidates)


def _typical(seconds: Sequence[float]) -> float:
    """The median; of many, the median of the means of a few blocks.

    A loader that can't keep up delivers in bursts: most steps wait for nothing,
    and one in a few for all of them. A plain median would miss the waiting.
    """
    seconds = list(seconds)
    size = max(1, len(seconds) // _BLOCKS)
    return median(mean(seconds[i:i + size]) for i in range(0, len(seconds), size))
