# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What a whole run takes, and what it saves."""
from typing import Callable, List, NamedTuple, Optional, Sequence

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
    own = [w - t for t, w in zip(trained, whole)]
    if course.speedup is not None:
        # Searches have their part of the budget, whatever they choose, and nothing is longer.
        whole, own = manual, [max(own)] * 2
    share = max(o / w for o, w in zip(own, whole))
    return Outlook(whole, Range(baseline / whole.high, baseline / whole.low),
                   baseline / manual.low, share)


def stage_costs(course: Course, step: Callable[[Subnet], float]) -> List[float]:
    """What each stage spends by its row of the manual schedule, as a share of the whole.

    Args:
        course (Course): The run's course.
        step (Callable): Seconds, or another cost, of a subnet's training step.
    """
    costs = [(stage.end_epoch - stage.begin_epoch) * step(stage.subnet) for stage in course.stages]
    return [cost / sum(costs) for cost in costs]


def describe_course(course: Course, unit: str, flops: Callable[[Subnet], float],
                    outlook: Outlook, rates: Optional[Sequence[float]]) -> List[str]:
    """A plan in five lines at most, whatever the number of stages.

    Args:
        course (Course): The run's course.
        unit (str): What its costs are: ``'time'`` or ``'flops'``.
        flops (Callable): Multiply-adds of a subnet.
        outlook (Outlook): By multiply-adds.
        rates (Sequence[float] | None): Learning rates where stages begin, and
            at the end; None if they are not known.
    """
    low, high = outlook.speed_up
    by_flops = f'{low:.2f} by multiply-adds' if high - low < 0.005 else \
        f'{low:.2f} to {high:.2f} by multiply-adds, as the searches choose'
    if course.speedup is None:
        first, cost = f'{course.max_epochs} epochs. Speed-up: {by_flops}.', flops
    else:
        comes_to = course.epochs / course.timeline.total
        found = f'comes to {comes_to:.2f}, {by_flops}' if unit == 'time' else \
            f'comes to {by_flops}'
        first = f'{course.max_epochs} epochs for the {course.epochs} of the recipe. Speed-up: ' \
            f'promised {course.speedup:g}, by {unit}; {found}.'
        cost = course.costs.__getitem__
    columns = [(str(stage.subnet), str(stage.end_epoch - stage.begin_epoch), f'{share:.1%}')
               for stage, share in zip(course.stages, stage_costs(course, cost))]
    rows = list(map(list, zip(('stage', 'epochs', 'compute'), *columns)))
    if rates is not None:
        rows.append(['learning rate', *(f'{rate:.3g}' for rate in rates[:-1]),
                     f' to {rates[-1]:.3g}'])
    return [f'Plan: {first}'] + [
        f'  {row[0]:<13}' + ''.join(f'{cell:>10}' for cell in row[1:]) for row in rows]
