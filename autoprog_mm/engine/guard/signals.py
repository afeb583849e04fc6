# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Signals that ask a run to stop."""
import os
import signal
import threading
import time
from typing import Callable, Dict, List, Optional, Sequence

from mmengine.dist import get_rank

SIGNALS = ('SIGTERM', 'SIGINT', 'SIGUSR1')
# Within this time a launcher may send a signal again that the terminal, or a
# cluster's scheduler, has sent to all processes already.
_REPEAT_SECONDS = 1.


class StopSignals:
    """Notes the signals of :data:`SIGNALS`, so that a run can stop when its step is done.

    A second Ctrl-C stops at once.

    Attributes:
        agreed (int | None): The signal that all ranks know of, and stop for.
    """

    def __init__(self) -> None:
        self.agreed: Optional[int] = None
        self._received: Optional[int] = None  # by this process
        self._received_time = 0.
        self._handlers: Dict[int, Callable] = {}  # those before ours

    def take_over(self) -> None:
        """Handle the signals, in the main thread, which alone may."""
        if threading.current_thread() is not threading.main_thread():
            return
        for name in SIGNALS:
            number = getattr(signal, name, None)  # there is no SIGUSR1 on Windows
            # A job in the background ignores the terminal's Ctrl-C.
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self._handlers[number] = signal.signal(number, self._on_signal)

    def give_back(self) -> None:
        """Restore the handlers that were there before."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers.clear()

    def _on_signal(self, number: int, frame) -> None:
        now = time.monotonic()
        if self._received is None:
            self._received, self._received_time = number, now
            # A logger may be busy in the very place that was interrupted.
            os.write(2, f'\nRank {get_rank()} got {signal.Signals(number).name}: the step under '
                     'way is finished and saved. Ctrl-C again stops at once.\n'.encode())
        elif number == signal.SIGINT and now - self._received_time > _REPEAT_SECONDS:
            self.give_back()
            raise KeyboardInterrupt

    def votes(self) -> List[bool]:
        """list[bool]: Of each of :data:`SIGNALS`, whether this process got it."""
        return [self._received == getattr(signal, name, -1) for name in SIGNALS]

    def agree(self, counts: Sequence[int]) -> None:
        """Take what all ranks voted, the same on each of them.

        Args:
            counts (Sequence[int]): Votes for each of :data:`SIGNALS`.
        """
        if self.agreed is None and any(counts):
            self.agreed = next(getattr(signal, name) for name, n in zip(SIGNALS, counts) if n)
