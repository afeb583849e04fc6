# Copyright (c) the autoprog_mm authors. All rights reserved.
"""TokenLabelDataPreprocessor against slow loops, and mixing against drawing again."""
import copy
import functools

import numpy as np
import pytest
import torch
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.models.utils.batch_augments import CutMix
from mmpretrain.registry import BATCH_AUGMENTS, MODELS
from mmpretrain.structures import DataSample

from autoprog_mm.models import TokenLabelDataPreprocessor
from tests.test_models.slow_token_scores import NUM_CLASSES, WHOLE, random_map, slow_scores

BOXES = [WHOLE, (0.25, 0.75, 0.1, 0.9), (0., 0.3, 0.62, 1.), (0.41, 0.6, 0.5, 0.9),
         (0.1, 0.9, 0., 0.5), (0.6, 1., 0.2, 0.7)]


def preprocessor(augments=None, probs=None, **kwargs):
    # mmpretrain changes the probabilities that it gets.
    mixing = None if augments is None else dict(augments=augments, probs=copy.copy(probs))
    return TokenLabelDataPreprocessor(
        num_classes=NUM_CLASSES, token_size=8, mean=[100.] * 3, std=[50.] * 3,
        batch_augments=mixing, **kwargs)


def stock(augments=None, probs=None, **kwargs):
    mixing = None if augments is None else dict(augments=augments, probs=copy.copy(probs))
    return ClsDataPreprocessor(
        num_classes=NUM_CLASSES, mean=[100.] * 3, std=[50.] * 3, batch_augments=mixing, **kwargs)


def batch(number=4, size=32, as_list=False, maps=True):
    generator = torch.Generator().manual_seed(number)
    inputs = torch.randint(0, 256, (number, 3, size, size), dtype=torch.uint8, generator=generator)
    samples = []
    for i in range(number):
        sample = DataSample().set_gt_label(i % NUM_CLASSES)
        sample.set_field(f'folder/{i}.jpg', 'img_path', field_type='metainfo')
        if maps:
            sample.set_field(random_map(5, 4, seed=i), 'token_label')
            sample.set_field(torch.tensor(BOXES[i]), 'token_label_box')
        samples.append(sample)
    return dict(inputs=list(inputs) if as_list else inputs, data_samples=samples)


@functools.cache
def unmixed(number, grid):
    """Targets before mixing, and of the whole crops, from the slow loops."""
    points = {(4, 4): (3, 2), (2, 2): (5, 4), (3, 3): (4, 3), (6, 6): (2, 2), (1, 1): (10, 8)}
    return np.stack([
        slow_scores(random_map(5, 4, seed=i), BOXES[i], grid, points[grid]) for i in range(number)
    ])


def targets(data):
    samples = data['data_samples']
    for sample in samples:
        assert sample.token_score.dtype == sample.token_class_score.dtype == torch.float32
        assert sample.token_class_score.shape == (NUM_CLASSES, )
    return (np.stack([sample.token_score.numpy() for sample in samples]),
            np.stack([sample.token_class_score.numpy() for sample in samples]))


def seed(value):
    np.random.seed(value)
    torch.manual_seed(value)


def test_is_registered():
    built = MODELS.build(dict(type='TokenLabelDataPreprocessor', num_classes=3))
    assert type(built) is TokenLabelDataPreprocessor
    assert built.token_size == 16 and built.num_classes == 3
    with pytest.raises(TypeError, match='num_classes'):
        TokenLabelDataPreprocessor()


@pytest.mark.parametrize('resolution, grid, as_list', [
    (None, (4, 4), False), (None, (4, 4), True), (16, (2, 2), False), (24, (3, 3), True),
    (32, (4, 4), False), (48, (6, 6), True)])
def test_grid_follows_the_resolution(resolution, grid, as_list):
    mine = preprocessor()
    mine.resolution = resolution
    data = mine(batch(as_list=as_list), training=True)
    assert data['inputs'].shape == (4, 3, *(8 * side for side in grid))
    scores, class_scores = targets(data)
    np.testing.assert_allclose(scores, unmixed(4, grid), atol=1e-5)
    np.testing.assert_allclose(class_scores, unmixed(4, (1, 1))[:, 0, 0], atol=1e-5)
    for i, sample in enumerate(data['data_samples']):
        assert sample.gt_label.tolist() == [i]
        assert 'gt_score' not in sample


def test_images_that_are_not_square():
    data = batch()
    data['inputs'] = data['inputs'][..., :16, :24]
    scores, _ = targets(preprocessor()(data, training=True))
    assert scores.shape == (4, 2, 3, NUM_CLASSES)
    np.testing.assert_allclose(
        scores[1], slow_scores(random_map(5, 4, seed=1), BOXES[1], (2, 3), (5, 3)), atol=1e-5)


MIXUP, CUTMIX = dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.)


def draw_again(config, number, size):
    """What an augmentation draws: partners, and the partner's share of pixels and labels."""
    lam = np.random.beta(config['alpha'], config['alpha'])
    partners = torch.randperm(number).numpy()
    if config['type'] == 'Mixup':
        return partners, np.full((size, size), 1 - lam), 1 - lam
    if 'cutmix_minmax' in config:
        low, high = (int(size * share) for share in config['cutmix_minmax'])
        height, width = np.random.randint(low, high), np.random.randint(low, high)
        top = np.random.randint(0, size - height)
        left = np.random.randint(0, size - width)
        bottom, right = top + height, left + width
    else:
        half = int(size * np.sqrt(1 - lam)) // 2
        row, column = np.random.randint(0, size), np.random.randint(0, size)
        top, bottom = max(row - half, 0), min(row + half, size)
        left, right = max(column - half, 0), min(column + half, size)
    pixels = np.zeros((size, size))
    pixels[top:bottom, left:right] = 1
    return partners, pixels, pixels.mean() if config.get('correct_lam', True) else 1 - lam


def mixed(values, partners, share):
    return (1 - share) * values + share * values[partners]


def assert_mixed(data, partners, pixels, label_share, grid, size):
    """Targets are mixed as the pixels in each token, and labels by their own share."""
    number = len(data['data_samples'])
    expected = unmixed(number, grid)
    shares = np.zeros(grid)
    side = size // grid[0]
    for row in range(grid[0]):
        for column in range(grid[1]):
            block = pixels[row * side:(row + 1) * side, column * side:(column + 1) * side]
            shares[row, column] = block.mean()
    scores, class_scores = targets(data)
    np.testing.assert_allclose(
        scores, mixed(expected, partners, shares[..., None]), atol=2e-5)
    np.testing.assert_allclose(
        class_scores, mixed(unmixed(number, (1, 1))[:, 0, 0], partners, pixels.mean()), atol=2e-5)
    gt_scores = np.stack([sample.gt_score.numpy() for sample in data['data_samples']])
    assert gt_scores.shape == (number, NUM_CLASSES)
    np.testing.assert_allclose(
        gt_scores, mixed(np.eye(NUM_CLASSES)[:number], partners, label_share), atol=1e-6)


@pytest.mark.parametrize('number', [1, 4, 5])
@pytest.mark.parametrize('config', [
    MIXUP, CUTMIX, dict(type='CutMix', alpha=1., correct_lam=False),
    dict(type='CutMix', alpha=1., cutmix_minmax=[0.2, 0.8])
], ids=['mixup', 'cutmix', 'uncorrected', 'minmax'])
def test_targets_are_mixed_as_images(config, number):
    shares = []
    for trial in range(6):
        seed(trial)
        np.random.choice(1)  # the only augmentation is chosen
        drawn = draw_again(config, number, 32)
        seed(trial)
        data = preprocessor([dict(config)])(batch(number), training=True)
        assert_mixed(data, *drawn, (4, 4), 32)
        shares.append(drawn[1].mean())
    assert min(shares) < 0.4 and max(shares) > 0.3


@pytest.mark.parametrize('augments, probs', [
    ([MIXUP, CUTMIX], None), ([MIXUP, CUTMIX], [0.4, 0.3]), ([CUTMIX], 0.5)])
def test_random_choice_of_augmentations(augments, probs):
    chosen = set()
    number = len(augments) + (probs is not None)
    p = None if probs is None else np.ravel(probs).tolist() + [1 - np.sum(probs)]
    mine = preprocessor([dict(augment) for augment in augments], probs)
    for trial in range(12):
        seed(trial)
        index = np.random.choice(number, p=p)
        chosen.add(index)
        if index < len(augments):
            drawn = draw_again(augments[index], 5, 32)
        else:
            drawn = np.arange(5), np.zeros((32, 32)), 0.
        seed(trial)
        assert_mixed(mine(batch(5), training=True), *drawn, (4, 4), 32)
    assert chosen == set(range(number))


@pytest.mark.parametrize('as_list', [False, True])
@pytest.mark.parametrize('config', [MIXUP, CUTMIX], ids=['mixup', 'cutmix'])
def test_mixing_at_the_resolution_of_a_search(config, as_list):
    mine = preprocessor([config])
    for trial, (resolution, grid) in enumerate([(16, (2, 2)), (48, (6, 6)), (24, (3, 3))]):
        mine.resolution = resolution
        seed(trial)
        np.random.choice(1)
        drawn = draw_again(config, 4, resolution)
        seed(trial)
        data = mine(batch(as_list=as_list), training=True)
        assert data['inputs'].shape == (4, 3, resolution, resolution)
        assert_mixed(data, *drawn, grid, resolution)


@pytest.mark.parametrize('augments, as_list, to_rgb', [
    (None, False, True), (None, True, False), ([MIXUP], True, True), ([CUTMIX], False, False),
    ([MIXUP, CUTMIX], False, True), ([MIXUP, CUTMIX], True, False)])
def test_images_are_those_of_the_stock_one(augments, as_list, to_rgb):
    options = dict(augments=augments, probs=augments and [0.4] * len(augments), to_rgb=to_rgb)
    mine, theirs = preprocessor(**options), stock(**options)
    for trial in range(6):
        outputs = []
        for model, maps in ((mine, True), (theirs, False)):
            seed(trial)
            outputs.append(model(batch(5, as_list=as_list, maps=maps), training=True))
        assert torch.equal(outputs[0]['inputs'], outputs[1]['inputs'])
        for sample, other in zip(*(output['data_samples'] for output in outputs)):
            assert torch.equal(sample.gt_label, other.gt_label)
            assert ('gt_score' in sample) == ('gt_score' in other) == (augments is not None)
            if augments is not None:
                assert sample.gt_score.dtype == other.gt_score.dtype
                assert torch.equal(sample.gt_score, other.gt_score)


def test_soft_labels_are_mixed():
    """Samples that bring ``gt_score`` themselves."""
    data = batch(4)
    soft = torch.rand(4, NUM_CLASSES).softmax(-1)
    for sample, score in zip(data['data_samples'], soft):
        sample.set_gt_score(score)
    seed(3)
    np.random.choice(1)
    partners, _, share = draw_again(MIXUP, 4, 32)
    seed(3)
    output = preprocessor([MIXUP])(data, training=True)
    scores = np.stack([sample.gt_score.numpy() for sample in output['data_samples']])
    np.testing.assert_allclose(scores, mixed(soft.numpy(), partners, share), atol=1e-6)


def test_the_callers_images_are_not_changed():
    data = batch()
    before = data['inputs'].clone()
    preprocessor([CUTMIX])(data, training=True)
    assert torch.equal(data['inputs'], before)


@pytest.mark.parametrize('as_list', [False, True])
def test_evaluation_is_untouched(as_list, monkeypatch):
    mine, theirs = preprocessor([MIXUP]), stock([MIXUP])
    mine.resolution = 16
    monkeypatch.setattr('autoprog_mm.models.token_label.token_scores', None)
    for maps in (False, True):
        for args in ((), (False, )):
            data = mine(batch(as_list=as_list, maps=maps), *args)
            assert torch.equal(data['inputs'], theirs(batch(as_list=as_list))['inputs'])
            assert not any('token_score' in s or 'token_class_score' in s
                           for s in data['data_samples'])
    assert mine(dict(inputs=batch()['inputs']), training=True)['data_samples'] is None


def test_unknown_augmentation():
    with pytest.raises(ValueError, match=r"for Mixup and CutMix only, but .* has \['ResizeMix'\]"):
        preprocessor([MIXUP, dict(type='ResizeMix', alpha=1.)])

    class OtherCutMix(CutMix):
        """Might do anything."""

    BATCH_AUGMENTS.register_module(module=OtherCutMix)
    try:
        with pytest.raises(ValueError, match='OtherCutMix'):
            preprocessor([dict(type='OtherCutMix', alpha=1.)], 0.5)
    finally:
        BATCH_AUGMENTS.module_dict.pop('OtherCutMix')


def test_missing_maps():
    for key in ('token_label', 'token_label_box'):
        data = batch()
        data['data_samples'][2].pop(key)
        with pytest.raises(ValueError, match=r"LoadTokenLabel .*algorithm_keys=\('token_label', "):
            preprocessor()(data, training=True)


def test_maps_of_different_shapes_name_both_files():
    data = batch()
    data['data_samples'][2].set_field(random_map(5, 5), 'token_label')
    with pytest.raises(ValueError) as info:
        preprocessor()(data, training=True)
    for part in ('folder/2.jpg', '(2, 3, 5, 5)', 'folder/0.jpg', '(2, 3, 5, 4)'):
        assert part in str(info.value)


@pytest.mark.parametrize('augments', [None, [MIXUP], [CUTMIX]], ids=['none', 'mixup', 'cutmix'])
def test_bfloat16(augments):
    """Under autocast, targets are as exact as without."""
    outputs = []
    for enabled in (False, True):
        seed(2)
        with torch.autocast('cpu', torch.bfloat16, enabled=enabled):
            outputs.append(preprocessor(augments)(batch(5), training=True))
    for mine, theirs in zip(targets(outputs[0]), targets(outputs[1])):
        np.testing.assert_array_equal(mine, theirs)
    for sample, other in zip(*(output['data_samples'] for output in outputs)):
        assert augments is None or torch.equal(sample.gt_score, other.gt_score)


def test_in_a_classifier():
    """Built by mmpretrain, with the augmentations of ``train_cfg``, it feeds the head."""
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            data_preprocessor=dict(
                type='TokenLabelDataPreprocessor', num_classes=NUM_CLASSES, token_size=8,
                mean=[100.] * 3, std=[50.] * 3),
            backbone=dict(
                type='ElasticVOLO',
                arch=dict(layers=(2, 2), embed_dims=(8, 16), num_heads=(2, 2)),
                img_size=32,
                patch_size=4),
            head=dict(
                type='VOLOHead', num_classes=NUM_CLASSES, in_channels=16,
                class_target='token_label'),
            train_cfg=dict(augments=[dict(MIXUP), dict(CUTMIX)])))
    model.train()
    for resolution in (None, 16, 24):
        model.data_preprocessor.resolution = resolution
        data = model.data_preprocessor(batch(), training=True)
        losses = model(**data, mode='loss')
        assert losses.keys() == {'loss_class', 'loss_token'}
        assert all(loss.isfinite() and loss > 0 for loss in losses.values())
