# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Targets of tokens against slow loops and by hand."""
import numpy as np
import pytest
import torch

from autoprog_mm.datasets.transforms.token_label import flip_box
from autoprog_mm.models.token_label import token_scores
from tests.test_models.slow_token_scores import (
    NUM_CLASSES,
    WHOLE,
    random_map,
    slow_means,
    slow_scores,
    softmax,
)


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
    expected = slow_means(label, box, grid, (16, 16))
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
