# Copyright (c) the autoprog_mm authors. All rights reserved.
import logging
import shutil
from types import SimpleNamespace

import pytest
import torch
from mmengine.runner import Runner

from autoprog_mm.engine.guard import check_classes
from tests.micro import micro_config


def check(known, found):
    logger = SimpleNamespace(messages=[])
    logger.warning = logger.messages.append
    check_classes(
        dict(meta=dict(dataset_meta=dict(classes=known))),
        SimpleNamespace(metainfo=dict(classes=found)), logger)
    return logger.messages


def test_names():
    assert check(('a', 'b'), ['a', 'b']) == []
    assert check(None, ('a', )) == check(('a', ), None) == []
    message, = check(('n01', 'n02'), ('tench', 'goldfish'))
    assert 'trained on 2 classes (n01, n02), but the dataset to test with has 2 classes' in message
    with pytest.raises(ValueError, match=r'3 classes \(a, b, c\), but .* has 2 classes \(a, c\)'):
        check(('a', 'b', 'c'), ('a', 'c'))
    for checkpoint in ({}, dict(meta=None), dict(meta=dict(dataset_meta=None))):
        check_classes(checkpoint, SimpleNamespace(), logging.getLogger())


@pytest.mark.parametrize('kind', ['test', 'val'])
def test_a_class_that_is_not_there(jpeg_root, tmp_path, kind):
    """Behind it, all labels of the folder would be one too low."""
    root = shutil.copytree(jpeg_root / 'val', tmp_path / 'images')
    shutil.rmtree(root / 'class_1')
    cfg = micro_config(jpeg_root, tmp_path / 'run')
    dataset = dict(type='CustomDataset', data_root=str(root),
                   pipeline=cfg.val_dataloader.dataset.pipeline)
    cfg.val_dataloader.dataset = dataset
    cfg.test_dataloader, cfg.test_cfg, cfg.test_evaluator = (
        cfg.val_dataloader, dict(), cfg.val_evaluator)
    runner = Runner.from_cfg(cfg)
    classes = [f'class_{i}' for i in range(4)]
    torch.save(dict(state_dict=runner.model.state_dict(),
                    meta=dict(dataset_meta=dict(classes=classes))), tmp_path / 'a.pth')
    runner._load_from = str(tmp_path / 'a.pth')
    with pytest.raises(ValueError, match=r'has 3 classes \(class_0, class_2, class_3\)'):
        getattr(runner, kind)()
