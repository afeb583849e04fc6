# Copyright (c) the autoprog_mm authors. All rights reserved.
import autoprog_mm  # noqa: F401  (before mmpretrain, which imports torchvision)

# isort: split
import numpy as np
import pytest
from mmpretrain.datasets.transforms import AutoContrast, Equalize, Invert

from autoprog_mm.datasets import ProgressiveRandAugment
from autoprog_mm.datasets.transforms import tables
from autoprog_mm.datasets.transforms.tables import by_table


def images():
    random = np.random.RandomState(0)
    for low, high in ((0, 256), (40, 90), (7, 8), (0, 2), (254, 256), (100, 103)):
        for shape in ((17, 23, 3), (5, 5, 3), (64, 64, 3)):
            yield random.randint(low, high, shape, dtype=np.uint8)
    yield np.clip(random.normal(90, 30, (50, 40, 3)), 0, 255).astype(np.uint8)
    yield np.stack([np.arange(256, dtype=np.uint8).reshape(16, 16)] * 3, -1)
    uneven = random.randint(0, 256, (90, 90, 3), dtype=np.uint8)
    uneven[:80] //= 60  # few values have most of the pixels
    yield uneven
    yield uneven[::2, 3:50]


@pytest.mark.parametrize('kind', [AutoContrast, Equalize])
def test_equals_stock(kind):
    stock = kind(prob=1.)
    ours = by_table(stock)
    assert type(ours) is not kind and isinstance(ours, kind)
    changed = 0
    for image in images():
        before = image.copy()
        expected, result = (t.transform(dict(img=image))['img'] for t in (stock, ours))
        np.testing.assert_array_equal(result, expected)
        assert result.dtype == np.uint8 and result.flags.c_contiguous
        np.testing.assert_array_equal(image, before)
        changed += not np.array_equal(result, image)
    assert changed > 8


@pytest.mark.parametrize('kind', [AutoContrast, Equalize])
def test_keeps_the_options_and_the_draws(kind):
    stock = kind(prob=0.3)
    ours = by_table(stock)
    assert ours.prob == 0.3 and repr(ours).endswith('(prob=0.3)')
    image = next(images()) // 2
    for seed in range(20):
        outputs = []
        for transform in (stock, ours):
            np.random.seed(seed)
            outputs.append((transform.transform(dict(img=image))['img'], np.random.rand()))
        np.testing.assert_array_equal(outputs[0][0], outputs[1][0])
        assert outputs[0][1] == outputs[1][1]
    for odd in (image.astype(np.int32), np.concatenate([image, image], -1)):
        results = [t.transform(dict(img=odd))['img'] for t in (kind(prob=1.),
                                                              by_table(kind(prob=1.)))]
        np.testing.assert_array_equal(*results)


def test_others_stay():

    class Own(AutoContrast):
        pass

    for transform in (Invert(), Own()):
        assert by_table(transform) is transform


def test_are_what_rand_augment_uses():
    augment = ProgressiveRandAugment('timm_increasing', 2, 9)
    names = [type(transform).__name__ for transform in augment.transforms]
    assert names[:3] == ['AutoContrast', 'Equalize', 'Invert']
    assert [type(transform) for transform in augment.transforms[:3]] == [
        tables.AutoContrast, tables.Equalize, Invert]
