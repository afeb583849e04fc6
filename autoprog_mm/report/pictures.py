# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The report's pictures; each ``draw_*`` gives an ``<svg>`` element."""
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..record.ledger import ACCOUNTS
from ..record.run import Run, Search
from . import texts
from .colors import LIGHT, STAND_IN
from .point_names import name_points
from .schedule import PARTS, Band, Line, plot_schedule
from .style import WIDTH, add_legend, panels, picture_file, set_log_axis, style, to_svg

ACCOUNT_NAMES = {
    'data': 'waiting for data',
    'train': 'training',
    'search': 'search',
    'growth': 'growth',
    'val': 'validation',
}
# Logged losses are many and noisy: more points than these are averaged.
MAX_POINTS = 400
# So few are marked, for a line may not be seen.
_MARKED_POINTS = 60

_Losses = List[Tuple[float, Optional[float]]]


@style()
def draw_schedule(run: Run, baseline: Optional[Run]) -> str:
    """Depth and resolution over training time.

    Args:
        run (Run): The run.
        baseline (Run | None): Drawn behind it.

    Returns:
        str: An ``<svg>`` element, as of all functions here.
    """
    figure, axes = panels(2, 3.3)
    unit, name = _time_axis(axes[-1], run, baseline)
    _plot_schedule(axes, run, baseline, unit, STAND_IN)
    add_legend(figure, axes[0])
    return to_svg(figure, 'schedule', f'Depth and resolution over training time in {name}')


@style()
def draw_curves(run: Run, baseline: Optional[Run]) -> str:
    """Training loss and top-1 over training time."""
    figure, axes = panels(2, 5.2)
    unit, name = _time_axis(axes[-1], run, baseline)
    axes[0].set_title('Training loss')
    for one, kind in _runs(run, baseline):
        _plot_curve(axes[0], _averaged(one.losses), kind, unit, STAND_IN)
    _plot_top1(axes[1], run, baseline, unit, STAND_IN)
    for axis in axes:
        if not np.isfinite([y for line in axis.lines for y in line.get_ydata()]).any():
            axis.text(0.5, 0.5, 'none in the log', transform=axis.transAxes, ha='center',
                      color=STAND_IN['soft'])
            axis.set_yticks([])
            continue
        for stage in run.stages[1:]:
            axis.axvline(stage.begin_seconds / unit, color=STAND_IN['soft'], linewidth=0.8,
                         linestyle=(0, (2, 3)), zorder=0.5)
    add_legend(figure, max(axes, key=lambda axis: len(axis.get_legend_handles_labels()[0])))
    return to_svg(figure, 'curves', f'Training loss and top-1 over training time in {name}')


@style()
def draw_search(search: Search, number: int) -> str:
    """Loss over cost of a search's candidates, with the trend, on logarithmic axes.

    Args:
        search (Search): With at least one candidate that can be drawn.
        number (int): Of the stage.
    """
    figure = Figure(figsize=(4.5, 3.4), layout='constrained')
    axis = figure.add_subplot()
    # The choice comes first, since it must have a name.
    shown = sorted(search.drawable, key=lambda candidate: not candidate.chosen)
    unit, name = texts.cost_unit([search.cost(c) for c in shown], search.by_time)
    costs = [search.cost(candidate) / unit for candidate in shown]
    losses = [candidate.loss for candidate in shown]
    set_log_axis(axis, 'x', costs)
    ends = np.array(axis.get_xlim())
    trend = [search.trend(cost * unit) for cost in ends]
    set_log_axis(axis, 'y', losses + trend)
    axis.plot(ends, trend, color=STAND_IN['soft'], linewidth=1.4, linestyle=(0, (4, 3)),
              label='trend')
    for chosen, color, size, label in ((False, 'run', 26, 'candidates'),
                                       (True, 'choice', 62, 'choice')):
        points = [(x, y) for x, y, c in zip(costs, losses, shown) if c.chosen == chosen]
        if points:
            axis.scatter(*zip(*points), s=size, color=STAND_IN[color], label=label, zorder=3)
    axis.set_xlabel(f'Cost of a {"step" if search.by_time else "picture"} in {name}')
    axis.set_title('Loss')
    add_legend(figure, axis)
    name_points(figure, axis, costs, losses, [texts.of_subnet(c.subnet) for c in shown],
                [STAND_IN['choice' if c.chosen else 'ink'] for c in shown])
    return to_svg(figure, f'search-{number}', f'Loss over cost of the candidates of stage {number}')


@style()
def draw_accounts(run: Run, baseline: Optional[Run]) -> str:
    """Where the seconds went, by stage, and in all against the baseline."""
    bars = [(f'Stage {stage.number}, {texts.of_subnet(stage.subnet)}', stage.seconds)
            for stage in run.stages]
    if len(bars) > 1:
        bars.append(('This run', total_seconds(run)))
    if baseline is not None:
        bars.append(('Baseline', total_seconds(baseline)))
    figure = Figure(figsize=(WIDTH, 0.95 + 0.36 * len(bars)), layout='constrained')
    axis = figure.add_subplot()
    unit, name = texts.time_unit(max(sum(seconds.values()) for _, seconds in bars))
    # What is summed up stands a little apart.
    places = [i + 0.4 * (i >= len(run.stages)) for i in range(len(bars))]
    left = np.zeros(len(bars))
    for account in ACCOUNTS:
        widths = np.array([seconds[account] for _, seconds in bars]) / unit
        axis.barh(places, widths, left=left, height=0.68, color=STAND_IN[account],
                  label=ACCOUNT_NAMES[account])
        left += widths
    axis.set_yticks(places, [label for label, _ in bars])
    axis.tick_params('y', labelcolor=STAND_IN['ink'])
    axis.invert_yaxis()
    axis.grid(False, axis='y')
    axis.spines['left'].set_visible(False)
    axis.set_xlabel(f'Wall time in {name}')
    add_legend(figure, axis)
    return to_svg(figure, 'accounts', 'Where the seconds went, by stage')


def save_picture(run: Run, baseline: Optional[Run], path: str) -> None:
    """Draw depth, resolution and top-1 over training time into a file.

    Args:
        run (Run): The run.
        baseline (Run | None): Drawn behind it.
        path (str): A .png, .svg or .pdf.
    """
    with picture_file(path, 3, 6.5) as axes:
        unit, _ = _time_axis(axes[-1], run, baseline)
        _plot_schedule(axes, run, baseline, unit, LIGHT)
        _plot_top1(axes[2], run, baseline, unit, LIGHT)


def total_seconds(run: Run) -> Dict[str, float]:
    """Seconds on each account, of all stages."""
    return {account: sum(stage.seconds[account] for stage in run.stages) for account in ACCOUNTS}


# ---------------------------------------------------------------------- parts


def _runs(run: Run, baseline: Optional[Run]) -> Iterator[Tuple[Run, str]]:
    """The baseline first, and wide, so that it shows where both agree."""
    if baseline is not None:
        yield baseline, 'baseline'
    yield run, 'run'


def _label(kind: str) -> str:
    return 'this run' if kind == 'run' else 'baseline'


def _time_axis(axis: Axes, run: Run, baseline: Optional[Run]) -> Tuple[float, str]:
    longest = max(one.last_seconds for one, _ in _runs(run, baseline))
    unit, name = texts.time_unit(longest)
    axis.set_xlim(0, max(longest, 1e-3) / unit * 1.01)
    axis.set_xlabel(f'Training time in {name}')
    return unit, name


def _plot_schedule(axes: Sequence[Axes], run: Run, baseline: Optional[Run], unit: float,
                   colors: Dict[str, str]) -> None:
    lines, bands = [], []
    for one, kind in _runs(run, baseline):
        spans = [(stage.begin_seconds / unit,
                  (one.last_seconds if stage is one.stages[-1] else stage.end_seconds) / unit,
                  stage.subnet) for stage in one.stages]
        lines.append(Line(_label(kind), colors[kind], 4.5 if kind == 'baseline' else 2, spans))
    for stage in run.stages:
        if stage.search is not None:
            end = run.seconds_at(stage.begin_epoch + stage.search.epochs)
            bands.append(Band(stage.begin_seconds / unit, end / unit,
                              [candidate.subnet for candidate in stage.search.candidates]))
    plot_schedule(axes, PARTS, [one.full for one, _ in _runs(run, baseline)], lines, bands,
                  'a search tries these', colors['search'])


def _plot_top1(axis: Axes, run: Run, baseline: Optional[Run], unit: float,
               colors: Dict[str, str]) -> None:
    axis.set_title('Top-1 in %')
    for one, kind in _runs(run, baseline):
        _plot_curve(axis, [(v.seconds, v.top1) for v in one.validations], kind, unit, colors)
    axis.set_ylim(bottom=0)


def _plot_curve(axis: Axes, pairs: _Losses, kind: str, unit: float,
                colors: Dict[str, str]) -> None:
    if pairs:
        seconds, values = (_with_gaps(column) for column in zip(*pairs))
        axis.plot(seconds / unit, values, color=colors[kind], label=_label(kind),
                  linewidth=3 if kind == 'baseline' else 1.8, markersize=3.5,
                  marker='o' if len(pairs) <= _MARKED_POINTS else None)


def _with_gaps(values: Sequence[Optional[float]]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _averaged(losses: _Losses) -> _Losses:
    """Neighbours are averaged where there are too many; a loss that is None stays visible."""
    if len(losses) <= MAX_POINTS:
        return losses
    seconds, values = (np.array_split(_with_gaps(column), MAX_POINTS) for column in zip(*losses))
    return [(x.mean(), y.mean()) for x, y in zip(seconds, values)]
