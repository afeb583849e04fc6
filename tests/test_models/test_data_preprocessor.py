# Copyright (c) the autoprog_mm authors. All rights reserved.
import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.registry import BATCH_AUGMENTS, MODELS
from mmpretrain.structures import DataSample

from autoprog_mm.models import ElasticDataPreprocessor
from autoprog_mm.utils import resize_batch

NORMALIZE = dict(mean=[100., 110., 120.], std=[50., 60., 70.], to_rgb=True)
MIX = dict(num_classes=4, batch_augments=dict(augments=[dict(type='Mixup', alpha=0.8)]))


def batch(size=32, as_list=False, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(size, size), (size, size + 8), (size + 4, size)] if as_list else [(size, size)] * 3
    inputs = [
        torch.randint(0, 256, (3, *s), dtype=torch.uint8, generator=generator) for s in sizes
    ]
    samples = [DataSample().set_gt_label(label) for label in (0, 2, 3)]
    return dict(inputs=inputs if as_list else torch.stack(inputs), data_samples=samples)


def resized(inputs, resolution):
    return F.interpolate(
        inputs.float(), size=(resolution, resolution), mode='bilinear', align_corners=False)


def assert_equal(data, expected):
    assert torch.equal(data['inputs'], expected['inputs'])
    for mine, theirs in zip(data['data_samples'], expected['data_samples']):
        assert torch.equal(mine.gt_label, theirs.gt_label)
        assert ('gt_score' in mine) == ('gt_score' in theirs)
        if 'gt_score' in mine:
            assert torch.equal(mine.gt_score, theirs.gt_score)


def test_is_registered():
    assert type(MODELS.build(dict(type='ElasticDataPreprocessor'))) is ElasticDataPreprocessor


@pytest.mark.parametrize('as_list', [False, True])
@pytest.mark.parametrize('training', [False, True])
def test_without_a_resolution_it_is_the_stock_one(as_list, training):
    elastic = ElasticDataPreprocessor(**NORMALIZE, **MIX)
    stock = ClsDataPreprocessor(**NORMALIZE, **MIX)
    assert elastic.resolution is None
    outputs = []
    for preprocessor in (elastic, stock):
        torch.manual_seed(0)
        np.random.seed(0)
        outputs.append(preprocessor(batch(as_list=as_list), training))
    assert_equal(*outputs)


@pytest.mark.parametrize('resolution', [16, 24, 48])
@pytest.mark.parametrize('kwargs', [dict(), NORMALIZE])
def test_resizes_in_training(resolution, kwargs):
    elastic, stock = ElasticDataPreprocessor(**kwargs), ClsDataPreprocessor(**kwargs)
    elastic.resolution = resolution
    data = batch()
    output = elastic(data, training=True)
    assert output['inputs'].shape == (3, 3, resolution, resolution)
    assert_equal(output, stock({**data, 'inputs': resized(data['inputs'], resolution)}, True))


@pytest.mark.parametrize('resolution', [16, 24, 48])
def test_resizes_lists(resolution):
    elastic, stock = ElasticDataPreprocessor(**NORMALIZE), ClsDataPreprocessor(**NORMALIZE)
    elastic.resolution = resolution
    data = batch(as_list=True)
    output = elastic(data, training=True)
    assert output['inputs'].shape == (3, 3, resolution, resolution)
    images = [resized(image[None], resolution)[0] for image in data['inputs']]
    assert_equal(output, stock({**data, 'inputs': images}, True))


@pytest.mark.parametrize('as_list', [False, True])
def test_evaluates_at_the_size_that_comes(as_list):
    elastic, stock = ElasticDataPreprocessor(**NORMALIZE), ClsDataPreprocessor(**NORMALIZE)
    elastic.resolution = 16
    assert_equal(elastic(batch(as_list=as_list)), stock(batch(as_list=as_list)))
    assert_equal(elastic(batch(as_list=as_list), False), stock(batch(as_list=as_list), False))


def test_resizes_before_it_mixes():
    seen = []

    class Watch:
        """A batch augmentation that looks at what comes."""

        def __call__(self, inputs, score):
            seen.append(inputs.shape[-2:])
            return inputs + 1, score

    BATCH_AUGMENTS.register_module(name='Watch', module=Watch)
    try:
        elastic = ElasticDataPreprocessor(
            num_classes=4, batch_augments=dict(augments=[dict(type='Watch')]))
    finally:
        BATCH_AUGMENTS.module_dict.pop('Watch')
    elastic.resolution = 16
    data = batch()
    output = elastic(data, training=True)
    assert seen == [(16, 16)]
    assert torch.equal(output['inputs'], resized(data['inputs'], 16) + 1)


@pytest.mark.parametrize('augment', [dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.)])
def test_mixes_as_the_stock_one_mixes_small_images(augment):
    mix = dict(num_classes=4, batch_augments=dict(augments=[augment]))
    elastic = ElasticDataPreprocessor(**NORMALIZE, **mix)
    stock = ClsDataPreprocessor(**NORMALIZE, **mix)
    elastic.resolution = 16
    outputs = []
    for preprocessor, data in ((elastic, batch()),
                               (stock, {**batch(), 'inputs': resized(batch()['inputs'], 16)})):
        torch.manual_seed(3)
        np.random.seed(3)
        outputs.append(preprocessor(data, training=True))
    assert_equal(*outputs)
    assert any(sample.gt_score.max() < 1 for sample in outputs[0]['data_samples'])  # it does mix


def test_the_callers_batch_is_not_changed():
    elastic = ElasticDataPreprocessor(**NORMALIZE)
    elastic.resolution = 16
    data = batch()
    before = copy.deepcopy(data)
    elastic(data, training=True)
    assert data.keys() == before.keys()
    assert torch.equal(data['inputs'], before['inputs'])


def test_resolution_can_be_taken_back():
    elastic = ElasticDataPreprocessor()
    for resolution, size in ((16, 16), (24, 24), (None, 32)):
        elastic.resolution = resolution
        assert elastic(batch(), training=True)['inputs'].shape[-2:] == (size, size)


def test_resize_by_hand():
    image = torch.tensor([[[[0, 2, 4, 6], [0, 2, 4, 6], [8, 2, 4, 6], [8, 2, 4, 6]]]])
    # Half the size: the mean of each square of four.
    assert resize_batch(image, 2).tolist() == [[[[1., 5.], [5., 5.]]]]
    for resolution in (None, 4):
        assert resize_batch(image, resolution) is image


def test_copies_do_not_block(monkeypatch):
    """Each tensor of a batch goes to the device with non_blocking=True."""
    seen = []
    plain = torch.Tensor.to

    def spy(self, *args, **kwargs):
        seen.append(kwargs.get('non_blocking'))
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, 'to', spy)
    ElasticDataPreprocessor().cast_data(dict(inputs=torch.zeros(2, 3, 8, 8)))
    assert seen == [True]
    seen.clear()
    ClsDataPreprocessor().cast_data(dict(inputs=torch.zeros(2, 3, 8, 8)))
    assert seen == [False]
