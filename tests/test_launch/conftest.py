# Copyright (c) the autoprog_mm authors. All rights reserved.
import pytest


@pytest.fixture
def device(monkeypatch):

    def set_device(name):
        monkeypatch.setattr('autoprog_mm.launch.device.get_device', lambda: name)

    set_device('cuda')
    return set_device


@pytest.fixture
def log(monkeypatch):
    messages = []
    for module in ('checks', 'device', 'keys', 'options', 'prepare'):
        monkeypatch.setattr(f'autoprog_mm.launch.{module}.print_log',
                            lambda text, *args: messages.append(text))
    return messages
