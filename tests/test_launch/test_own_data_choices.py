# Copyright (c) the autoprog_mm authors. All rights reserved.
import pytest

from autoprog_mm.growth import OneShotSearch, build_schedule, stage_choices
from autoprog_mm.growth.course import Course
from autoprog_mm.launch.own_data_choices import (
    choose_batch_size,
    choose_divisor,
    choose_image_size,
    choose_lr,
    choose_num_stages,
    choose_patch_size,
    choose_search,
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


def test_stages():
    assert [choose_num_stages(budget) for budget in (0.5, 1, 1.9, 2, 3.5, 4, 100)] == [
        1, 1, 1, 2, 3, 4, 4]


@pytest.mark.parametrize('budget, stages, budgeted, epochs', [
    (100, 4, False, 2), (16, 4, False, 2), (15, 4, False, 1), (8, 4, False, 1), (7, 4, False, 0),
    # By hand, of 9 candidates that are two thirds of the full network: 3 scorings of 8 batches, a
    # third of a step each, and 6 steps that are timed, in epochs of 100 steps: 0.84 besides the
    # 4. With one epoch, 2 scorings make it 0.68 besides the 2.
    (19.4, 4, True, 2), (19.3, 4, True, 1), (10.8, 4, True, 1), (10.7, 4, True, 0)])
def test_searches(budget, stages, budgeted, epochs):
    search = dict(type='OneShotSearch', epochs=None, eval_batches=8, evals=(1, 1), cost='time')
    assert choose_search(search, budget, stages, 100, budgeted) == epochs


@pytest.mark.parametrize('speedup', [1., 1.5, 2., 3., 4.])
@pytest.mark.parametrize('epochs', [1, 2, 3, 5, 8, 13, 30, 100])
def test_what_is_chosen_is_not_refused(epochs, speedup):
    """By a course of any steps, however dear subnets are."""
    search = dict(type='OneShotSearch', eval_batches=8, evals=(1, 1), cost='time')
    budget = epochs / speedup
    number = choose_num_stages(budget)
    if epochs < speedup:
        return  # not an epoch of the full network
    for steps in (3, 16, 400):
        length = choose_search(search, budget, number, steps, True) if number > 1 else 0
        stages = build_schedule(number, epochs, dict(depth=12, resolution=32),
                                dict(depth=0.5, resolution=0.5), resolution_divisor=4)
        rows = [c for part in stage_choices(stages) for c in part]
        for least in (0.1, 0.9):
            costs = {s: least + (1 - least) * s.depth * s.resolution / 12 / 32 for s in [
                *rows, *(stage.subnet for stage in stages)]}
            # With costs that are nearly alike, a search's own work may be dearer than guessed.
            found = OneShotSearch(epochs=length, eval_batches=8, evals=(1, 1)) \
                if length and least < 0.5 else None
            assert Course(stages, epochs, steps, speedup, costs=costs, search=found)
