# Copyright (c) the autoprog_mm authors. All rights reserved.
import pytest

from autoprog_mm.growth import OneShotSearch, Subnet, build_schedule, stage_candidates
from autoprog_mm.growth.course import Course
from autoprog_mm.planning.forecast import Range
from autoprog_mm.planning.outlook import Outlook, describe_course, look_ahead

FULL = Subnet(12, 224)


def flops(subnet):
    return float(subnet.depth * subnet.resolution**2)


def cost(subnet):
    return flops(subnet) / flops(FULL)


def course(num_stages, speedup=None):
    stages = build_schedule(num_stages, 100, FULL, dict(depth=0.5, resolution=0.5))
    return Course(stages, 100, 50, speedup, costs={s.subnet: cost(s.subnet) for s in stages})


def outlook(run):
    return look_ahead(run, 50, flops, None)


def test_a_budget_in_five_lines():
    run = course(4, 4)
    # Of 25 epochs: 39, 19, 10 and 6 of 0.1633, 0.3401, 0.6122 and 1 (worked out for the course).
    assert describe_course(run, 'time', flops, outlook(run), [1e-6, 8.4e-4, 5e-4, 2e-4, 1e-5]) == [
        'Plan: 74 epochs for the 100 of the recipe. Speed-up: promised 4, by time; comes to 4.01, '
        '4.01 by multiply-adds.',
        '  stage             6x128     8x160    10x192    12x224',
        '  epochs               39        19        10         6',
        '  compute           25.5%     25.9%     24.5%     24.0%',
        '  learning rate     1e-06   0.00084    0.0005    0.0002  to 1e-05']
    assert describe_course(run, 'flops', flops, outlook(run), None)[0].endswith(
        'promised 4, by flops; comes to 4.01 by multiply-adds.')


def test_equal_epochs_and_open_choices():
    run = course(2)
    # Half of the epochs at 6x128, a sixth of the cost.
    assert describe_course(run, 'time', flops, outlook(run), None) == [
        'Plan: 100 epochs. Speed-up: 1.72 by multiply-adds.',
        '  stage             6x128    12x224',
        '  epochs               50        50',
        '  compute           14.0%     86.0%']
    searched = Outlook(Range(50., 60.), Range(1.5, 2.), 1.72, 0.1)
    assert describe_course(run, 'time', flops, searched, None)[0] == (
        'Plan: 100 epochs. Speed-up: 1.50 to 2.00 by multiply-adds, as the searches choose.')


def test_a_searchs_own_work_is_a_share_of_the_budget():
    """Which is fixed: a search and the cheapest choice for all of a stage's epochs cost more."""
    search = OneShotSearch(epochs=1, eval_batches=10, evals=(2, 4), cost='flops')
    stages = build_schedule(2, 100, FULL, dict(depth=0.5, resolution=0.5))
    candidates = stage_candidates(stages, 0, stages[0].subnet)
    costs = {c: cost(c) for c in candidates}
    run = Course(stages, 100, 50, 10, costs=costs, search=search)
    # Three scorings of ten batches, of which each takes a third of a step; 50 steps an epoch.
    own = 3 * 10 / 3 / 50 * sum(costs.values())
    assert len(candidates) == 4
    assert look_ahead(run, 50, flops, search).search_share == pytest.approx(
        own / run.timeline.total)
    # Without one, at most: that of the cheapest choice for half of the epochs.
    run = Course(build_schedule(2, 100, FULL, dict(depth=0.5, resolution=0.5)), 100, 50)
    least = own + sum(costs.values()) / 4 + 49 * min(costs.values()) + 50
    assert look_ahead(run, 50, flops, search).search_share == pytest.approx(own / least)


@pytest.mark.parametrize('num_stages', [1, 2, 5, 8])
def test_never_more_than_five_lines(num_stages):
    run = course(num_stages, 2)
    lines = describe_course(run, 'time', flops, outlook(run), [1e-4] * (num_stages + 1))
    assert len(lines) == 5 and max(map(len, lines)) <= 120
