# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Targets of tokens against slow loops, and their mixing against drawing again."""
import copy

import autoprog_mm  # noqa: F401  (before mmpretrain, which imports torchvision)

# isort: split
import numpy as np
import pytest
import torch
from mmpretrain.models import ClsDataPreprocessor
from mmpretrain.models.utils.batch_augments import CutMix
from mmpretrain.registry import BATCH_AUGMENTS, MODELS
from mmpretrain.structures import DataSample

from autoprog_mm.datasets.transforms.token_label import flip_box
from autoprog_mm.models import TokenLabelDataPreprocessor
from autoprog_mm.models.token_label import token_scores

NUM_CLASSES = 6
WHOLE = (0., 1., 0., 1.)


def random_map(height, width, k=3, seed=0):
    """A label map: (2, k, H, W), scores before the classes."""
    rng = np.random.RandomState(seed)
    scores = rng.normal(0, 2, (k, height, width))
    classes = rng.rand(NUM_CLASSES, height, width).argsort(0)[:k]
    return torch.tensor(np.stack([scores, classes]), dtype=torch.float32)


def slow_means(label, box, grid, points, num_classes=NUM_CLASSES):
    """Mean scores of each token over ``points`` x ``points`` places in it, one by one."""
    _, k, height, width = label.shape
    dense = np.zeros((height, width, num_classes))
    for y in range(height):
        for x in range(width):
            for i in range(k):
                dense[y, x, int(label[1, i, y, x])] = label[0, i, y, x]

    def at(y, x):
        """Bilinear, y and x as fractions; cell i has its centre at (i + 0.5) / cells."""
        y, x = y * height - 0.5, x * width - 0.5
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
        y0, x0 = int(np.floor(y)), int(np.floor(x))
        y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
        dy, dx = y - y0, x - x0
        return (1 - dy) * ((1 - dx) * dense[y0, x0] + dx * dense[y0, x1]) + \
            dy * ((1 - dx) * dense[y1, x0] + dx * dense[y1, x1])

    rows, columns = points
    top, bottom, left, right = map(float, box)
    means = np.zeros((*grid, num_classes))
    for r in range(grid[0]):
        for c in range(grid[1]):
            for i in range(rows):
                for j in range(columns):
                    y = top + (bottom - top) * (r + (i + 0.5) / rows) / grid[0]
                    x = left + (right - left) * (c + (j + 0.5) / columns) / grid[1]
                    means[r, c] += at(y, x) / (rows * columns)
    return means


def softmax(scores):
    exponentials = np.exp(scores - scores.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def slow_scores(label, box, grid, points):
    return softmax(slow_means(label, box, grid, points))


def scores_of(label, box, grid, num_classes=NUM_CLASSES):
    """Of a single map."""
    result = token_scores(label[None], torch.tensor([box]), grid, num_classes)
    assert result.shape == (1, *grid, num_classes) and result.dtype == torch.float32
    torch.testing.assert_close(result.sum(-1), torch.ones(1, *grid))
    return result[0].numpy()


def by_hand(values, box, num_tokens):
    """Means over the tokens of a row of cells, all of class 0."""
    label = torch.zeros(2, 1, 1, len(values))
    label[0, 0, 0] = torch.tensor(values)
    scores = scores_of(label, (0., 1., *box), (1, num_tokens), 2)[0]
    return np.log(scores[:, 0] / scores[:, 1])  # class 1 has a score of 0


# ------------------------------------------------------------------ one sample


# As many points as there are two a cell of a token as wide as it can be.
@pytest.mark.parametrize('shape, grid, points', [
    ((5, 5), (5, 5), (2, 2)),
    ((7, 4), (2, 3), (7, 3)),
    ((3, 3), (1, 1), (6, 6)),
    ((2, 3), (8, 5), (1, 2)),
    ((6, 6), (4, 2), (3, 6)),
    ((1, 1), (2, 2), (1, 1)),
])
@pytest.mark.parametrize('box', [
    WHOLE, (0.25, 0.75, 0.1, 0.9), (0., 0.3, 0.62, 1.), (0.41, 0.43, 0.5, 0.55)])
def test_slow_loops(shape, grid, points, box):
    label = random_map(*shape)
    expected = slow_scores(label, box, grid, points)
    np.testing.assert_allclose(scores_of(label, box, grid), expected, atol=1e-5)


@pytest.mark.parametrize('shape, grid, box', [
    ((5, 5), (5, 5), WHOLE), ((7, 4), (2, 3), (0.2, 0.9, 0., 0.4)), ((3, 2), (3, 1), WHOLE)])
def test_is_nearly_the_mean_over_all_places(shape, grid, box):
    label = random_map(*shape)
    expected = slow_means(label, box, grid, (24, 24))
    scores = np.log(scores_of(label, box, grid))
    means = scores - scores.mean(-1, keepdims=True)  # softmax leaves a constant open
    expected -= expected.mean(-1, keepdims=True)
    assert np.abs(means - expected).max() < 0.15
    assert np.abs(means - expected).mean() < 0.03
    assert np.abs(expected).mean() > 0.5


def test_tokens_as_large_as_cells():
    # Interpolated, a cell goes over into its neighbours: an eighth of each is theirs.
    assert by_hand([0., 8., 0.], (0., 1.), 3) == pytest.approx([1, 6, 1], abs=1e-4)
    assert by_hand([8., 0., 0.], (0., 1.), 3) == pytest.approx([7, 1, 0], abs=1e-4)
    # A crop of the middle cell alone; two more to the right.
    assert by_hand([0., 8., 0., 0., 0.], (0.2, 0.4), 1) == pytest.approx([6], abs=0.1)
    assert by_hand([0., 1., 2., 3., 4.], (0.2, 0.8), 3) == pytest.approx([1, 2, 3], abs=1e-4)


def test_a_ramp_stays_a_ramp():
    ramp = [0., 1., 2., 3., 4., 5., 6., 7.]
    # The centre of the first cell is at 1/16, that of the last at 15/16.
    assert by_hand(ramp, (0.25, 0.75), 4) == pytest.approx([2, 3, 4, 5], abs=1e-4)
    assert by_hand(ramp, (0.25, 0.75), 2) == pytest.approx([2.5, 4.5], abs=1e-4)
    assert by_hand(ramp, (0.25, 0.5), 8) == pytest.approx(
        [1.625, 1.875, 2.125, 2.375, 2.625, 2.875, 3.125, 3.375], abs=1e-4)
    # Beyond the outer centres nothing changes: the first quarter of a cell is all 0.
    assert by_hand(ramp, (0., 1 / 32), 1) == pytest.approx([0], abs=1e-4)
    assert by_hand(ramp, (31 / 32, 1.), 1) == pytest.approx([7], abs=1e-4)
    assert by_hand(ramp, (0., 1.), 1) == pytest.approx([3.5], abs=1e-4)


def test_exact_cells():
    """A crop of whole cells, each as its neighbours are, gives these cells."""
    label = torch.zeros(2, 1, 9, 9)
    for block in range(9):
        rows, columns = slice(block // 3 * 3, block // 3 * 3 + 3), slice(
            block % 3 * 3, block % 3 * 3 + 3)
        label[0, 0, rows, columns] = 1. + block
        label[1, 0, rows, columns] = block % NUM_CLASSES
    for block in range(9):
        top, left = block // 3 * 3 + 1, block % 3 * 3 + 1
        box = top / 9, (top + 1) / 9, left / 9, (left + 1) / 9
        scores = scores_of(label, box, (2, 2))
        expected = np.ones(NUM_CLASSES)
        expected[block % NUM_CLASSES] = np.exp(1. + block)
        np.testing.assert_allclose(
            scores, np.broadcast_to(expected / expected.sum(), scores.shape), rtol=1e-3)
    # Crops of six by six cells: a token a block, but for the border between blocks.
    scores = scores_of(label, (0., 6 / 9, 3 / 9, 1.), (2, 2))
    assert [[int(c) for c in row] for row in scores.argmax(-1)] == [[1, 2], [4, 5]]


@pytest.mark.parametrize('direction, axes', [
    ('horizontal', (1, )), ('vertical', (0, )), ('diagonal', (0, 1)), (None, ())])
def test_flip(direction, axes):
    """Of the flipped map and box, the result is flipped."""
    label, box = random_map(5, 7), (0.1, 0.55, 0.3, 0.97)
    plain = scores_of(label, box, (3, 4))
    flipped = scores_of(label.flip([axis + 2 for axis in axes]), flip_box(box, direction), (3, 4))
    np.testing.assert_allclose(flipped, np.flip(plain, axes), atol=1e-5)
    assert direction is None or np.abs(flipped - plain).max() > 0.05


def test_flip_box_by_hand():
    box = (0.1, 0.5, 0.7, 0.8)
    assert flip_box(box, None) == box
    assert flip_box(box, 'horizontal') == pytest.approx((0.1, 0.5, 0.2, 0.3))
    assert flip_box(box, 'vertical') == pytest.approx((0.5, 0.9, 0.7, 0.8))
    assert flip_box(box, 'diagonal') == pytest.approx((0.5, 0.9, 0.2, 0.3))
    for direction in ('horizontal', 'vertical', 'diagonal'):
        assert flip_box(flip_box(box, direction), direction) == pytest.approx(box)


@pytest.mark.parametrize('shape', [(5, 5), (1, 4), (9, 2)])
def test_whole_map(shape):
    """One token for all of it has the plain mean of all cells."""
    label = random_map(*shape)
    dense = np.zeros((NUM_CLASSES, *shape))
    np.put_along_axis(dense, label[1].numpy().astype(int), label[0].numpy(), 0)
    np.testing.assert_allclose(
        scores_of(label, WHOLE, (1, 1))[0, 0], softmax(dense.mean((1, 2))), atol=1e-5)


def test_crops_are_parts_of_the_whole():
    """A token of a crop is that of the whole map at the same place."""
    label = random_map(6, 6)
    whole = scores_of(label, WHOLE, (12, 12))
    part = scores_of(label, (3 / 12, 9 / 12, 5 / 12, 11 / 12), (6, 6))
    np.testing.assert_allclose(part, whole[3:9, 5:11], atol=0.01)


def test_classes_that_no_cell_names():
    label = torch.zeros(2, 1, 2, 2)
    label[0], label[1] = 3., 4.
    expected = np.ones(NUM_CLASSES)
    expected[4] = np.exp(3.)
    np.testing.assert_allclose(
        scores_of(label, WHOLE, (1, 1))[0, 0], expected / expected.sum(), rtol=1e-5)
    # The last class there is, too.
    label[1] = NUM_CLASSES - 1
    assert scores_of(label, WHOLE, (2, 2)).argmax(-1).tolist() == [[5, 5], [5, 5]]


def test_samples_are_apart():
    labels = [random_map(4, 5, seed=seed) for seed in range(3)]
    boxes = [WHOLE, (0.5, 0.75, 0., 0.2), (0.1, 1., 0.3, 0.6)]
    together = token_scores(torch.stack(labels), torch.tensor(boxes), (3, 2), NUM_CLASSES)
    for i in range(3):
        np.testing.assert_allclose(
            together[i].numpy(), scores_of(labels[i], boxes[i], (3, 2)), atol=1e-6)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64, torch.int8])
def test_stored_types(dtype):
    label = random_map(4, 4).round()  # small integers, which all of them store exactly
    scores = token_scores(label[None].to(dtype), torch.tensor([WHOLE]), (2, 2), NUM_CLASSES)
    assert scores.dtype == torch.float32
    np.testing.assert_allclose(scores[0].numpy(), scores_of(label, WHOLE, (2, 2)), atol=1e-6)


# ------------------------------------------------------------ the preprocessor


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


@pytest.mark.parametrize('as_list', [False, True])
@pytest.mark.parametrize('resolution, grid', [
    (None, (4, 4)), (16, (2, 2)), (24, (3, 3)), (32, (4, 4)), (48, (6, 6))])
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


# --------------------------------------------------------------------- mixing


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


@pytest.mark.parametrize('to_rgb', [False, True])
@pytest.mark.parametrize('as_list', [False, True])
@pytest.mark.parametrize('augments', [None, [MIXUP], [CUTMIX], [MIXUP, CUTMIX]],
                         ids=['none', 'mixup', 'cutmix', 'both'])
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


# ------------------------------------------------------- evaluation and errors


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
