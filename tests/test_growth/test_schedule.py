# Copyright (c) the autoprog_mm authors. All rights reserved.
import math

import pytest

from autoprog_mm.growth import Subnet, build_schedule, round_to

DEIT_SMALL = Subnet(depth=12, resolution=224)


def build(num_stages=4, max_epochs=100, full=DEIT_SMALL, scale=0.5, **kwargs):
    return build_schedule(num_stages, max_epochs, full, dict(depth=scale, resolution=scale),
                          **kwargs)


@pytest.mark.parametrize('full_depth, scale, resolutions, depths', [
    (12, 0.5, [128, 160, 192, 224], [6, 8, 10, 12]),
    (12, 0.4, [96, 128, 192, 224], [5, 7, 10, 12]),
    (18, 0.5, [128, 160, 192, 224], [9, 12, 15, 18]),
    (18, 0.4, [96, 128, 192, 224], [7, 11, 14, 18]),
    (24, 0.5, [128, 160, 192, 224], [12, 16, 20, 24]),
])
def test_subnets(full_depth, scale, resolutions, depths):
    stages = build(full=Subnet(full_depth, 224), scale=scale)
    assert [stage.index for stage in stages] == [0, 1, 2, 3]
    assert [stage.subnet.resolution for stage in stages] == resolutions
    assert [stage.subnet.depth for stage in stages] == depths


@pytest.mark.parametrize('num_stages, max_epochs, begins', [
    (4, 100, [0, 25, 50, 75]),
    (4, 10, [0, 2, 5, 7]),
    (4, 24, [0, 6, 12, 18]),
    (3, 5, [0, 1, 3]),
    (4, 4, [0, 1, 2, 3]),
    (1, 7, [0]),
])
def test_epochs(num_stages, max_epochs, begins):
    stages = build(num_stages, max_epochs)
    assert [stage.begin_epoch for stage in stages] == begins
    assert [stage.end_epoch for stage in stages] == begins[1:] + [max_epochs]


@pytest.mark.parametrize('num_stages, max_epochs, cooldown, begins', [
    (4, 110, 10, [0, 25, 50, 75]),
    (3, 9, 2, [0, 2, 4]),
    (1, 7, 2, [0]),
    (4, 14, 10, [0, 1, 2, 3]),
])
def test_the_last_stage_has_the_cooldown(num_stages, max_epochs, cooldown, begins):
    stages = build(num_stages, max_epochs, cooldown_epochs=cooldown)
    assert [stage.begin_epoch for stage in stages] == begins
    assert [stage.end_epoch for stage in stages] == begins[1:] + [max_epochs]


def test_stages_need_an_epoch_before_the_cooldown():
    with pytest.raises(ValueError, match=r'\(4\) must not exceed max_epochs \(13 less 10 of cool'):
        build(4, 13, cooldown_epochs=10)


def test_single_stage_is_the_full_network():
    stage, = build(
        1,
        100,
        scale=0.4,
        regularization=dict(rand_augment=0.5, random_erasing=0., drop_path=0.),
        full_regularization=dict(rand_augment=9, random_erasing=0.25, drop_path=0.1))
    assert stage.subnet == Subnet(12, 224)
    assert (stage.begin_epoch, stage.end_epoch) == (0, 100)
    assert stage.regularization == dict(rand_augment=9, random_erasing=0.25, drop_path=0.1)


@pytest.mark.parametrize('num_stages', [1, 2, 3, 4, 5, 7])
@pytest.mark.parametrize('scale', [0.1, 0.3, 0.4, 0.5, 0.7, 1])
def test_last_stage_is_the_full_network(num_stages, scale):
    stages = build(num_stages, full=Subnet(13, 160), scale=scale)
    assert len(stages) == num_stages
    assert stages[-1].subnet == Subnet(13, 160)
    assert all(1 <= stage.subnet.depth <= 13 for stage in stages)
    assert all(32 <= stage.subnet.resolution <= 160 for stage in stages)


def test_quantities_grow_on_their_own():
    stages = build_schedule(4, 100, dict(depth=12, resolution=224), dict(depth=0.4))
    assert [stage.subnet for stage in stages] == [
        Subnet(5, 224), Subnet(7, 224), Subnet(10, 224), Subnet(12, 224)]
    stages = build_schedule(4, 100, Subnet(12, 224), dict(resolution=0.5, depth=1.))
    assert [stage.subnet for stage in stages] == [
        Subnet(12, 128), Subnet(12, 160), Subnet(12, 192), Subnet(12, 224)]


def test_resolution_divisor():
    # 16, 21.3, 26.7 and 32 to multiples of 4: 26.7 is nearer to 28 than to 24.
    stages = build(full=Subnet(8, 32), resolution_divisor=4)
    assert [stage.subnet.resolution for stage in stages] == [16, 20, 28, 32]
    # 16, 21.3, 26.7 and 32 to multiples of 16: 16 would lose more than a tenth of 21.3.
    stages = build(full=Subnet(8, 32), resolution_divisor=16)
    assert [stage.subnet.resolution for stage in stages] == [16, 32, 32, 32]


def test_regularization():
    stages = build(
        regularization=dict(rand_augment=0.5, random_erasing=0., drop_path=0.),
        full_regularization=dict(rand_augment=9, random_erasing=0.25, drop_path=0.1))
    strengths = [stage.regularization for stage in stages]
    assert [s['rand_augment'] for s in strengths] == [4, 6, 7, 9]
    assert all(isinstance(s['rand_augment'], int) for s in strengths)
    assert [s['random_erasing'] for s in strengths] == pytest.approx([0, 1 / 12, 1 / 6, 1 / 4])
    assert [s['drop_path'] for s in strengths] == pytest.approx([0, 1 / 30, 1 / 15, 1 / 10])
    # Not "almost": the full run must have what its config says.
    assert strengths[0]['drop_path'] == 0 and strengths[-1]['drop_path'] == 0.1


def test_magnitudes_are_rounded():
    # 5, 6.67, 8.33 and 10.
    stages = build(regularization=dict(rand_augment=0.5), full_regularization=dict(rand_augment=10))
    assert [stage.regularization['rand_augment'] for stage in stages] == [5, 7, 8, 10]


def test_regularization_left_out():
    stages = build(
        2,
        regularization=dict(drop_path=0.5, random_erasing=0.5),
        full_regularization=dict(drop_path=0.2, rand_augment=7))
    # No full value: not scheduled. No initial scale: the same in all stages.
    assert stages[0].regularization == dict(drop_path=0.1, rand_augment=7)
    assert stages[1].regularization == dict(drop_path=0.2, rand_augment=7)
    assert all(stage.regularization == {} for stage in build(regularization=dict(drop_path=0.5)))


def test_regularization_is_never_negative():
    stages = build(full_regularization=dict(drop_path=-0.1, random_erasing=0.1))
    assert [stage.regularization['drop_path'] for stage in stages] == [0, 0, 0, 0]


def test_arguments_are_not_changed():
    full, scale = dict(depth=12, resolution=224), dict(depth=0.5, resolution=0.5)
    regularization, strength = dict(drop_path=0.), dict(drop_path=0.1)
    build_schedule(4, 100, full, scale, regularization, strength)
    assert full == dict(depth=12, resolution=224)
    assert scale == dict(depth=0.5, resolution=0.5)
    assert (regularization, strength) == (dict(drop_path=0.), dict(drop_path=0.1))


@pytest.mark.parametrize('value, divisor, rounded', [
    (89.6, 32, 96),
    (134.4, 32, 128),
    (179.2, 32, 192),
    (35, 32, 32),   # 32 loses less than a tenth of 35
    (45, 32, 64),   # 32 is nearer, but loses more than a tenth
    (48, 32, 64),
    (10, 32, 32),
    (4.8, 1, 5),
    (9.6, 1, 10),
    (7.2, 1, 7),
    (6.5, 1, 7),
    (0.4, 1, 1),
    (1.2, 1, 2),    # 1 is nearer, but loses more than a tenth
    (0.23 * 18, 2, 4),
    (0.23 * 9, 2, 2),
    (0.23 * 12, 2, 4),
])
def test_round_to(value, divisor, rounded):
    assert round_to(value, divisor) == rounded


@pytest.mark.parametrize('kwargs, match', [
    (dict(num_stages=0), r'num_stages must be an int of at least 1, but got 0'),
    (dict(num_stages=2.), r'num_stages must be an int of at least 1, but got 2\.0'),
    (dict(num_stages=True), r'num_stages must be an int of at least 1, but got True'),
    (dict(max_epochs=0), r'max_epochs must be an int of at least 1, but got 0'),
    (dict(max_epochs='100'), r"max_epochs must be an int of at least 1, but got '100'"),
    (dict(num_stages=4, max_epochs=3), r'num_stages \(4\) must not exceed max_epochs \(3\)'),
    (dict(resolution_divisor=0), r'resolution_divisor must be an int of at least 1, but got 0'),
    (dict(resolution_divisor=48), r'resolution_divisor \(48\) must divide .* \(224\)'),
    (dict(initial_scale=dict(width=0.5)), r"initial_scale got unknown keys \['width'\]"),
    (dict(initial_scale=dict(depth=0)), r'initial_scale\.depth must be a number in \(0, 1\]'),
    (dict(initial_scale=dict(resolution=1.2)), r'initial_scale\.resolution .* but got 1\.2'),
    (dict(initial_scale=dict(depth=-0.5)), r'initial_scale\.depth .* but got -0\.5'),
    (dict(initial_scale=dict(depth=math.nan)), r'initial_scale\.depth .* but got nan'),
    (dict(initial_scale=dict(depth=True)), r'initial_scale\.depth .* but got True'),
    (dict(initial_scale=dict(depth='half')), r"initial_scale\.depth .* but got 'half'"),
    (dict(regularization=dict(mixup=0.5)), r"regularization got unknown keys \['mixup'\]"),
    (dict(regularization=dict(drop_path=-0.1)),
     r'regularization\.drop_path must be a number in \[0, 1\], but got -0\.1'),
    (dict(regularization=dict(rand_augment=1.5)), r'regularization\.rand_augment .* got 1\.5'),
    (dict(full=dict(depth=0, resolution=224)), r'Subnet\.depth must be an int of at least 1'),
])
def test_errors(kwargs, match):
    arguments = dict(
        num_stages=4, max_epochs=100, full=Subnet(12, 224), initial_scale=dict(depth=0.5))
    arguments.update(kwargs)
    with pytest.raises(ValueError, match=match):
        build_schedule(**arguments)


def test_regularization_scale_may_be_zero():
    assert build(regularization=dict(drop_path=0))[0].regularization == {}


@pytest.mark.parametrize('kwargs, match', [
    (dict(depth=0, resolution=224), r'Subnet\.depth must be an int of at least 1, but got 0'),
    (dict(depth=6., resolution=224), r'Subnet\.depth must be an int of at least 1, but got 6\.0'),
    (dict(depth=6, resolution=True), r'Subnet\.resolution must be an int .* but got True'),
])
def test_subnet_errors(kwargs, match):
    with pytest.raises(ValueError, match=match):
        Subnet(**kwargs)


def test_subnet_is_frozen():
    subnet = Subnet(depth=6, resolution=128)
    with pytest.raises(AttributeError):
        subnet.depth = 7
    assert subnet == Subnet(6, 128) and hash(subnet) == hash(Subnet(6, 128))


def test_subnet_that_covers_others():
    assert Subnet.covering([Subnet(6, 160), Subnet(8, 128), Subnet(7, 96)]) == Subnet(8, 160)
    assert Subnet.covering([Subnet(6, 128)]) == Subnet(6, 128)
    assert str(Subnet(6, 128)) == '6x128'
