# Copyright (c) the autoprog_mm authors. All rights reserved.
"""How long a run that is under way will still take."""
import logging
from collections import deque
from statistics import mean
from typing import Callable, Deque, Dict, List, Optional, Sequence, Tuple

import torch
from mmengine.logging import print_log

from ..growth.probe import probe_steps
from ..growth.schedule import Stage
from ..growth.scoring import stage_choices
from ..growth.search import OneShotSearch
from ..growth.subnet import Subnet
from .forecast import FORWARD_SHARE, Forecast, Range

# Steps before a run knows what a step takes.
_FIRST_STEPS = 10
_RECENT = 200  # steps and epochs that count


class Progress:
    """Foresees the rest of a run from its own steps.

    What subnets that have not run yet will take follows from short timings of
    all subnets on this machine, made once, when an estimate is asked for. What
    the steps under way really take more than was timed, for the optimizer,
    waiting for data and all else, others are expected to take more, too.

    Args:
        stages (Sequence[Stage]): The schedule.
        steps_per_epoch (int): Training steps of an epoch of this process.
        batch_size (int): Images of a step of this process.
        model (Module): The classifier, without a model wrapper.
        optim_wrapper (OptimWrapper): Its optimizer wrapper.
        search (OneShotSearch, optional): The run's search. Defaults to None.
        val_images (int): Images that this process validates with.
            Defaults to 0.
        validates (Callable): Whether an epoch, counted from 1, is followed by
            a validation.
        max_batch (int, optional): Images of the full network that fit into
            memory. Defaults to None.
    """

    def __init__(self,
                 stages: Sequence[Stage],
                 steps_per_epoch: int,
                 batch_size: int,
                 model: torch.nn.Module,
                 optim_wrapper,
                 search: Optional[OneShotSearch] = None,
                 val_images: int = 0,
                 validates: Callable[[int], bool] = lambda epoch: True,
                 max_batch: Optional[int] = None) -> None:
        self.stages = list(stages)
        self.steps_per_epoch = steps_per_epoch
        self.batch_size = batch_size
        self.model = model
        self.optim_wrapper = optim_wrapper
        self.search = search
        self.val_images = val_images
        self.validates = validates
        self.max_batch = max_batch
        self._probed: Optional[Dict[Subnet, float]] = None
        self._in_seconds = False  # what was probed, or only in proportion
        self._steps: Deque[Tuple[Subnet, float]] = deque(maxlen=_RECENT)
        self._firsts: Deque[Tuple[Subnet, float]] = deque(maxlen=_RECENT)
        self._validations: Deque[Tuple[int, float]] = deque(maxlen=_RECENT)
        self._clock: Optional[float] = None
        self._is_first = True

    # --------------------------------------------------------------- watching

    def begin_epoch(self) -> None:
        """The next step is an epoch's first, which waits for the loader, and more."""
        self._is_first = True

    def tick(self, subnet: Subnet, clock: float) -> None:
        """A step has ended.

        Args:
            subnet (Subnet): What it trained.
            clock (float): Seconds of training so far, without validation,
                search and growth.
        """
        if self._clock is not None:
            (self._firsts if self._is_first else self._steps).append((subnet, clock - self._clock))
        self._clock, self._is_first = clock, False

    def validated(self, depth: int, seconds: float) -> None:
        """A validation has ended.

        Args:
            depth (int): What was awake.
            seconds (float): How long it took.
        """
        self._validations.append((depth, seconds))

    # -------------------------------------------------------------- foreseeing

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
        if len(self._steps) < _FIRST_STEPS:
            return None
        return self.forecast().left(epoch, steps, candidates)

    def forecast(self) -> Forecast:
        """Forecast: By what is known now."""
        costs = self._costs()
        seen = sum(seconds for _, seconds in self._steps)
        probed = sum(costs[subnet] for subnet, _ in self._steps)
        scale, more = 1., (seen - probed) / len(self._steps)
        if not self._in_seconds or more < 0:
            scale, more = seen / probed, 0.
        known: Dict[Subnet, List[float]] = {}
        for subnet, seconds in self._steps:
            known.setdefault(subnet, []).append(seconds)

        def step(subnet: Subnet) -> float:
            if len(known.get(subnet, ())) >= _FIRST_STEPS:
                return mean(known[subnet])
            return scale * costs[subnet] + more

        def validate(depth: int) -> float:
            full = self.stages[-1].subnet
            if self._validations:
                last, seconds = self._validations[-1]
                return seconds * depth / last
            steps = self.val_images / self.batch_size
            return steps * FORWARD_SHARE * scale * costs[full] * depth / full.depth

        gaps = [seconds - step(subnet) for subnet, seconds in self._firsts]
        return Forecast(
            self.stages, self.steps_per_epoch, step,
            search=None if self.search is None else self.search.work(
                self.steps_per_epoch, lambda subnet: scale * costs[subnet]),
            validate=validate if self.val_images else None,
            validates=self.validates,
            epoch=max(0., mean(gaps)) if gaps else 0.)

    def _costs(self) -> Dict[Subnet, float]:
        """Costs of the steps of all subnets that the run may train."""
        if self._probed is None:
            choices = stage_choices(self.stages, self.search and self.search.bounds)
            subnets = list(dict.fromkeys(
                [*(s for part in choices for s in part), *(s for s, _ in self._steps)]))
            if len(subnets) == 1:
                self._probed = {subnets[0]: 1.}
            else:
                self._probed = self._probe(subnets)
        return self._probed

    def _probe(self, subnets: List[Subnet]) -> Dict[Subnet, float]:
        # On the CPU a few images are enough to tell how subnets compare.
        on_cpu = next(self.model.parameters()).device.type == 'cpu'
        batch = min(self.batch_size, self.max_batch or self.batch_size,
                    32 if on_cpu else self.batch_size)
        try:
            seconds = probe_steps(self.model, self.optim_wrapper, subnets, batch)
            self._in_seconds = True
            return {subnet: s * self.batch_size / batch for subnet, s in seconds.items()}
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            print_log(
                f'The largest subnet that is to come does not fit into memory with {batch} images: '
                'set max_batch_per_step of AutoProgHook, or a smaller batch_size. How long the run '
                'takes is estimated from FLOPs.', logger='current', level=logging.WARNING)
            return {subnet: self.model.backbone.flops(subnet) for subnet in subnets}
