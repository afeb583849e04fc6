# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Seconds worked out by hand: a step takes depth * resolution / 100 seconds."""
import pytest

from autoprog_mm import Subnet
from autoprog_mm.growth import OneShotSearch, build_schedule, stage_choices
from autoprog_mm.planning.forecast import Forecast, Range


def stages(num_stages=3, epochs=6):
    # Depths 2 3 4 and resolutions 100 150 200.
    return build_schedule(num_stages, epochs, Subnet(4, 200), dict(depth=0.5, resolution=0.5),
                          resolution_divisor=50)


def step(subnet):
    return subnet.depth * subnet.resolution / 100


def training(stages, **search):
    """Without the searches' own work."""
    return Forecast(stages, 10, step, OneShotSearch(epochs=1, **search), own_work=False)


def test_baseline():
    forecast = Forecast(stages(1), 10, step)
    assert forecast.whole() == (6 * 10 * 8, ) * 2
    assert forecast.left(2, 4, [Subnet(4, 200)]) == (36 * 8, ) * 2
    assert forecast.left(6, 0, [Subnet(4, 200)]) == (0, 0)


def test_manual_schedule():
    forecast = Forecast(stages(), 10, step)
    # Steps of 2, 4.5 and 8 seconds, 20 of each.
    assert forecast.whole() == (290, ) * 2
    assert forecast.left(1, 5, [Subnet(2, 100)]) == (5 * 2 + 20 * 4.5 + 20 * 8, ) * 2
    assert stage_choices(stages(), False) == [
        [Subnet(2, 100)], [Subnet(3, 150)], [Subnet(4, 200)]]


def test_validations_and_what_an_epoch_takes_besides():
    forecast = Forecast(stages(), 10, step, validate=lambda depth: 100 * depth,
                        validates=lambda epoch: epoch % 2 == 0, epoch=1000)
    assert forecast.whole() == (290 + 6000 + 100 * (2 + 3 + 4), ) * 2
    # In the middle of the last epoch, which has begun already.
    assert forecast.left(5, 9, [Subnet(4, 200)]) == (8 + 400, ) * 2
    assert forecast.left(4, 0, [Subnet(4, 200)]) == (160 + 2000 + 400, ) * 2


def test_open_choices_leave_a_range():
    forecast = training(stages(2, 4))
    # Stage 1 searches among depths 2 and 4 at 100 and 200: steps of 2 4 4 8, 4.5 on average.
    # Its second epoch takes 20 to 80, and the second stage is the full network.
    assert stage_choices(stages(2, 4)) == [
        [Subnet(2, 100), Subnet(2, 200), Subnet(4, 100), Subnet(4, 200)], [Subnet(4, 200)]]
    assert forecast.whole() == (45 + 20 + 160, 45 + 80 + 160)
    every = stage_choices(forecast.stages)[0]
    assert forecast.left(0, 6, every) == (4 * 4.5 + 20 + 160, 4 * 4.5 + 80 + 160)
    # Decided: nothing is open any more.
    assert forecast.left(1, 0, [Subnet(2, 200)]) == (40 + 160, ) * 2


def test_later_choices_depend_on_earlier_ones():
    forecast = training(stages(3, 6))
    # From 2x100 the search of stage 2 has depths 3 and 4 at 100 and 150: steps 3 4.5 4 6, mean
    # 4.375.
    known = forecast.left(1, 0, [Subnet(2, 100)])
    assert known == pytest.approx((20 + 43.75 + 30 + 160, 20 + 43.75 + 60 + 160))
    # From 3x150, depth 4 at 150 and 200: steps 6 and 8.
    known = forecast.left(1, 0, [Subnet(3, 150)])
    assert known == pytest.approx((45 + 70 + 60 + 160, 45 + 70 + 80 + 160))
    # From the full network there is nothing to search.
    assert forecast.left(1, 0, [Subnet(4, 200)]) == (80 + 160 + 160, ) * 2


@pytest.mark.parametrize('cost, timed', [('time', 6), ('flops', 0)])
def test_own_work_of_searches(cost, timed):
    """Scoring is a third of a step; timing warms each candidate up and times it five times."""
    search = OneShotSearch(epochs=2, evals=(1, 4), eval_batches=7, cost=cost)
    forecast, plain = (Forecast(stages(2, 8), 10, step, search, own_work) for own_work in (
        True, False))

    def work(of):
        return Range(*[a - b for a, b in zip(of(forecast), of(plain))])

    # Steps of 2 4 4 8. Scored at the start, once in the first epoch, four times in the second.
    assert work(Forecast.whole) == pytest.approx([18 * (6 * 7 / 3 + timed)] * 2)
    # After 5 of the second epoch's 10 steps (evaluations after 3, 5, 8 and 10) two are to come.
    every = stage_choices(forecast.stages)[0]
    assert work(lambda f: f.left(1, 5, every)) == pytest.approx([18 * (2 * 7 / 3 + timed)] * 2)
    # There are no more batches to score on than an epoch has.
    search.eval_batches = 50
    assert work(lambda f: f.left(1, 5, every)) == pytest.approx([18 * (2 * 10 / 3 + timed)] * 2)
