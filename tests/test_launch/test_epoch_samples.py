# Copyright (c) the autoprog_mm authors. All rights reserved.
import pytest
from mmengine.config import ConfigDict
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from tests.test_launch.own_folders import CONFIG, prepare, read, write_images


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """12 cats, 12 dogs and 4 emus to train with; 1, 1 and 1 to validate with."""
    root = tmp_path_factory.mktemp('pictures') / 'root'
    write_images(root, ['train/cat', 'train/dog'], 12)
    write_images(root, ['train/emu'], 4)
    write_images(root, ['val/cat', 'val/dog', 'val/emu'], 1)
    return str(root)


# What is around the dataset, its samples by hand, and what is told of them.
WRAPPED = {
    'nothing': (lambda d: d, 28, ''),
    'RepeatDataset': (
        lambda d: dict(type='RepeatDataset', times=3, dataset=d), 84, '12 to 36 of each class'),
    # Of 28 samples 4 are emus: sqrt(0.5 / (4 / 28)) = 1.87, so each is there twice.
    'ClassBalancedDataset': (
        lambda d: dict(type='ClassBalancedDataset', oversample_thr=0.5, dataset=d), 56,
        '8 to 24 of each class'),
    # The first quarter are seven cats.
    'KFoldDataset': (
        lambda d: dict(type='KFoldDataset', num_splits=4, dataset=d), 21, '4 to 12 of each class'),
    'ConcatDataset': (lambda d: dict(type='ConcatDataset', datasets=[d, d]), 56, ''),
    'indices': (lambda d: dict(d, indices=13), 13, '0 to 12 of each class'),
    'two': (lambda d: dict(type='RepeatDataset', times=2, dataset=dict(
        type='KFoldDataset', num_splits=4, dataset=dict(d, indices=16))), 24, ''),
}


def told(text, row):
    line, = (line for line in text.splitlines() if line.startswith(f'  {row} '))
    return line[len(row) + 2:].strip()


@pytest.mark.parametrize('name', WRAPPED)
@pytest.mark.parametrize('drop_last', [True, False])
def test_steps_are_those_of_the_run(folder, tmp_path, capsys, name, drop_last):
    wrap, samples, of_class = WRAPPED[name]
    cfg = read(CONFIG)
    cfg.train_dataloader.dataset = ConfigDict(wrap(cfg.train_dataloader.dataset))
    cfg = prepare(cfg, tmp_path, data_root=folder, train_dataloader__batch_size=5,
                  train_dataloader__drop_last=drop_last, train_dataloader__num_workers=0)
    text = capsys.readouterr().out
    steps = samples // 5 if drop_last else -(-samples // 5)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        assert len(Runner.build_dataloader(cfg.train_dataloader, seed=0)) == steps
    assert told(text, 'batch') == f'5 images, {steps} steps an epoch'
    images = 56 if name == 'ConcatDataset' else 28
    assert told(text, 'to train').startswith(f'{images} images, ')
    assert (f'; {samples} samples an epoch, {of_class}' in told(text, 'to train')) == (
        samples != images)
    assert told(text, 'to train').endswith('' if samples == images else f'by {name}'
                                           if name != 'two' else 'by RepeatDataset')


def test_batches_of_what_is_repeated(folder, tmp_path, capsys):
    """A batch of 64 of 28 images, each of them three times."""
    cfg = read(CONFIG)
    cfg.train_dataloader.dataset = dict(
        type='RepeatDataset', times=3, dataset=cfg.train_dataloader.dataset)
    cfg = prepare(cfg, tmp_path, data_root=folder, train_dataloader__batch_size=64)
    assert '64 images, 1 steps an epoch' in capsys.readouterr().out
    with pytest.raises(ValueError, match='batch_size is 85, but there are only 84 images'):
        cfg.train_dataloader.batch_size = 85
        prepare(cfg, tmp_path, data_root=folder)


def test_folds(folder, tmp_path, capsys):
    cfg = read(CONFIG)
    fold = dict(type='KFoldDataset', num_splits=4, seed=1)
    own = cfg.train_dataloader.dataset
    cfg.train_dataloader.dataset = dict(fold, dataset=own)
    cfg.val_dataloader.dataset = dict(
        fold, test_mode=True, dataset=dict(cfg.val_dataloader.dataset, split='train'))
    prepare(cfg, tmp_path, data_root=folder)
    text = capsys.readouterr().out
    assert told(text, 'to train').startswith('28 images, 4 to 12 of each class; 21 samples')
    assert told(text, 'to validate').startswith('28 images, 4 to 12 of each class; 7 samples')


def test_samplers(folder, tmp_path, capsys):
    """mmpretrain's repeated augmentation draws as many samples as there are images."""
    prepare(CONFIG, tmp_path, data_root=folder, train_dataloader__batch_size=5,
            train_dataloader__sampler=dict(type='RepeatAugSampler', shuffle=True))
    text = capsys.readouterr().out
    assert told(text, 'to train') == '28 images, 4 to 12 of each class'
    assert told(text, 'batch') == '5 images, 5 steps an epoch'
