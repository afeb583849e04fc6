# Copyright (c) the autoprog_mm authors. All rights reserved.
import io
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from autoprog_mm.engine.checkpoint import MODEL_CONFIG, describe_model, pack

CONFIGS = Path(__file__).parents[3] / 'configs' / 'autoprog'


@pytest.mark.parametrize('name', [
    'deit-micro_mnist5k.py', 'volo-d1_tokenlabel_in1k.py', 'deit-t_custom.py'])
def test_a_config_of_this_project(name):
    """All that it says of the model, in plain types."""
    cfg = Config.fromfile(CONFIGS / name)
    cfg.classes = ['cat', 'dog']
    file, checkpoint = io.BytesIO(), {MODEL_CONFIG: describe_model(cfg)}
    pack(checkpoint)
    torch.save(checkpoint, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=True)[MODEL_CONFIG]
    assert loaded['model'] == cfg.model.to_dict() and loaded['classes'] == ['cat', 'dog']
    assert type(loaded['model']) is type(loaded['model']['backbone']) is dict
    assert loaded.keys() <= {'model', 'data_preprocessor', 'classes', 'image_size', 'patch_size'}
    if cfg.get('data_preprocessor') is not None:
        assert loaded['data_preprocessor'] == cfg.data_preprocessor.to_dict()


def test_what_a_config_does_not_say():
    assert describe_model(Config(dict(image_size=32, classes=None, train_cfg=dict(x=1)))) \
        == dict(image_size=32)
    assert describe_model(Config()) == {}
