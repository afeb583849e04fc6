# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Where a run's time went, and what each of its stages ran."""
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
SCHEMA = 1
ACCOUNTS = ('data', 'train', 'search', 'growth', 'val')


class Ledger:
    """The record of a run; the file ``autoprog.json`` is a view of it.

    Every second between :meth:`open` and :meth:`close` is booked on one of
    :data:`ACCOUNTS` of the stage that was under way. The seconds are wall
    time: ``data`` is waiting for the loader, ``search`` a search's own work
    (its supernet steps are ``train``), and what has no account of its own,
    such as saving checkpoints, is ``train``.

    Args:
        model (str): Class name of the backbone.
        full (Subnet): The full network.
        run (dict, optional): What tells runs apart, in plain types, for
            comparisons. Defaults to None.
    """

    def __init__(self, model: str, full: Subnet, run: Optional[dict] = None) -> None:
        self.model = model
        self.full = full
        self.run = run
        self.stages: List[dict] = []
        self.finished = False
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

    def switch(self, account: str) -> Optional[str]:
        """Book what passed so far and go on with another account.

        Args:
            account (str): One of :data:`ACCOUNTS`.

        Returns:
            str | None: The account until now; None while the clock is stopped,
            when nothing is booked.
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
        """Context that books on ``account``, then goes on with the one before."""
        before = self.switch(account)
        try:
            yield
        finally:
            if before is not None:
                self.switch(before)

    @property
    def train_seconds(self) -> float:
        """float: All that was booked, but for validation."""
        return sum(
            seconds for stage in self.stages for account, seconds in stage['seconds'].items()
            if account != 'val')

    def seconds(self, *accounts: str) -> float:
        """What is booked on some accounts until now, over all stages.

        Args:
            *accounts (str): Some of :data:`ACCOUNTS`.
        """
        if self._account is not None:
            self.switch(self._account)
        return sum(stage['seconds'][account] for stage in self.stages for account in accounts)

    # ----------------------------------------------------------------- stages

    def begin_stage(self, stage: Stage, subnet: Subnet, operator: Optional[str]) -> None:
        """Add a stage's entry.

        Args:
            stage (Stage): The stage.
            subnet (Subnet): What it runs, as far as is known.
            operator (str | None): The growth operator that it began with.
        """
        entry = dict(
            index=stage.index,
            begin_epoch=stage.begin_epoch,
            end_epoch=stage.end_epoch,
            subnet=asdict(subnet),
            operator=operator,
            seconds=dict.fromkeys(ACCOUNTS, 0.),
            growth=None,
            search=None)
        if self._account is not None:
            self.switch(self._account)
        self.stages.append(entry)

    def record_growth(self, before: Subnet, loss_before: Optional[float],
              loss_after: Optional[float]) -> None:
        """Enter the growth with which the stage under way began.

        Args:
            before (Subnet): What ran until it.
            loss_before (float | None): Loss right before it; None if it could
                not be measured.
            loss_after (float | None): On the same images right after it.
        """
        # 'from' is a word of Python, so it can't be a keyword argument.
        self.stages[-1]['growth'] = {
            'from': asdict(before), 'loss_before': loss_before, 'loss_after': loss_after}

    def record_decision(self, subnet: Subnet, search: dict) -> None:
        """Enter what a search has chosen for the stage under way.

        Args:
            subnet (Subnet): The choice.
            search (dict): The search's part of the record.
        """
        self.stages[-1].update(subnet=asdict(subnet), search=search)

    # ------------------------------------------------------------------ views

    def record(self) -> dict:
        """dict: The content of ``autoprog.json``."""
        return dict(
            schema=SCHEMA,
            model=self.model,
            full=asdict(self.full),
            run=self.run,
            stages=self.stages,
            train_seconds=self.train_seconds,
            finished=self.finished)

    def write(self, path: str) -> None:
        """Write the record, atomically.

        Args:
            path (str): The file.
        """
        if self._account is not None:
            self.switch(self._account)
        write_atomically(path, json.dumps(_json_ready(self.record()), indent=2) + '\n')

    def state_dict(self) -> dict:
        """dict: What a checkpoint keeps, in plain types."""
        if self._account is not None:
            self.switch(self._account)
        return dict(stages=self.stages)

    def load_state_dict(self, state: dict) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.stages = state['stages']


def _json_ready(value: Any) -> Any:
    """JSON knows no NaN and no infinity: they become null."""
    if isinstance(value, dict):
        return {key: _json_ready(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_ready(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
