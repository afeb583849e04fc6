# Copyright (c) the autoprog_mm authors. All rights reserved.
from types import SimpleNamespace

from mmengine.logging import MessageHub

from autoprog_mm.engine.checkpoint import request_checkpoint, take_request


def test_a_request_is_taken_once_and_in_its_epoch():
    runner = SimpleNamespace(epoch=3, message_hub=MessageHub('test_request'))
    assert not take_request(runner)
    request_checkpoint(runner)
    assert take_request(runner)
    assert not take_request(runner)
    request_checkpoint(runner)
    runner.epoch = 4
    assert not take_request(runner)
    runner.epoch = 3
    assert not take_request(runner)  # it was stale, and is gone
