# Copyright (c) the autoprog_mm authors. All rights reserved.
import random
import re

import pytest

from autoprog_mm.growth import (
    OneShotSearch,
    Subnet,
    build_schedule,
    stage_candidates,
    stage_choices,
)
from autoprog_mm.growth.course import Course
from autoprog_mm.growth.scoring import planned_subnets
from autoprog_mm.planning.forecast import Forecast

FULL = Subnet(12, 224)


def cost(subnet):
    """In epochs of the full network: as the product of depth and pixels."""
    return subnet.depth * subnet.resolution**2 / (12 * 224**2)


def course(speedup, num_stages=4, epochs=100, scale=0.5, search=None, steps=50, **kwargs):
    stages = build_schedule(num_stages, max(epochs, num_stages), FULL,
                            dict(depth=scale, resolution=scale))
    costs = {subnet: cost(subnet) for subnet in planned_subnets(stages)}
    return Course(stages, epochs, steps, speedup, costs=costs, search=search, **kwargs)


def lengths(course):
    return [stage.end_epoch - stage.begin_epoch for stage in course.stages]


def test_without_a_speedup_the_recipe_is_the_run():
    plain = course(None)
    assert lengths(plain) == [25, 25, 25, 25]
    assert plain.max_epochs == 100
    assert [plain.timeline.recipe_epoch(e) for e in (0, 7.5, 100)] == pytest.approx([0, 7.5, 100])
    assert [e for e in range(1, 101) if plain.timeline.is_due(e, 30)] == [30, 60, 90, 100]


def test_stages_of_equal_compute():
    by_four = course(4)
    # Epochs of 6x128, 8x160, 10x192 and 12x224 cost 0.163 0.340 0.612 1. Of 25 the last gets
    # 6.25, so 6; of the 19 that are left, a third is 10.3 epochs; of 12.9, half is 18.9; and
    # 6.42 are 39.3.
    assert lengths(by_four) == [39, 19, 10, 6]
    assert [s.begin_epoch for s in by_four.stages] == [0, 39, 58, 68]
    assert [s.subnet for s in by_four.stages] == [
        Subnet(6, 128), Subnet(8, 160), Subnet(10, 192), FULL]
    assert by_four.timeline.total == pytest.approx(25, abs=0.163 / 2)
    assert by_four.timeline.recipe_epoch(by_four.max_epochs) == pytest.approx(100)


def test_a_single_stage_is_the_shorter_baseline():
    assert lengths(course(4, num_stages=1)) == [25]


def test_the_promise_is_kept_whatever_is_asked_for():
    rng = random.Random(0)
    for _ in range(200):
        speedup = rng.uniform(1, 6)
        run = course(speedup, rng.randint(1, 6), rng.choice((60, 100, 300)),
                     rng.uniform(0.25, 0.6), shares=None)
        spent = sum(n * cost(s.subnet) for n, s in zip(lengths(run), run.stages))
        first = cost(run.stages[0].subnet)
        assert abs(spent - run.budget) <= first / 2 + 1e-9
        if len(run.stages) > 1:
            assert run.epochs / spent == pytest.approx(speedup, rel=0.03)


@pytest.mark.parametrize('choose', [min, max])
@pytest.mark.parametrize('search_cost', ['flops', 'time'])
def test_a_search_takes_the_same_time_whatever_it_chooses(choose, search_cost):
    search = OneShotSearch(epochs=1, eval_batches=5, evals=(1, 1), cost=search_cost)
    run, current, spent = course(3, search=search), Subnet(6, 128), 0.
    for index in range(4):
        stage = run.stages[index]
        candidates = stage_candidates(run.stages, index, current)
        run.begin_stage(index, candidates)
        if len(candidates) == 1:
            current = candidates[0]
        else:
            mean = sum(map(cost, candidates)) / len(candidates)
            # By hand: scored at the start and once more, five forward passes, a third of a
            # step each; and by time, one step to warm up and five that count.
            passes = 2 * 5 / 3 + (6 if search_cost == 'time' else 0)
            work = passes * sum(map(cost, candidates)) / 50
            assert run.search_cost(candidates) == pytest.approx(mean + work)
            spent += mean + work
            current = choose(candidates, key=cost)
            run.decide(index, current)
            spent -= cost(current)  # one of the stage's epochs was the search's
        assert run.stages[index].begin_epoch == stage.begin_epoch
        spent += lengths(run)[index] * cost(current)
    assert spent == pytest.approx(run.budget, abs=cost(FULL) / 2)
    assert run.timeline.total == pytest.approx(spent)


def follow(run, choices):
    """Run as the hook does; ``None`` if choices are left, or candidates of the next search."""
    current, spent, choices = run.stages[0].subnet, 0., iter(choices)
    for stage in list(run.stages):
        candidates, free = stage_candidates(run.stages, stage.index, current), current
        run.begin_stage(stage.index, candidates)
        searched = run._search.epochs if len(candidates) > 1 else 0
        current = next(choices, None) if searched else candidates[0]
        if current is None:
            return candidates, None
        if searched:
            spent += run.search_cost(candidates)
            run.decide(stage.index, current)
        epochs = lengths(run)[stage.index] - searched
        assert epochs >= 1
        spent += epochs * cost(current)
    assert run.timeline.total == pytest.approx(spent)
    return None, abs(spent - run.budget) / cost(free)


@pytest.mark.parametrize('speedup, epochs, scale, shares, search', [
    (3, 100, 0.5, None, dict(epochs=2, cost='time')),
    (2.2, 60, 0.4, [1, 1, 1, 2], dict(epochs=1)),
    (1, 40, 0.25, [4, 2, 1], dict(epochs=1)),
    # Near to the largest speed-ups that work: what searches before it leave must do for the last.
    (3.2, 40, 0.5, None, dict(epochs=2)),
    (3.5, 24, 0.5, [1, 1, 0], dict(epochs=2)),
    (2.3, 16, 0.5, [1, 1, 1, 0], dict(epochs=1)),
    (2.1, 16, 0.5, [1, 1, 1, 0.2], dict(epochs=1)),
])
def test_the_promise_is_kept_whatever_is_chosen(speedup, epochs, scale, shares, search):
    """By all ways to choose, to half an epoch of the last choice."""
    search = OneShotSearch(**{**dict(eval_batches=5, evals=(1, 2), cost='flops'), **search})
    ways, ends = [()], 0
    while ways:
        way = ways.pop()
        run = course(speedup, num_stages=len(shares or range(4)), epochs=epochs, scale=scale,
                     search=search, shares=shares)
        candidates, off = follow(run, way)
        if candidates is None:
            ends += 1
            assert off <= 0.5 + 1e-9, way
        else:
            assert any(c.depth == 12 for c in candidates)
            ways += [(*way, candidate) for candidate in candidates]
    assert ends >= 20


@pytest.mark.parametrize('shares, works, refused, why', [
    (None, 27, 27.1, r'search of stage 0.* cost up to 1\.85 epochs'),
    ([1, 0], 35, 35.2, r'all searches.* cost up to 2\.85 epochs'),
])
def test_a_search_is_paid_whatever_it_chooses(shares, works, refused, why):
    """Of 6x224 and 12x224: an epoch of both costs 0.75, two scorings of 5 of 50 batches 0.1, and
    an epoch of the dearest, as of the last stage, 1."""
    search = OneShotSearch(epochs=1, eval_batches=5, evals=(1, 1), cost='flops')

    def run_of(speedup):
        stages = build_schedule(2, 100, FULL, dict(depth=0.5))
        return Course(stages, 100, 50, speedup, shares, {Subnet(6, 224): 0.5, FULL: 1.}, search)

    assert follow(run_of(works), [FULL])[1] <= 0.5
    with pytest.raises(ValueError, match=why):
        run_of(refused)


def test_what_is_planned_only_has_a_cost_too():
    """Behind 5x160 the fourth stage's row, 4x256, is planned as 5x256, which nothing runs: depth
    grows in the second stage."""
    stages = build_schedule(8, 100, Subnet(6, 384), dict(depth=0.4, resolution=0.4))
    assert stages[3].subnet == Subnet(4, 256)
    assert not any(Subnet(5, 256) in choices for choices in stage_choices(stages))
    search = OneShotSearch(epochs=1, eval_batches=5, evals=(1, 1), cost='flops')
    run = Course(stages, 100, 50, 1.5, None,
                 {c: cost(c) / cost(Subnet(6, 384)) for c in planned_subnets(stages)}, search)
    candidates = stage_candidates(run.stages, 0, stages[0].subnet)
    run.begin_stage(0, candidates)
    assert Subnet(5, 160) in candidates
    run.decide(0, Subnet(5, 160))
    assert run.timeline.total == pytest.approx(100 / 1.5, rel=0.01)
    # Without searches, nothing but the rows.
    assert planned_subnets(stages, searches=False) == {stage.subnet for stage in stages}


def test_what_the_rest_of_a_stage_buys():
    """Its search costs 0.85 of its 2.5 epochs, as above."""
    search = OneShotSearch(epochs=1, eval_batches=5, evals=(1, 1), cost='flops')
    small = Subnet(6, 224)
    run = Course(build_schedule(2, 100, FULL, dict(depth=0.5)), 100, 50, 20,
                 costs={small: 0.5, FULL: 1.}, search=search)
    run.begin_stage(0, [small, FULL])
    assert run.buys(0, [small, FULL]) == pytest.approx([3.3, 1.65])
    run.decide(0, FULL)
    assert lengths(run) == [2, 3]
    run.begin_stage(1, [FULL])
    assert run.buys(1, [FULL]) == pytest.approx([5 - 0.85 - 1])
    assert course(None).buys(0, [FULL]) is None


def test_the_share_that_is_spent_never_falls():
    search = OneShotSearch(epochs=1, eval_batches=5, evals=(1, 1), cost='flops')
    run = course(3, search=search)
    before = [run.timeline.spent(e) for e in (0, 0.5)]
    candidates = stage_candidates(run.stages, 0, Subnet(6, 128))
    run.begin_stage(0, candidates)
    assert run.timeline.spent(1) == pytest.approx(run.search_cost(candidates))
    at = run.timeline.spent(1)
    recipe = run.timeline.recipe_epoch(1)
    run.decide(0, Subnet(12, 224))
    # What is past of the recipe stays; the rest is spread over what is to come.
    assert run.timeline.recipe_epoch(1) == pytest.approx(recipe)
    assert run.timeline.recipe_epoch(run.max_epochs) == pytest.approx(100)
    assert run.timeline.recipe_epoch(2) == pytest.approx(
        recipe + (100 - recipe) / (run.timeline.total - at))
    assert run.timeline.spent(1) == pytest.approx(at)
    assert run.timeline.spent(2) == pytest.approx(at + 1)
    assert before[0] == 0


@pytest.mark.parametrize('speedup, options, message', [
    (20, dict(epochs=10), r'speedup=20 of AutoProgHook leaves too little for an epoch of each of '
     r'the 4 stages. The largest that works is 4\.72;'),
    (1, dict(epochs=2), r'leaves too little.* Lower num_stages, or raise train_cfg.max_epochs'),
])
def test_too_small_a_budget_is_refused(speedup, options, message):
    with pytest.raises(ValueError, match=message):
        course(speedup, **options)


def test_the_largest_speedup_that_is_named_works():
    run = course(4.72, epochs=10)
    assert lengths(run) == [1, 1, 1, 1]


def test_a_search_that_its_stage_cannot_pay_is_refused():
    search = OneShotSearch(epochs=2, eval_batches=5, cost='flops')
    with pytest.raises(ValueError, match=r'search.epochs \(2\) may need more than the .*The '
                       r'largest speedup that works is ([\d.]+); or lower num_stages') as error:
        course(4, epochs=20, search=search)
    # The one that is named works, and a hundredth more does not.
    largest = float(re.search(r'works is ([\d.]+);', str(error.value))[1])
    assert 1 < largest < 4
    assert lengths(course(largest, epochs=20, search=search))
    with pytest.raises(ValueError, match='may need more'):
        course(largest + 0.01, epochs=20, search=search)


@pytest.mark.parametrize('epochs, shares, way_out', [
    (8, None, 'Lower search.epochs, search.eval_batches or num_stages, or set search=None'),
    (100, [1, 0, 1, 1], 'Give it a share in stage_shares of AutoProgHook, or set search=None'),
])
def test_a_search_that_no_speedup_can_pay_names_the_setting(epochs, shares, way_out):
    search = OneShotSearch(epochs=2, eval_batches=5, cost='flops')
    with pytest.raises(ValueError, match=f'may need more than the budget of the stage.*{way_out}'):
        course(1, epochs=epochs, search=search, shares=shares)
    assert sum(lengths(course(1, epochs=epochs, shares=shares)))  # but for its search it works


def assert_foreseen(mine, search, epoch, candidates):
    """In the unit of costs, what is left is what the course has planned to spend."""
    forecast = Forecast(mine.stages, 50, lambda s: cost(s) / 50, search, budgeted=True)
    planned = mine.timeline.total - mine.timeline.spent(epoch)
    assert forecast.left(epoch, 0, candidates) == pytest.approx((planned, planned))


def test_what_is_left_of_a_budget_is_foreseen_whatever_searches_choose():
    search, rng = OneShotSearch(epochs=2, eval_batches=5, cost='flops'), random.Random(3)
    for _ in range(20):
        mine = course(3, search=search)
        choice = mine.stages[0].subnet
        for index in range(4):
            candidates = stage_candidates(mine.stages, index, choice)
            mine.begin_stage(index, candidates)
            begin = mine.stages[index].begin_epoch
            assert_foreseen(mine, search, begin, candidates)
            choice = rng.choice(candidates)
            if len(candidates) > 1:
                mine.decide(index, choice)
                assert_foreseen(mine, search, begin + 2, [choice])
