# Copyright (c) the autoprog_mm authors. All rights reserved.
import math

import numpy as np
import pytest

from autoprog_mm.growth import (
    Subnet,
    build_schedule,
    choose,
    choose_at_equal_compute,
    evaluation_steps,
    stage_candidates,
    stage_choices,
)

NAN, INF = math.nan, math.inf


def deit_small(num_stages=4, scale=0.5):
    return build_schedule(num_stages, 100, Subnet(12, 224), dict(depth=scale, resolution=scale))


def pairs(depths, resolutions):
    return [Subnet(depth, resolution) for depth in depths for resolution in resolutions]


# ------------------------------------------------------------------ candidates


@pytest.mark.parametrize('num_stages, scale, depths, resolutions', [
    (4, 0.5, [6, 10, 12], [128, 192, 224]),
    (4, 0.4, [5, 10, 12], [96, 192, 224]),
    (2, 0.5, [6, 12], [128, 224]),
    (3, 0.5, [6, 9, 12], [128, 160, 224]),
])
def test_candidates_of_the_first_stage(num_stages, scale, depths, resolutions):
    # What ran before plays no part.
    for current in (Subnet(12, 224), Subnet(6, 128)):
        candidates = stage_candidates(deit_small(num_stages, scale), 0, current)
        assert candidates == pairs(depths, resolutions)


@pytest.mark.parametrize('index, current, depths, resolutions', [
    (1, Subnet(6, 128), [8, 10, 12], [128, 160]),
    (1, Subnet(10, 128), [12], [128, 160]),
    (2, Subnet(6, 128), [8, 10, 12], [128, 160]),
    (2, Subnet(8, 192), [10, 12], [192, 224]),
    (2, Subnet(10, 224), [12], [224]),
    (1, Subnet(12, 192), [12], [192, 224]),
    (2, Subnet(12, 224), [12], [224]),
])
def test_candidates_of_later_stages(index, current, depths, resolutions):
    """Depth goes on to the next at least; resolution may stay."""
    assert stage_candidates(deit_small(), index, current) == pairs(depths, resolutions)


def test_three_depths_are_looked_at():
    stages = deit_small(5)  # depths 6 8 9 10 12... of which three come next
    depths = sorted({stage.subnet.depth for stage in stages})
    assert stage_candidates(stages, 1, Subnet(depths[0], 224)) == pairs(depths[1:4], [224])


@pytest.mark.parametrize('num_stages', [2, 5, 8])
@pytest.mark.parametrize('scale', [0.1, 0.5, 1.])
def test_candidates_of_all_that_can_be_reached(num_stages, scale):
    """Wherever a run may be, there is something to run, and depth never stays behind."""
    stages = deit_small(num_stages, scale)
    reached, choices = [stages[0].subnet], stage_choices(stages)
    for stage in stages:
        following = set()
        for current in reached:
            candidates = stage_candidates(stages, stage.index, current)
            assert candidates and len(set(candidates)) == len(candidates)
            for c in candidates:
                assert stage.index == 0 or c.resolution >= current.resolution and (
                    c.depth > current.depth or c.depth == current.depth == 12)
            following |= set(candidates)
        assert set(choices[stage.index]) == following
        reached = sorted(following, key=lambda c: (c.depth, c.resolution))
    assert reached == [stages[-1].subnet]


def test_last_stage_has_one_candidate():
    assert stage_candidates(deit_small(), 3, Subnet(6, 128)) == [Subnet(12, 224)]
    assert stage_candidates(deit_small(1), 0, Subnet(12, 224)) == [Subnet(12, 224)]


def test_candidates_of_what_does_not_grow():
    stages = build_schedule(4, 100, Subnet(12, 224), dict(depth=0.5))
    assert stage_candidates(stages, 0, Subnet(12, 224)) == pairs([6, 10, 12], [224])
    assert stage_candidates(stages, 1, Subnet(6, 224)) == pairs([8, 10, 12], [224])
    stages = build_schedule(4, 100, Subnet(12, 224), dict())
    assert stage_candidates(stages, 0, Subnet(12, 224)) == [Subnet(12, 224)]


@pytest.mark.parametrize('num_steps, num_evals, steps', [
    (100, 1, [100]),
    (100, 4, [25, 50, 75, 100]),
    (10, 4, [3, 5, 8, 10]),
    (7, 3, [3, 5, 7]),
    (3, 5, [1, 2, 3]),
    (1, 4, [1]),
])
def test_evaluation_steps(num_steps, num_evals, steps):
    assert evaluation_steps(num_steps, num_evals) == steps


# --------------------------------------------------------------------- choice


@pytest.mark.parametrize('scale', [1., 0.031, 1e9])
def test_choose_by_hand(scale):
    # In powers of 2, the losses 3 2 2 over the costs 0 1 2 have a slope of -1/2;
    # the scores are 3, 2.5 and 3. The unit of the cost plays no part.
    index, w = choose([scale, 2 * scale, 4 * scale], [8., 4., 4.])
    assert index == 1
    assert w == pytest.approx(0.5)


def test_choose_may_take_a_higher_loss():
    # In powers of 2: losses 4 2 1.5 0.5 over 0 1 2 3; slope -(1.5*4+.5*2-.5*1.5-1.5*.5)/5
    # = -1.1; scores 4, 3.1, 3.7 and 3.8.
    index, w = choose([1., 2., 4., 8.], [2.**4, 2.**2, 2.**1.5, 2.**0.5])
    assert index == 1
    assert w == pytest.approx(1.1)


@pytest.mark.parametrize('seed', range(5))
def test_fit_is_numpys(seed):
    rng = np.random.default_rng(seed)
    times = rng.uniform(0.01, 0.5, 9)
    losses = 5 * times**-0.2 * rng.uniform(0.95, 1.05, 9)
    slope, intercept = np.polyfit(np.log(times), np.log(losses), 1)
    residuals = np.log(losses) - (slope * np.log(times) + intercept)
    index, w = choose(times.tolist(), losses.tolist(), fallback_w=7.)
    assert w == pytest.approx(-slope, rel=1e-6)
    assert index == residuals.argmin()


def test_exact_power_law_goes_to_the_cheapest():
    assert choose([4., 1., 2.], [2., 8., 4.]) == (1, pytest.approx(1.))
    # Here rounding leaves differences of about 1e-16, which must not decide.
    times = [0.113, 0.2711, 0.057, 0.0313, 0.0787]
    for w in (0.021, 0.3, 0.37, 1.7):
        index, fitted = choose(times, [3.7 * t**-w for t in times])
        assert index == 3
        assert fitted == pytest.approx(w)


def test_equal_candidates_go_to_the_cheaper():
    assert choose([2., 1.], [4., 4.]) == (1, 0.)
    assert choose([1., 2.], [4., 4.]) == (0, 0.)


@pytest.mark.parametrize('fallback_w, index', [(0., 1), (0.25, 1), (0.5, 0), (1., 0)])
def test_two_candidates_use_the_fallback(fallback_w, index):
    # In powers of 2, the scores are 3 and 2 + 2 w: a fit would be exact, and a tie.
    assert choose([1., 4.], [8., 4.], fallback_w) == (index, fallback_w)


def test_before_any_fit_the_least_loss_wins():
    assert choose([1., 100.], [4., 3.999]) == (1, 0.)


@pytest.mark.parametrize('more, chosen', [(70, 1), (15, 1), (14, 0)])
def test_choice_at_equal_compute(more, chosen):
    """16 / n ** 0.5 is 1.886 after 2 and 70 steps more, and 32 / n needs 17 to be less."""
    steps = [1, 2, 2]
    histories = [[16., 16 / 2**0.5 * 1.1, 16 / 2**0.5 / 1.1], [32., 16., 16.]]  # on average
    index, predicted = choose_at_equal_compute(steps, histories, [70, more])
    assert predicted == pytest.approx([16 / 72**0.5, 32 / (2 + more)])
    assert index == chosen


def test_what_is_no_curve_at_equal_compute():
    # One that rises is taken to stay at its (geometric) mean, 2 here.
    index, predicted = choose_at_equal_compute(
        [1, 2, 4], [[1., 2., 4.], [3., 3., 3.], [1., math.nan, 1.]], [10, 10, 10])
    assert index == 0 and predicted == [pytest.approx(2), pytest.approx(3), math.inf]
    # Of equal ones the cheaper, of which the budget buys more; 0 is the best there can be.
    assert choose_at_equal_compute([1, 2, 4], [[2.] * 3] * 2, [10, 20])[0] == 1
    assert choose_at_equal_compute([1, 2, 4], [[2.] * 3, [0.] * 3], [10, 2])[0] == 1
    with pytest.raises(ValueError, match='No candidate has a finite loss'):
        choose_at_equal_compute([1, 2, 4], [[1., math.inf, 1.]], [10])


def test_single_candidate():
    assert choose([3.], [2.], 0.4) == (0, 0.4)


@pytest.mark.parametrize('bad', [NAN, INF, -INF])
def test_not_finite_never_wins(bad):
    # The others are those of test_choose_by_hand: the fit leaves the bad one out.
    index, w = choose([0.5, 1., 2., 4.], [bad, 8., 4., 4.])
    assert (index, w) == (2, pytest.approx(0.5))
    index, w = choose([1., 2., 4., 8.], [8., 4., 4., bad])
    assert (index, w) == (1, pytest.approx(0.5))
    # Two finite ones left are too few for a fit.
    assert choose([1., 2., 4.], [8., bad, 4.], 0.5) == (0, 0.5)
    assert choose([1., 2., 4.], [bad, bad, 9.], 0.5) == (2, 0.5)


def test_w_is_clipped_at_zero():
    # The trend says that the larger is the worse: the least loss wins.
    assert choose([1., 2., 4.], [2., 4., 8.], 0.7) == (0, 0.)
    assert choose([4., 2., 1.], [3., 1.5, 2.], 0.7) == (1, 0.)


def test_equal_costs_use_the_fallback():
    assert choose([2., 2., 2.], [3., 2., 4.], 0.7) == (1, 0.7)
    # What differs by rounding alone is one cost.
    assert choose([0.3, 0.1 + 0.2, 0.3], [3., 2., 4.], 0.7) == (1, 0.7)


def test_loss_of_zero_wins():
    assert choose([1., 2., 4.], [1., 1., 0.])[0] == 2


@pytest.mark.parametrize('times, losses, match', [
    ([1., 2., 3.], [NAN, INF, NAN], r'No candidate has a finite loss \(\[nan, inf, nan\]\)'),
    ([1.], [NAN], r'No candidate has a finite loss'),
    ([1., 2.], [1.], r'must be of one length above 0, but got 2 and 1'),
    ([], [], r'must be of one length above 0, but got 0 and 0'),
    ([1., 0.], [1., 1.], r'times must be positive and finite, but got \[0\.0\]'),
    ([1., -1.], [1., 1.], r'times must be positive and finite, but got \[-1\.0\]'),
    ([NAN, 1.], [1., 1.], r'times must be positive and finite, but got \[nan\]'),
    ([INF, 1.], [1., 1.], r'times must be positive and finite, but got \[inf\]'),
])
def test_errors(times, losses, match):
    with pytest.raises(ValueError, match=match):
        choose(times, losses)
