# Copyright (c) the autoprog_mm authors. All rights reserved.
import copy
import os
import pickle
import random

import autoprog_mm  # noqa: F401  (before mmpretrain, which imports torchvision)

# isort: split
import cv2
import numpy as np
import pytest
from mmpretrain.datasets.transforms import RandAugment, RandomErasing, RandomResizedCrop
from mmpretrain.registry import TRANSFORMS
from torch.utils.data import DataLoader, Dataset

from autoprog_mm.datasets import (
    ProgressiveDecodeCrop,
    ProgressiveRandAugment,
    ProgressiveRandomErasing,
    ProgressiveRandomResizedCrop,
)

CROP = dict(scale=24, crop_ratio_range=(0.2, 0.9), aspect_ratio_range=(0.5, 2.))
AUGMENT = dict(
    policies='timm_increasing', num_policies=2, magnitude_level=9, magnitude_std=0.5,
    total_level=10, hparams=dict(pad_val=[104, 116, 124], interpolation='bicubic'))
ERASING = dict(
    erase_prob=0.5, mode='rand', min_area_ratio=0.02, max_area_ratio=1 / 3,
    fill_color=[103.53, 116.28, 123.675], fill_std=[57.375, 57.12, 58.395])
# At level v it adds 10 * v to a black image, so that a pixel tells the level.
ADD_LEVEL = dict(type='SolarizeAdd', magnitude_range=(0, 100), prob=1.)


def images(height=40, width=56, seeds=range(12)):
    for seed in seeds:
        image = np.random.RandomState(seed).randint(0, 256, (height, width, 3), dtype=np.uint8)
        yield seed, image


def apply(transform, image, seed):
    np.random.seed(seed)
    random.seed(seed)
    return transform(dict(img=image.copy(), img_shape=image.shape[:2]))


def assert_same_outputs(ours, stock):
    """Equal for several images, of which the transform changes at least one."""
    changed = False
    for seed, image in images():
        expected, result = apply(stock, image, seed), apply(ours, image, seed)
        box = result.pop('crop_box', None)  # which the stock crop does not tell
        assert box is None or 0 <= box[0] < box[1] <= 1 and 0 <= box[2] < box[3] <= 1
        assert result.keys() == expected.keys()
        assert result['img_shape'] == expected['img_shape']
        np.testing.assert_array_equal(result['img'], expected['img'])
        changed |= not np.array_equal(result['img'], image)
    assert changed


class TestRandomResizedCrop:

    @pytest.mark.parametrize('options', [
        dict(),
        dict(backend='pillow', interpolation='bicubic'),
        dict(max_attempts=0),
        dict(scale=(24, 24)),
    ])
    def test_equals_stock(self, options):
        options = {**CROP, **options}
        assert_same_outputs(ProgressiveRandomResizedCrop(**options), RandomResizedCrop(**options))

    def test_equals_stock_of_the_new_size(self):
        crop = ProgressiveRandomResizedCrop(**CROP)
        crop.resolution = 17
        assert_same_outputs(crop, RandomResizedCrop(**{**CROP, 'scale': 17}))
        assert apply(crop, next(images())[1], 0)['img'].shape == (17, 17, 3)
        assert crop.full_resolution == 24

    def test_positional_arguments_and_registry(self):
        crop = ProgressiveRandomResizedCrop(24, (0.2, 0.9), (0.5, 2.))
        assert_same_outputs(crop, RandomResizedCrop(**CROP))
        built = TRANSFORMS.build(dict(type='ProgressiveRandomResizedCrop', **CROP))
        assert built.resolution == 24
        assert 'scale=(24, 24)' in repr(built)

    @pytest.mark.parametrize('value', [0, -32, 16., '16', True, None])
    def test_bad_resolution(self, value):
        crop = ProgressiveRandomResizedCrop(24)
        with pytest.raises(ValueError, match='resolution .* must be an int of at least 1, but got'):
            crop.resolution = value
        assert crop.resolution == 24

    def test_scale_must_be_square(self):
        with pytest.raises(ValueError, match=r'scale .* must be square, but got \(24, 32\)'):
            ProgressiveRandomResizedCrop((24, 32))


class TestRandAugment:

    @pytest.mark.parametrize('options', [
        dict(),
        dict(magnitude_std='inf'),
        dict(magnitude_std=0., magnitude_level=3),
    ])
    def test_equals_stock(self, options):
        options = {**AUGMENT, **options}
        assert_same_outputs(ProgressiveRandAugment(**options), RandAugment(**options))

    @pytest.mark.parametrize('level', [4, 6.5, 0])
    def test_equals_stock_of_the_new_level(self, level):
        augment = ProgressiveRandAugment(**AUGMENT)
        augment.magnitude_level = level
        assert_same_outputs(augment, RandAugment(**{**AUGMENT, 'magnitude_level': level}))

    def test_reaches_each_sub_transform(self):
        augment = ProgressiveRandAugment(**AUGMENT)
        graded = [t for t, p in zip(augment.transforms, augment.policies)
                  if 'magnitude_range' in p]
        # All of the preset have a magnitude but AutoContrast, Equalize and
        # Invert.
        assert len(augment.transforms) - len(graded) == 3
        assert {t.magnitude_level for t in graded} == {9}
        augment.magnitude_level = 4
        assert {t.magnitude_level for t in graded} == {4}
        assert augment.magnitude_level == 4

    def test_effect_on_a_pixel(self):
        augment = ProgressiveRandAugment([ADD_LEVEL], num_policies=1, magnitude_level=9)
        black = np.zeros((2, 2, 3), dtype=np.uint8)
        assert apply(augment, black, 0)['img'][0, 0, 0] == 90
        augment.magnitude_level = 4
        assert apply(augment, black, 0)['img'][0, 0, 0] == 40

    def test_policies_are_not_changed(self):
        policies = [dict(ADD_LEVEL)]
        ProgressiveRandAugment(policies, num_policies=1, magnitude_level=9).magnitude_level = 4
        assert policies == [ADD_LEVEL]

    @pytest.mark.parametrize('value', [-1, '9', None, True])
    def test_bad_level(self, value):
        augment = ProgressiveRandAugment(**AUGMENT)
        with pytest.raises(ValueError, match=r'magnitude_level .* number in \[0, inf\), but got'):
            augment.magnitude_level = value
        assert augment.magnitude_level == 9


class TestRandomErasing:

    @pytest.mark.parametrize('options', [
        dict(),
        dict(fill_std=None),
        dict(mode='const', fill_color=7, aspect_range=0.5),
    ])
    def test_equals_stock(self, options):
        options = {**ERASING, **options}
        assert_same_outputs(ProgressiveRandomErasing(**options), RandomErasing(**options))

    def test_equals_stock_of_the_new_probability(self):
        erasing = ProgressiveRandomErasing(**ERASING)
        erasing.erase_prob = 1
        assert_same_outputs(erasing, RandomErasing(**{**ERASING, 'erase_prob': 1.}))

    def test_never_and_always(self):
        erasing = ProgressiveRandomErasing(**ERASING)
        for probability in (0., 1.):
            erasing.erase_prob = probability
            erased = [not np.array_equal(apply(erasing, image, seed)['img'], image)
                      for seed, image in images()]
            assert erased == [probability == 1.] * 12

    @pytest.mark.parametrize('value', [-0.1, 1.1, '0.5', None, True, float('nan')])
    def test_bad_probability(self, value):
        erasing = ProgressiveRandomErasing(**ERASING)
        with pytest.raises(ValueError, match=r'erase_prob .* number in \[0, 1\], but got'):
            erasing.erase_prob = value
        assert erasing.erase_prob == 0.5


class Strengths(Dataset):
    """Items that tell what the transforms did, and in which process."""

    def __init__(self, path=None):
        self.path = path
        self.crop = ProgressiveRandomResizedCrop(16)
        self.decode = ProgressiveDecodeCrop(16)
        self.augment = ProgressiveRandAugment([ADD_LEVEL], num_policies=1, magnitude_level=9)
        self.erasing = ProgressiveRandomErasing(
            1., min_area_ratio=.25, max_area_ratio=.25, fill_color=255)

    def set(self, resolution, magnitude_level, erase_prob):
        self.crop.resolution = self.decode.resolution = resolution
        self.augment.magnitude_level = magnitude_level
        self.erasing.erase_prob = erase_prob

    def __len__(self):
        return 8

    def __getitem__(self, index):
        results = dict(img=np.zeros((20, 20, 3), dtype=np.uint8))
        for transform in (self.crop, self.augment, self.erasing):
            results = transform(results)
        image = results['img']
        return (len(image), int(image[image < 255].max()), bool((image == 255).any()),
                self.path and len(self.decode(dict(img_path=self.path))['img']), os.getpid())


def take_as_is(items):
    return items


# One spawned worker will do: it imports everything anew, which takes long.
@pytest.mark.parametrize('context, num_workers', [('fork', 2), ('spawn', 1)])
def test_running_workers_follow(context, num_workers, tmp_path):
    path = str(tmp_path / 'image.jpg')
    cv2.imwrite(path, np.zeros((20, 20, 3), dtype=np.uint8))
    dataset = Strengths(path)
    loader = DataLoader(
        dataset,
        batch_size=2,
        num_workers=num_workers,
        persistent_workers=True,
        collate_fn=take_as_is,
        multiprocessing_context=context)
    workers = []
    # The second change is back up, so that no worker can have it by chance.
    for stage in ((16, 9, 1.), (8, 4, 0.), (12, 6, 1.)):
        dataset.set(*stage)
        items = [item for batch in loader for item in batch]
        expected = (stage[0], 10 * stage[1], stage[2] == 1., stage[0])
        assert [item[:4] for item in items] == [expected] * 8
        workers.append({item[4] for item in items})
    assert len(workers[0]) == num_workers and os.getpid() not in workers[0]
    assert workers[0] == workers[1] == workers[2]
    del loader


def test_deepcopy_follows():
    dataset = Strengths()
    twin = copy.deepcopy(dataset)
    dataset.set(8, 4, 0.)
    assert twin[0][:3] == (8, 40, False)
    assert dataset[0][:3] == (8, 40, False)
    assert copy.copy(dataset.crop).resolution == 8
    # Those of another dataset are no twins.
    assert Strengths()[0][:3] == (16, 90, True)


@pytest.mark.parametrize('name', ['crop', 'augment', 'erasing'])
def test_pickle_does_not_cut_the_link_silently(name):
    with pytest.raises(RuntimeError, match='through inheritance'):
        pickle.dumps(getattr(Strengths(), name))
