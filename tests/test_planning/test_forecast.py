# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Seconds worked out by hand: a step takes depth * resolution / 100 seconds."""
from dataclasses import replace

import pytest

from autoprog_mm import Subnet
from autoprog_mm.growth import SearchBounds, build_schedule, stage_choices
from autoprog_mm.planning.forecast import Forecast, Range, SearchWork


def stages(num_stages=3, epochs=6):
    # Depths 2 3 4 and resolutions 100 150 200.
    return build_schedule(num_stages, epochs, Subnet(4, 200), dict(depth=0.5, resolution=0.5),
                          resolution_divisor=50)


def step(subnet):
    return subnet.depth * subnet.resolution / 100


def search(epochs=1, evals=(1, 2), score=0., measure=0.):
    return SearchWork(epochs, evals, lambda candidates: score * len(candidates),
                      lambda candidates: measure * len(candidates))


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
    assert stage_choices(stages(), None) == [
        [Subnet(2, 100)], [Subnet(3, 150)], [Subnet(4, 200)]]


def test_validations_and_what_an_epoch_takes_besides():
    forecast = Forecast(stages(), 10, step, validate=lambda depth: 100 * depth,
                        validates=lambda epoch: epoch % 2 == 0, epoch=1000)
    assert forecast.whole() == (290 + 6000 + 100 * (2 + 3 + 4), ) * 2
    # In the middle of the last epoch, which has begun already.
    assert forecast.left(5, 9, [Subnet(4, 200)]) == (8 + 400, ) * 2
    assert forecast.left(4, 0, [Subnet(4, 200)]) == (160 + 2000 + 400, ) * 2


def test_open_choices_leave_a_range():
    forecast = Forecast(stages(2, 4), 10, step, search())
    # Stage 1 searches among depths 2 and 4 at 100 and 200: steps of 2 4 4 8, 4.5 on average.
    # Its second epoch takes 20 to 80, and the second stage is the full network.
    assert stage_choices(stages(2, 4), SearchBounds()) == [
        [Subnet(2, 100), Subnet(2, 200), Subnet(4, 100), Subnet(4, 200)], [Subnet(4, 200)]]
    assert forecast.whole() == (45 + 20 + 160, 45 + 80 + 160)
    every = stage_choices(forecast.stages, SearchBounds())[0]
    assert forecast.left(0, 6, every) == (4 * 4.5 + 20 + 160, 4 * 4.5 + 80 + 160)
    # Decided: nothing is open any more.
    assert forecast.left(1, 0, [Subnet(2, 200)]) == (40 + 160, ) * 2


def test_later_choices_depend_on_earlier_ones():
    forecast = Forecast(stages(3, 6), 10, step, search())
    # From 3x150 the search of stage 2 has 3 and 4 at 150 and 200: steps 4.5 6 6 8, mean 6.125.
    known = forecast.left(1, 0, [Subnet(3, 150)])
    assert known == pytest.approx((45 + 61.25 + 45 + 160, 45 + 61.25 + 80 + 160))
    # From the full network there is nothing to search.
    assert forecast.left(1, 0, [Subnet(4, 200)]) == (80 + 160 + 160, ) * 2


def test_search_that_keeps_up():
    # Of depths 2, 3, 4 and resolutions 100, 150, those not below 3x150 are left:
    # steps of 4.5 and 6, mean 5.25.
    forecast = Forecast(stages(3, 6), 10, step, replace(search(), bounds=SearchBounds(max_lag=0)))
    assert forecast.left(1, 0, [Subnet(2, 100)]) == (
        20 + 52.5 + 45 + 160, 20 + 52.5 + 60 + 160)


def test_search_from_the_second_stage_on():
    forecast = Forecast(stages(3, 6), 10, step, replace(search(), bounds=SearchBounds(1)))
    # Two epochs of 2x100. From there, depths 2, 3, 4 at 100 and 150: steps of 2 3 3 4.5 4 6,
    # mean 3.75; the cheapest and the dearest then run an epoch, and the full network two.
    assert forecast.whole() == (40 + 37.5 + 20 + 160, 40 + 37.5 + 60 + 160)


def test_own_work_of_searches():
    forecast = Forecast(stages(2, 8), 10, step, search(2, (1, 4), score=100., measure=1000.))
    plain = Forecast(stages(2, 8), 10, step, search(2, (1, 4)))
    work = Range(*[a - b for a, b in zip(forecast.whole(), plain.whole())])
    # Four candidates: at the start, once in the first epoch, four times in the second; timed once.
    assert work == pytest.approx([4 * (6 * 100 + 1000)] * 2)
    every = stage_choices(forecast.stages, SearchBounds())[0]
    # After 5 of the second epoch's 10 steps (evaluations after 3, 5, 8 and 10) two are to come.
    work = [a - b for a, b in zip(forecast.left(1, 5, every), plain.left(1, 5, every))]
    assert work == pytest.approx([4 * (2 * 100 + 1000)] * 2)
