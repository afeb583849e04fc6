# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What a whole run takes, and what it saves."""
from typing import Callable, NamedTuple, Optional

from ..growth.course import Course
from ..growth.search import OneShotSearch
from ..growth.subnet import Subnet
from .forecast import Forecast, Range

# Of a run, for what its searches do besides training; more is worth a word.
LARGE_SEARCH_SHARE = 0.05


class Outlook(NamedTuple):
    """What a run takes and saves, in the unit that steps are given in.

    Args:
        whole (Range): All training steps, with searches' own work.
        speed_up (Range): Against the recipe at full size, between the dearest
            and the cheapest open choices.
        manual_speed_up (float): That of the schedule's rows.
        search_share (float): Of the whole, what searches do besides training,
            at most; 0 without.
    """

    whole: Range
    speed_up: Range
    manual_speed_up: float
    search_share: float


def look_ahead(course: Course, steps_per_epoch: int, step: Callable[[Subnet], float],
               search: Optional[OneShotSearch]) -> Outlook:
    """Find out what a run takes and saves.

    Args:
        course (Course): Its course.
        steps_per_epoch (int): Training steps of an epoch.
        step (Callable): Seconds, or another cost, of a subnet's training step.
        search (OneShotSearch | None): Its search.
    """
    stages, steps = course.stages, steps_per_epoch
    baseline = steps * course.epochs * step(stages[-1].subnet)
    manual = Forecast(stages, steps, step).whole()
    whole = Forecast(stages, steps, step, search).whole()
    trained = Forecast(stages, steps, step, search, own_work=False).whole()
    share = max(1 - t / w for t, w in zip(trained, whole))
    if course.speedup is not None:
        whole = manual  # searches have their part of the budget, whatever they choose
    return Outlook(whole, Range(baseline / whole.high, baseline / whole.low),
                   baseline / manual.low, share)
