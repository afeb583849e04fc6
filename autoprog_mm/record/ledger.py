# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The record of a run: what each stage ran, and where the time went."""
import json
import math
import time
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Iterator, List, Optional

from ..growth.schedule import Stage
from ..growth.subnet import Subnet
from ..utils import write_atomically

RECORD_FILE = 'autoprog.json'
SCHEMA = 2
ACCOUNTS = ('data', 'train', 'search', 'growth', 'val')


class Ledger:
    """Keeps the record of a run; the file ``autoprog.json`` is a view of it.

    Every second of wall time between :meth:`open` and :meth:`close` is booked
    on one of :data:`ACCOUNTS` of the current stage: ``data`` is waiting for
    the loader, ``search`` is scoring and timing (supernet steps are
    ``train``), and whatever has no account of its own, such as saving
    checkpoints, is ``train``.

    Args:
        model (str): Class name of the backbone.
        full (Subnet): The full network.
        run (dict, optional): See :func:`describe_run`. Defaults to None.
    """

    def __init__(self, model: str, full: Subnet, run: Optional[dict] = None) -> None:
        self.model = model
        self.full = full
        self.run = run
        self.stages: List[dict] = []
        self.finished = False
        self.stopped_after: Optional[int] = None
        self.budget: Optional[dict] = None  # see the user guide, "The record"
        self._account: Optional[str] = None
        self._since = 0.

    # ------------------------------------------------------------------ clock

    def open(self) -> None:
        """Start the clock, on ``train``."""
        self._account = 'train'
        self._since = time.perf_counter()

    def close(self) -> None:
        """Stop the clock."""
        self.switch('train')
        self._account = None

    def finish(self, epochs: int, max_epochs: int) -> None:
        """Stop the clock of a run that has ended, at its last epoch or before.

        Args:
            epochs (int): Epochs that it has trained.
            max_epochs (int): Epochs that it was to train.
        """
        self.close()
        self.finished = epochs >= max_epochs
        if not self.finished:
            self.stopped_after = epochs
            if self.stages:
                self.stages[-1]['end_epoch'] = epochs

    def switch(self, account: str) -> Optional[str]:
        """Book the time since the last switch, and go on with another account.

        Args:
            account (str): One of :data:`ACCOUNTS`.

        Returns:
            str | None: The account until now; None if the clock is stopped,
            and then nothing is booked.
        """
        before = self._account
        if before is None:
            return None
        now = time.perf_counter()
        if self.stages:
            self.stages[-1]['seconds'][before] += now - self._since
        self._account, self._since = account, now
        return before

    @contextmanager
    def on(self, account: str) -> Iterator[None]:
        """Context in which time is booked on ``account``, then on the one before."""
        before = self.switch(account)
        try:
            yield
        finally:
            if before is not None:
                self.switch(before)

    def _book(self) -> None:
        """Book the time since the last switch."""
        if self._account is not None:
            self.switch(self._account)

    @property
    def train_seconds(self) -> float:
        """float: All that is booked but validation."""
        return sum(
            seconds for stage in self.stages for account, seconds in stage['seconds'].items()
            if account != 'val')

    def seconds(self, *accounts: str) -> float:
        """Seconds on these accounts until now, over all stages."""
        self._book()
        return sum(stage['seconds'][account] for stage in self.stages for account in accounts)

    # ----------------------------------------------------------------- stages

    def begin_stage(self, stage: Stage, subnet: Subnet, operator: Optional[str]) -> None:
        """Add the entry of a stage.

        Args:
            stage (Stage): The stage.
            subnet (Subnet): What it runs; a decision may change that.
            operator (str | None): The growth operator that it began with.
        """
        self._book()
        self.stages.append(dict(
            index=stage.index,
            begin_epoch=stage.begin_epoch,
            end_epoch=stage.end_epoch,
            subnet=asdict(subnet),
            operator=operator,
            seconds=dict.fromkeys(ACCOUNTS, 0.),
            growth=None,
            search=None))

    def record_growth(self, before: Subnet, loss_before: Optional[float],
                      loss_after: Optional[float]) -> None:
        """Enter the growth that the current stage began with.

        Args:
            before (Subnet): What ran until then.
            loss_before (float | None): Loss right before it; None if it could
                not be measured.
            loss_after (float | None): Loss on the same images right after it.
        """
        # 'from' is a keyword of Python.
        self.stages[-1]['growth'] = {
            'from': asdict(before), 'loss_before': loss_before, 'loss_after': loss_after}

    def record_decision(self, subnet: Subnet, search: dict, end_epoch: int) -> None:
        """Enter what a search has chosen for the current stage.

        Args:
            subnet (Subnet): The choice.
            search (dict): The search's part of the record.
            end_epoch (int): To which epoch the choice runs.
        """
        self.stages[-1].update(subnet=asdict(subnet), search=search, end_epoch=end_epoch)

    # ------------------------------------------------------------------ views

    def record(self) -> dict:
        """The content of ``autoprog.json``."""
        return dict(
            schema=SCHEMA,
            model=self.model,
            full=asdict(self.full),
            run=self.run,
            budget=self.budget,
            stages=self.stages,
            train_seconds=self.train_seconds,
            finished=self.finished,
            stopped_after=self.stopped_after)

    def write(self, path: str) -> None:
        """Write the record into a file, atomically."""
        self._book()
        write_atomically(path, json.dumps(_json_ready(self.record()), indent=2) + '\n')

    def state_dict(self) -> dict:
        """What a checkpoint keeps, in plain types."""
        self._book()
        return dict(stages=self.stages)

    def load_state_dict(self, state: dict) -> None:
        """Go on from a checkpoint's :meth:`state_dict`."""
        self.stages = state['stages']


def _json_ready(value: Any) -> Any:
    """JSON has no NaN and no infinity: they become null."""
    if isinstance(value, dict):
        return {key: _json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_ready(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
