# Copyright (c) the autoprog_mm authors. All rights reserved.
import os
import signal

import pytest

from autoprog_mm.engine.guard import StopSignals
from autoprog_mm.engine.guard import signals as module


@pytest.fixture
def signals():
    signals = StopSignals()
    signals.take_over()
    yield signals
    signals.give_back()


def test_noted_and_agreed_on(signals):
    assert signals.votes() == [False, False, False]
    os.kill(os.getpid(), signal.SIGUSR1)
    assert signals.votes() == [False, False, True]
    os.kill(os.getpid(), signal.SIGTERM)  # the first one counts
    assert signals.votes() == [False, False, True]
    assert signals.agreed is None  # not before all ranks know of it
    signals.agree([0, 0, 0])
    assert signals.agreed is None
    signals.agree([0, 2, 1])
    assert signals.agreed == signal.SIGINT
    signals.agree([1, 0, 0])
    assert signals.agreed == signal.SIGINT


def test_a_repeated_ctrl_c_means_nothing_at_first(signals, monkeypatch):
    """A launcher may send it again right after the first."""
    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(module, '_REPEAT_SECONDS', 30.)
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    assert signals.votes() == [False, True, False]
    monkeypatch.setattr(module, '_REPEAT_SECONDS', 0.)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is not before  # a third one is Python's own


def test_handlers_are_given_back():
    before = signal.getsignal(signal.SIGTERM)
    signals = StopSignals()
    signals.take_over()
    assert signal.getsignal(signal.SIGTERM) is not before
    signals.give_back()
    assert signal.getsignal(signal.SIGTERM) is before
