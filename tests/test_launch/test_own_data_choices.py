# Copyright (c) the autoprog_mm authors. All rights reserved.
import pytest

from autoprog_mm.growth import build_schedule
from autoprog_mm.launch.own_data_choices import (
    choose_batch_size,
    choose_divisor,
    choose_image_size,
    choose_lr,
    choose_patch_size,
)


@pytest.mark.parametrize('short_side, size', [
    (20, 32), (28, 32), (32, 32), (51, 32), (52, 64), (64, 64), (76, 64), (77, 96), (103, 128),
    (179, 128), (180, 224), (375, 224), (3000, 224)])
def test_image_size(short_side, size):
    assert choose_image_size(short_side) == size


@pytest.mark.parametrize('size, patch, divisor, resolutions', [
    # Of a schedule from a half on, by hand.
    (32, 4, 4, [16, 20, 28, 32]),
    (64, 8, 8, [32, 40, 56, 64]),
    (96, 8, 8, [48, 64, 80, 96]),
    (128, 16, 16, [64, 80, 112, 128]),
    (224, 16, 32, [128, 160, 192, 224]),
    (28, 4, 4, [16, 20, 24, 28]),
    (112, 8, 16, [64, 80, 96, 112]),
])
def test_sizes_give_a_schedule_that_grows(size, patch, divisor, resolutions):
    assert choose_patch_size(size) == patch
    assert choose_divisor(size, patch) == divisor
    stages = build_schedule(4, 8, dict(depth=12, resolution=size),
                            dict(depth=0.5, resolution=0.5), resolution_divisor=divisor)
    assert [stage.subnet.resolution for stage in stages] == resolutions


def test_no_patch_size():
    with pytest.raises(ValueError, match='image_size must be a multiple of 4, but got 50'):
        choose_patch_size(50)


@pytest.mark.parametrize('images, batch', [
    (10**6, 128), (2048, 128), (2047, 64), (1800, 64), (512, 32), (511, 16), (100, 8), (8, 8),
    (5, 5), (2, 2)])
def test_batch_size(images, batch):
    assert choose_batch_size(images) == batch


def test_lr():
    assert [choose_lr(batch) for batch in (8, 64, 512, 1024, 2048)] == [
        5e-4, 5e-4, 5e-4, 1e-3, 2e-3]
