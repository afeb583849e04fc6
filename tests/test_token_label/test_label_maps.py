# Copyright (c) the autoprog_mm authors. All rights reserved.
import signal
import sys

from autoprog_mm.token_label import label_maps


def test_a_worker_says_nothing_of_a_process_that_has_ended(monkeypatch, capfd):
    monkeypatch.setattr(signal, 'signal', lambda *_: None)
    monkeypatch.setattr(sys, 'excepthook', sys.excepthook)
    label_maps._init_worker(0)
    sys.excepthook(ConnectionResetError, ConnectionResetError(104, 'reset'), None)
    assert capfd.readouterr().err == ''
    sys.excepthook(ValueError, ValueError('of another kind'), None)
    assert 'of another kind' in capfd.readouterr().err
