# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What a test takes from the checkpoint, where the config leaves it open."""
import pytest
import torch
from mmengine.config import Config

from autoprog_mm.launch.own_data import _take_over


@pytest.fixture
def path(tmp_path):
    torch.save(dict(
        state_dict=dict(a=torch.zeros(1)), meta=dict(cfg="classes = ['not', 'this']"),
        model_config=dict(model=dict(type='x'), classes=['cat', 'dog'], image_size=64,
                          patch_size=8)), tmp_path / 'new.pth')
    return str(tmp_path / 'new.pth')


def test_what_the_config_leaves_open(path):
    cfg = Config(dict(classes=None, image_size=96))
    _take_over(cfg, path)
    assert cfg.to_dict() == dict(classes=['cat', 'dog'], image_size=96, patch_size=8)


def test_older_checkpoint(path):
    loaded = torch.load(path)
    del loaded['model_config']
    torch.save(loaded, path)
    with pytest.raises(ValueError, match='does not say what its model is built of. Test it with '
                       'the config that its run has saved.* or set classes, image_size, patch_siz'):
        _take_over(Config(dict(classes=None)), path)
    cfg = Config(dict(classes=['a'], image_size=32, patch_size=4))
    _take_over(cfg, path)  # which needs nothing of it
    assert cfg.classes == ['a']
