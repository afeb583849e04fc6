# Copyright (c) the autoprog_mm authors. All rights reserved.
"""A run, read back: what a report knows of it."""
import math
import os.path as osp
from dataclasses import dataclass
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import numpy as np

from ..growth.scoring import fit_exponent
from ..growth.subnet import Subnet


class Validation(NamedTuple):
    """One validation: after ``epoch`` epochs and ``seconds`` of training, in percent."""

    epoch: int
    seconds: float
    top1: Optional[float]


@dataclass(frozen=True)
class Candidate:
    """What a search measured of a subnet.

    ``loss`` and ``score`` are None if they were not finite; ``time``, the
    seconds of a step, is None if the search went by multiply-adds.
    """

    subnet: Subnet
    time: Optional[float]
    flops: float
    loss: Optional[float]
    score: Optional[float]
    chosen: bool


@dataclass(frozen=True)
class Search:
    """A search that has decided."""

    epochs: int
    w: float
    candidates: List[Candidate]
    rule: str = 'trend'

    @property
    def by_time(self) -> bool:
        """bool: Whether costs are seconds, not multiply-adds."""
        return all(candidate.time is not None for candidate in self.candidates)

    def cost(self, candidate: Candidate) -> float:
        """Seconds of a step, or multiply-adds of an image."""
        return candidate.time if self.by_time else candidate.flops

    @property
    def drawable(self) -> List[Candidate]:
        """list[Candidate]: Those that logarithmic axes can show."""
        return [c for c in self.candidates if c.loss is not None and c.loss > 0]

    @property
    def fitted(self) -> Optional[float]:
        """float | None: The exponent fitted to these candidates; None if they are too few."""
        if len(self.drawable) < sum(c.loss is not None for c in self.candidates):
            return None  # a loss of 0 wins without a fit
        return fit_exponent([self.cost(c) for c in self.drawable],
                            [c.loss for c in self.drawable])

    @property
    def scale(self) -> Optional[float]:
        """float | None: a of the trend ``L = a * T ** -w``, by least squares in log space."""
        logs = [math.log(c.loss) + self.w * math.log(self.cost(c)) for c in self.drawable]
        return math.exp(sum(logs) / len(logs)) if logs else None

    def trend(self, cost: float) -> float:
        """The trend's loss at a cost."""
        return self.scale * cost**-self.w


@dataclass(frozen=True)
class Growth:
    """A growth, with the loss on the same batches right before and after it."""

    operator: str
    before: Optional[Subnet]
    after: Subnet
    loss_before: Optional[float]
    loss_after: Optional[float]


@dataclass(frozen=True)
class Stage:
    """A stage that has begun."""

    number: int
    begin_epoch: int
    end_epoch: int
    subnet: Subnet
    seconds: Dict[str, float]
    begin_seconds: float
    search: Optional[Search]
    growth: Optional[Growth]

    @property
    def train_seconds(self) -> float:
        """float: All but validation."""
        return sum(s for account, s in self.seconds.items() if account != 'val')

    @property
    def end_seconds(self) -> float:
        """float: Training seconds of the run at the stage's end, so far."""
        return self.begin_seconds + self.train_seconds


@dataclass(frozen=True)
class Run:
    """A run, finished or not.

    Args:
        work_dir (str): Where it was read from.
        model (str): Class name of the backbone.
        full (Subnet): The full network.
        finished (bool): Whether it trained to its last epoch.
        stopped_after (int | None): Epochs after which a hook has ended it,
            before its last; None if none has.
        train_seconds (float): All but validation.
        budget (dict | None): ``budget`` of the record, of a run with a
            ``speedup``.
        stages (list[Stage]): Those that have begun.
        settings (dict | None): ``run`` of the record; None in records of
            older versions.
        validations (list[Validation]): In order.
        losses (list[tuple[float, float | None]]): Training seconds and loss.
        losses_placed (str): Where the seconds of losses are from:
            ``'logged'``, ``'interpolated'`` between validations, or
            ``'unknown'``, and then there are no losses.
        clock (list[tuple[float, float]]): Finished epochs and training
            seconds, as far as they are known.
    """

    work_dir: str
    model: str
    full: Subnet
    finished: bool
    stopped_after: Optional[int]
    train_seconds: float
    budget: Optional[Dict[str, Any]]
    stages: List[Stage]
    settings: Optional[Dict[str, Any]]
    validations: List[Validation]
    losses: List[Tuple[float, Optional[float]]]
    losses_placed: str
    clock: List[Tuple[float, float]]

    @property
    def name(self) -> str:
        """str: Its config's name, or its folder's."""
        return (self.settings or {}).get('config') or osp.basename(osp.abspath(self.work_dir))

    @property
    def epochs(self) -> Optional[int]:
        """int | None: Epochs that it will train, if known."""
        if self.budget is not None:
            return self.budget['epochs']
        if self.settings is not None:
            return self.settings['epochs']
        return self.stages[-1].end_epoch if self.finished and self.stages else None

    @property
    def epochs_done(self) -> int:
        """int: Epochs that are known to be finished."""
        return int(self.clock[-1][0] + 1e-6)

    @property
    def top1(self) -> Optional[float]:
        """float | None: Of the last validation, so of the final weights in a finished run."""
        return self.validations[-1].top1 if self.validations else None

    @property
    def last_seconds(self) -> float:
        """float: The latest that is known; the record may lag behind the log."""
        return max(self.train_seconds, self.clock[-1][1])

    def seconds_at(self, epoch: float) -> float:
        """Training seconds after so many epochs, by interpolation."""
        return float(np.interp(epoch, *zip(*self.clock)))
