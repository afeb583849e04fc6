# Copyright (c) the autoprog_mm authors. All rights reserved.
import random

import pytest

from autoprog_mm.growth.budget import Spending, Timeline, check_budget, divide_budget


def test_stages_of_equal_cost():
    # By hand: of 10 epochs each stage gets 5, which are 20 of a quarter each and 5 whole ones.
    assert divide_budget(10., [0.25, 1.], [1, 1]) == [20, 5]
    # The last gets 7 / 3, rounded to 2; of the 5 that are left, 2.5 is 5 x 0.5, and 25 x 0.1.
    assert divide_budget(7., [0.1, 0.5, 1.], [1, 1, 1]) == [25, 5, 2]


def test_what_rounding_leaves_over_goes_to_the_first():
    # Half of 8.8 is rounded to 4 of the last; 4.8 are left, 24 x 0.2.
    assert divide_budget(8.8, [0.2, 1.], [1, 1]) == [24, 4]


def test_shares_weigh_stages():
    assert divide_budget(12., [0.5, 1.], [1, 3]) == [6, 9]
    assert divide_budget(12., [0.5, 1.], [0, 1]) == [2, 11]  # an epoch at least


def test_each_stage_gets_an_epoch_of_the_least_budget():
    assert divide_budget(1.75, [0.25, 0.5, 1.], [1, 1, 1]) == [1, 1, 1]
    with pytest.raises(ValueError, match='too small for one epoch of each stage'):
        divide_budget(1.74, [0.25, 0.5, 1.], [1, 1, 1])


def test_the_budget_is_kept_to_half_an_epoch_of_the_first_stage():
    rng = random.Random(0)
    for _ in range(2000):
        costs = sorted(rng.uniform(0.05, 1) for _ in range(rng.randint(1, 8)))
        budget = sum(costs) + rng.expovariate(0.05)
        shares = [rng.choice((0, 1, rng.random())) for _ in costs]
        lengths = divide_budget(budget, costs, shares)
        assert min(lengths) >= 1
        spent = sum(n * c for n, c in zip(lengths, costs))
        assert abs(spent - budget) <= costs[0] / 2 + 1e-9
    # With room for it, the others are at most half an epoch off, too.
    lengths = divide_budget(100., [0.2, 0.5, 1.], [1, 1, 2])
    assert lengths == [125, 50, 50]


def test_consumed_share_by_hand():
    # 10 epochs at 0.2 cost as much as 2 whole ones.
    timeline = Timeline([Spending(0, 10, 0.2), Spending(10, 12, 1.)], epochs=8)
    assert timeline.total == pytest.approx(4)
    for epoch, recipe in ((0, 0), (5, 2), (10, 4), (10.5, 5), (11, 6), (12, 8), (13, 8)):
        assert timeline.recipe_epoch(epoch) == pytest.approx(recipe)


def test_recipe_intervals_come_due_when_they_are_passed():
    timeline = Timeline([Spending(0, 10, 0.2), Spending(10, 12, 1.)], epochs=8)
    due = [epoch for epoch in range(1, 13) if timeline.is_due(epoch, interval=1)]
    # Recipe epochs after each: 0.4 0.8 1.2 1.6 2 2.4 2.8 3.2 3.6 4, then 6 and 8.
    assert due == [3, 5, 8, 10, 11, 12]
    assert [e for e in range(1, 13) if timeline.is_due(e, 2)] == [5, 10, 11, 12]
    assert [e for e in range(1, 13) if timeline.is_due(e, 3)] == [8, 11, 12]
    assert [e for e in range(1, 13) if timeline.is_due(e, 1, begin=4)] == [10, 11, 12]
    # With epochs of the recipe's cost it is the recipe's own rhythm, and the last.
    plain = Timeline([Spending(0, 7, 1.)], epochs=7)
    assert [e for e in range(1, 8) if plain.is_due(e, 3)] == [3, 6, 7]
    assert [e for e in range(1, 8) if plain.is_due(e, 3, begin=4)] == [6, 7]


def test_a_dear_epoch_passes_several_moments_of_the_recipe():
    # As above: the last two epochs pass two of the recipe's each, its fifth to eighth.
    timeline = Timeline([Spending(0, 10, 0.2), Spending(10, 12, 1.)], epochs=8)
    assert [timeline.dues(e, 1) for e in range(1, 13)] == [0, 0, 1, 0, 1, 0, 0, 1, 0, 1, 2, 2]
    assert [timeline.dues(e, 1, begin=6) for e in (10, 11, 12)] == [0, 1, 2]
    assert [timeline.dues(e, 3) for e in (10, 11, 12)] == [0, 1, 0]


def test_recipe_intervals_count_from_their_start():
    """As those of mmengine's ``every_n_epochs``, for ``save_begin`` of checkpoints."""
    plain = Timeline([Spending(0, 7, 1.)], epochs=7)
    assert [e for e in range(1, 8) if plain.passes(e, 3)] == [3, 6]
    assert [e for e in range(1, 8) if plain.passes(e, 3, start=2)] == [2, 5]
    timeline = Timeline([Spending(0, 10, 0.2), Spending(10, 12, 1.)], epochs=8)
    assert [e for e in range(1, 13) if timeline.passes(e, 3, start=1)] == [3, 10, 12]


@pytest.mark.parametrize('speedup, shares, message', [
    (0.9, None, 'speedup must be a number of at least 1'),
    (True, None, 'speedup must be a number'),
    (None, [1, 1], 'Set speedup of AutoProgHook too'),
    (2, [1], 'stage_shares must be 2 numbers'),
    (2, 'ab', r'stage_shares\[0\] must be a number'),
    (2, [1, -1], r'stage_shares\[1\] must be a number of at least 0'),
    (2, [0, 0], 'must have a positive sum'),
])
def test_what_makes_no_budget_is_refused(speedup, shares, message):
    with pytest.raises(ValueError, match=message):
        check_budget(speedup, shares, 'time', 2)
