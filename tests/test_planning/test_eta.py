# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Seconds worked out by hand, of steps that the tests make up."""
import pytest

from autoprog_mm import Subnet
from autoprog_mm.growth import OneShotSearch, build_schedule
from autoprog_mm.planning.eta import Eta

SMALL, MIDDLE, FULL = Subnet(2, 100), Subnet(3, 150), Subnet(4, 200)


def flops(subnet):
    """2, 4.5 and 8 for the three."""
    return subnet.depth * subnet.resolution / 100


def build(num_stages=3, **options):
    stages = build_schedule(num_stages, 6, FULL, dict(depth=0.5, resolution=0.5),
                            resolution_divisor=50)
    return Eta(stages, 20, flops, **options)


def train(eta, subnet, seconds, clock=0.):
    """Steps that take so long each, from an epoch's begin; returns the clock after them."""
    eta.begin_epoch()
    for each in seconds:
        clock += each
        eta.tick(subnet, clock)
    return clock


def test_nothing_is_said_in_the_first_steps():
    eta = build()
    # The first tick starts the clock, the second ends the first measured step.
    clock = train(eta, SMALL, [1.] * 5)
    assert eta.left(0, 5, [SMALL]) is None
    eta.tick(SMALL, clock + 1)
    # 14 + 20 steps of 1 s; of those to come as many as they have FLOPs.
    assert eta.left(0, 6, [SMALL]) == pytest.approx([34 * 1 + 40 * 2.25 + 40 * 4] * 2)


def test_own_steps_count_and_those_of_others_in_proportion():
    eta = build()
    clock = train(eta, SMALL, [4.] * 20)
    clock = train(eta, MIDDLE, [4., 5., 5., 5., 5.], clock)  # the first begins an epoch
    # Four steps are too few: 4.5 / 2 times those of the small one.
    assert eta.left(2, 5, [MIDDLE]) == pytest.approx([35 * 9 + 40 * 16] * 2)
    eta.tick(MIDDLE, clock + 5)
    # 4 + 5 seconds were for 2 + 4.5.
    assert eta.left(2, 6, [MIDDLE]) == pytest.approx([34 * 5 + 40 * 8 * 9 / 6.5] * 2)


@pytest.mark.parametrize('seconds', [
    [7., 400., 4., 4., 4., 4.],
    [7., 4., 4., 400., 4., 4., 1., 5., 3., 900.],
    [7., 400.] + [4.] * 300 + [400., 400.],
])
def test_compiling_does_not_count(seconds):
    eta = build()
    train(eta, SMALL, seconds)
    assert eta.left(1, 0, [SMALL]) == pytest.approx([20 * 4 + 40 * 9 + 40 * 16] * 2)


def test_compiling_a_new_stage_does_not_count():
    """As torch.compile does, for each resolution, in an epoch's first step."""
    eta = build()
    clock = 0.
    for epoch in range(4):
        seconds, compiling = [(4., 400.), (9., 900.)][epoch // 2]
        clock = train(eta, [SMALL, MIDDLE][epoch // 2],
                      [compiling if epoch % 2 == 0 else seconds] + [seconds] * 19, clock)
    # One epoch start of the three that are timed compiles, too.
    assert eta.left(4, 0, [FULL]) == pytest.approx([40 * 8 * 13 / 6.5] * 2)


def test_a_loader_that_delivers_in_bursts():
    """Of eight steps seven wait for nothing; a step takes 3 seconds all the same."""
    eta = build()
    train(eta, SMALL, [1.] + 26 * ([1.] * 7 + [17.]))
    assert eta.left(1, 0, [SMALL]).low == pytest.approx(20 * 3 + 40 * 6.75 + 40 * 12, rel=0.1)


def test_epochs_and_validations():
    eta = build(1, val_steps=2, validates=lambda epoch: epoch % 2 == 0)
    clock = train(eta, FULL, [3.] * 20)
    # The steps of six epochs less those done; two of validation, a third each, three times.
    assert eta.left(0, 20, [FULL]).low == pytest.approx(100 * 3 + 3 * 2 * 1.)
    train(eta, FULL, [13.] + [3.] * 19, clock)  # waits 10 s for the loader
    eta.validated(4, 7.)
    assert eta.left(2, 0, [FULL]).low == pytest.approx(4 * (20 * 3 + 10) + 2 * 7.)
    # Of half of the depth, half of the time.
    eta.validated(2, 7.)
    assert eta.left(2, 0, [FULL]).low == pytest.approx(4 * (20 * 3 + 10) + 2 * 14.)


def test_without_validations():
    eta = build(1)
    train(eta, FULL, [3.] * 20)
    assert eta.left(0, 20, [FULL]) == (100 * 3, ) * 2


def test_searches_leave_a_range():
    search = OneShotSearch(epochs=1, eval_batches=2, evals=(1, 1), cost='time')
    eta = build(2, search=search)
    candidates = [Subnet(d, r) for d in (2, 4) for r in (100, 200)]
    clock = 0.
    for i in range(21):  # a second longer than they have FLOPs
        clock += flops(candidates[i % 4]) + 1
        eta.tick(candidates[i % 4], clock)
    low, high = eta.left(0, 20, candidates)
    # Steps take 3, 5, 5 and 9 s. The last evaluation is done; timing takes each 6 times.
    assert low == pytest.approx(6 * 22 + 2 * 20 * 3 + 3 * 20 * 9)
    assert high == pytest.approx(6 * 22 + 2 * 20 * 9 + 3 * 20 * 9)
    assert eta.left(1, 0, [Subnet(2, 200)]) == pytest.approx([2 * 20 * 5 + 3 * 20 * 9] * 2)
