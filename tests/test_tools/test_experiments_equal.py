# Copyright (c) the autoprog_mm authors. All rights reserved.
"""tools/experiments: the speed-up at equal accuracy, of figures with a known answer."""
from itertools import product
from math import inf
from pathlib import Path

import numpy as np
import pytest

with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(Path(__file__).parents[2] / 'tools' / 'experiments')
    from equal import speed_up_at


def at(level, points, level_cost=8.):
    """Of one seed; points are pairs of cost and accuracy."""
    costs, scores = np.array(points, float).T[..., None]
    return speed_up_at(np.array([level]), np.array([level_cost]), scores, costs)


@pytest.mark.parametrize('level, value, text', [
    (50., 8 / 2**1.5, '2.83'),  # half way between 2 and 4, on a logarithmic axis
    (52., 2., '2.00'),
    (44., 8 / 2**0.5, '5.66'),
    (40., inf, 'at least 8.00'),
    (39., inf, 'at least 8.00'),
    (52.1, 0., 'below 2.00'),
])
def test_interpolated_and_never_beyond_what_was_tried(level, value, text):
    for points in ([(4, 52), (2, 48), (1, 40)], [(1, 40), (4, 52), (2, 48)]):
        found = at(level, points)
        assert found.value == pytest.approx(value) and str(found) == text
        assert found.interval is None and (found.least, found.most) == (2., 8.)


def test_cheapest_crossing_counts():
    # 10 of the 11 points from 40 to 51, between the costs 1 and 2.
    assert at(50., [(1, 40), (2, 51), (4, 49), (8, 53)]).value == pytest.approx(8 / 2**(10 / 11))
    assert at(52., [(1, 40), (2, 51), (4, 49), (8, 53)]).value == pytest.approx(8 / (4 * 2**0.75))


def test_seeds_are_drawn_for_all_arms_alike():
    """A seed that is better by 10 % in each of them makes no difference."""
    seeds = np.array([-5., 5., 0.])
    found = speed_up_at(50 + seeds, np.full(3, 8.), np.array([[48.], [52.]]) + seeds,
                        np.array([[2.] * 3, [4.] * 3]))
    assert found.value == pytest.approx(8 / 2**1.5)
    assert found.interval == pytest.approx([found.value] * 2)


def test_interval_of_two_seeds_is_from_one_to_the_other():
    """Each alone is drawn in a quarter of the draws, more than the 2.5 % that are cut off."""
    scores = np.array([[40., 50.], [50., 60.]])  # at costs 1 and 4
    costs = np.array([[1., 1.], [4., 4.]])
    found = speed_up_at(np.array([45., 50.]), np.array([8., 8.]), scores, costs)
    # The first half way up, at 2; the second where it begins; both a quarter up.
    assert found.value == pytest.approx(8 / 4**0.25)
    assert found.interval == (pytest.approx(4.), inf)
    assert str(found) == '5.66 [4.00, at least 8.00]'


def test_interval_is_that_of_all_possible_draws():
    """Of 5 seeds all 3,125, each read off by numpy's interpolation."""
    generator = np.random.default_rng(7)
    seeds = generator.normal(size=5)
    level, level_costs = 45 + seeds, 600 + 30 * generator.normal(size=5)
    scores = np.array([[40.], [44.], [48.], [52.]]) + seeds + generator.normal(size=(4, 5))
    costs = np.array([[100.], [130.], [200.], [300.]]) * (1 + 0.05 * generator.normal(size=(4, 5)))

    def read(seeds):
        seeds = list(seeds)
        at = np.exp(np.interp(level[seeds].mean(), scores[:, seeds].mean(1),
                              np.log(costs[:, seeds].mean(1))))
        return level_costs[seeds].mean() / at

    drawn = [read(seeds) for seeds in product(range(5), repeat=5)]
    found = speed_up_at(level, level_costs, scores, costs)
    assert found.value == pytest.approx(read(range(5)))
    assert found.interval == pytest.approx(np.percentile(drawn, [2.5, 97.5]), rel=0.02)
    again = speed_up_at(level, level_costs, scores, costs)
    assert (again.value, again.interval) == (found.value, found.interval)
