# Copyright (c) the autoprog_mm authors. All rights reserved.
"""A report's pictures, as SVG to be put into a page."""
import functools
import io
import re
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from ..record.ledger import ACCOUNTS
from ..record.run import Candidate, Run, Search
from . import texts
from .colors import STAND_IN, with_variables

ACCOUNT_NAMES = {
    'data': 'waiting for data',
    'train': 'training',
    'search': 'search',
    'growth': 'growth',
    'val': 'validation',
}
# Of a page as wide as it gets; narrower ones scale or scroll.
_WIDTH = 9.6
# Logged losses are many and noisy: more points than these are averaged.
MAX_POINTS = 400
# So few are marked, for a line may not be seen.
_MARKED_POINTS = 60
_STYLE = {
    # Text stays text, in the page's font. Room is made for this one, which is wide.
    'svg.fonttype': 'none',
    'svg.hashsalt': 'autoprog',  # the same run gives the same file
    'font.family': 'DejaVu Sans',
    'font.size': 9.5,
    'axes.titlesize': 9.5,
    'axes.titlelocation': 'left',
    'axes.axisbelow': True,
    'axes.grid': True,
    'axes.linewidth': 0.8,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'grid.linewidth': 0.6,
    'legend.frameon': False,
    'legend.handlelength': 1.4,
    'lines.solid_capstyle': 'round',
    'xtick.major.size': 0,
    'ytick.major.size': 0,
    'xtick.major.pad': 6,
    'ytick.major.pad': 6,
    'figure.facecolor': 'none',
    'axes.facecolor': 'none',
    'savefig.facecolor': 'none',
    'text.color': STAND_IN['ink'],
    'axes.labelcolor': STAND_IN['soft'],
    'axes.edgecolor': STAND_IN['line'],
    'grid.color': STAND_IN['line'],
    'xtick.color': STAND_IN['soft'],
    'ytick.color': STAND_IN['soft'],
}

_Losses = List[Tuple[float, Optional[float]]]


def _styled(draw: Callable[..., str]) -> Callable[..., str]:
    """In this style, whatever the user's own settings of matplotlib are."""

    @functools.wraps(draw)
    def styled(*args):
        with matplotlib.style.context(['default', _STYLE]):
            return draw(*args)

    return styled


# ------------------------------------------------------------------- pictures


@_styled
def draw_schedule(run: Run, baseline: Optional[Run]) -> str:
    """Depth and resolution over training time.

    Args:
        run (Run): The run.
        baseline (Run | None): Drawn behind it.

    Returns:
        str: An ``<svg>`` element, as of all functions here.
    """
    figure, axes = _panels(2, 3.3)
    unit, name = _time_axis(axes[-1], run, baseline)
    for axis, part, label in zip(axes, ('depth', 'resolution'), ('Depth', 'Resolution in px')):
        axis.set_title(label)
        for one, kind in _runs(run, baseline):
            times, values = _steps(one, part)
            axis.plot(np.array(times) / unit, values, color=STAND_IN[kind],
                      linewidth=4.5 if kind == 'baseline' else 2, label=_label(kind))
        for i, (begin, end, low, high) in enumerate(_searches(run, part)):
            axis.fill_between(np.array([begin, end]) / unit, low, high, color=STAND_IN['search'],
                              alpha=0.3, linewidth=0, label='a search tries these' if not i else '')
        axis.set_ylim(0, 1.12 * max(getattr(one.full, part) for one, _ in _runs(run, baseline)))
        axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    _legend(figure, axes[0])
    return _svg(figure, 'schedule', f'Depth and resolution over training time in {name}')


@_styled
def draw_curves(run: Run, baseline: Optional[Run]) -> str:
    """Training loss and top-1 over training time."""
    figure, axes = _panels(2, 5.2)
    unit, name = _time_axis(axes[-1], run, baseline)
    axes[0].set_title('Training loss')
    axes[1].set_title('Top-1 in %')
    for one, kind in _runs(run, baseline):
        validations = [(v.seconds, v.top1) for v in one.validations]
        for axis, pairs in zip(axes, (_averaged(one.losses), validations)):
            if pairs:
                seconds, values = (_with_gaps(column) for column in zip(*pairs))
                axis.plot(seconds / unit, values, color=STAND_IN[kind], label=_label(kind),
                          linewidth=3 if kind == 'baseline' else 1.8, markersize=3.5,
                          marker='o' if len(pairs) <= _MARKED_POINTS else None)
    for axis in axes:
        if not np.isfinite([y for line in axis.lines for y in line.get_ydata()]).any():
            axis.text(0.5, 0.5, 'none in the log', transform=axis.transAxes, ha='center',
                      color=STAND_IN['soft'])
            axis.set_yticks([])
            continue
        for stage in run.stages[1:]:
            axis.axvline(stage.begin_seconds / unit, color=STAND_IN['soft'], linewidth=0.8,
                         linestyle=(0, (2, 3)), zorder=0.5)
    axes[1].set_ylim(bottom=0)
    _legend(figure, max(axes, key=lambda axis: len(axis.get_legend_handles_labels()[0])))
    return _svg(figure, 'curves', f'Training loss and top-1 over training time in {name}')


@_styled
def draw_search(search: Search, number: int) -> str:
    """Loss over cost of a search's candidates, with the trend, on logarithmic axes.

    Args:
        search (Search): With at least one candidate that can be drawn.
        number (int): Of the stage.
    """
    figure = Figure(figsize=(4.5, 3.4), layout='constrained')
    axis = figure.add_subplot()
    shown = search.drawable
    unit, name = texts.cost_unit([search.cost(c) for c in shown], search.by_time)
    costs = [search.cost(candidate) / unit for candidate in shown]
    losses = [candidate.loss for candidate in shown]
    _log_axis(axis, 'x', costs)
    ends = np.array(axis.get_xlim())
    trend = [search.trend(cost * unit) for cost in ends]
    _log_axis(axis, 'y', losses + trend)
    axis.plot(ends, trend, color=STAND_IN['soft'], linewidth=1.4, linestyle=(0, (4, 3)),
              label='trend')
    for chosen, color, size, label in ((False, 'run', 26, 'candidates'),
                                       (True, 'choice', 62, 'choice')):
        points = [(x, y) for x, y, c in zip(costs, losses, shown) if c.chosen == chosen]
        if points:
            axis.scatter(*zip(*points), s=size, color=STAND_IN[color], label=label, zorder=3)
    axis.set_xlabel(f'Cost of a {"step" if search.by_time else "picture"} in {name}')
    axis.set_title('Loss')
    _legend(figure, axis)
    _name_points(figure, axis, costs, losses, shown)
    return _svg(figure, f'search-{number}', f'Loss over cost of the candidates of stage {number}')


@_styled
def draw_accounts(run: Run, baseline: Optional[Run]) -> str:
    """Where the seconds went, by stage, and in all against the baseline."""
    bars = [(f'Stage {stage.number}, {texts.of_subnet(stage.subnet)}', stage.seconds)
            for stage in run.stages]
    if len(bars) > 1:
        bars.append(('This run', total_seconds(run)))
    if baseline is not None:
        bars.append(('Baseline', total_seconds(baseline)))
    figure = Figure(figsize=(_WIDTH, 0.95 + 0.36 * len(bars)), layout='constrained')
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
    _legend(figure, axis)
    return _svg(figure, 'accounts', 'Where the seconds went, by stage')


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


def _panels(rows: int, height: float) -> Tuple[Figure, Sequence[Axes]]:
    figure = Figure(figsize=(_WIDTH, height), layout='constrained')
    return figure, figure.subplots(rows, sharex=True)


def _time_axis(axis: Axes, run: Run, baseline: Optional[Run]) -> Tuple[float, str]:
    longest = max(one.last_seconds for one, _ in _runs(run, baseline))
    unit, name = texts.time_unit(longest)
    axis.set_xlim(0, max(longest, 1e-3) / unit * 1.01)
    axis.set_xlabel(f'Training time in {name}')
    return unit, name


def _steps(run: Run, part: str) -> Tuple[List[float], List[int]]:
    times: List[float] = []
    values: List[int] = []
    for i, stage in enumerate(run.stages):
        last = i == len(run.stages) - 1
        times += [stage.begin_seconds, run.last_seconds if last else stage.end_seconds]
        values += [getattr(stage.subnet, part)] * 2
    return times, values


def _searches(run: Run, part: str) -> Iterator[Tuple[float, float, int, int]]:
    """Begin, end, lowest and highest of what each search tried."""
    for stage in run.stages:
        if stage.search is not None:
            values = [getattr(candidate.subnet, part) for candidate in stage.search.candidates]
            end = run.seconds_at(stage.begin_epoch + stage.search.epochs)
            yield stage.begin_seconds, end, min(values), max(values)


def _with_gaps(values: Sequence[Optional[float]]) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _averaged(losses: _Losses) -> _Losses:
    """Neighbours are averaged where there are too many; a loss that is None stays visible."""
    if len(losses) <= MAX_POINTS:
        return losses
    seconds, values = (np.array_split(_with_gaps(column), MAX_POINTS) for column in zip(*losses))
    return [(x.mean(), y.mean()) for x, y in zip(seconds, values)]


def _log_axis(axis: Axes, which: str, values: Sequence[float]) -> None:
    """A logarithmic axis with plain numbers at round places."""
    low, high = min(values), max(values)
    margin = max((high / low)**0.09, 1.005)
    low, high = low / margin, high * margin
    if high / low > 8:
        powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
        ticks = [digit * 10.**power for power in powers for digit in (1, 2, 5)]
    else:
        ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    getattr(axis, f'set_{which}scale')('log')
    getattr(axis, f'set_{which}lim')(low, high)
    part = getattr(axis, f'{which}axis')
    ticks = [tick for tick in ticks if low <= tick <= high]
    digits = max((len(f'{tick:.10g}'.partition('.')[2]) for tick in ticks), default=0)
    part.set_major_locator(FixedLocator(ticks))
    part.set_major_formatter(FuncFormatter(lambda value, _: f'{value:.{digits}f}'))
    part.set_minor_locator(NullLocator())


# Where a name may stand: alignments, and an offset in points.
_PLACES = (('left', 'center', (7, 0)), ('right', 'center', (-7, 0)), ('center', 'bottom', (0, 6)),
           ('center', 'top', (0, -6)), ('left', 'bottom', (4, 5)), ('left', 'top', (4, -5)),
           ('right', 'bottom', (-4, 5)), ('right', 'top', (-4, -5)))


def _name_points(figure: Figure, axis: Axes, xs: Sequence[float], ys: Sequence[float],
                 candidates: Sequence[Candidate]) -> None:
    """Write each candidate beside its point where there is room; the table has them all."""
    figure.draw_without_rendering()  # gives everything its place
    inside = axis.get_window_extent()
    points = axis.transData.transform(list(zip(xs, ys)))
    taken = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5) for x, y in points]
    (x0, y0), (x1, y1) = axis.transData.transform(axis.lines[0].get_xydata())
    line = [Bbox.from_bounds(x, y, 1, 1) for x, y in np.linspace((x0, y0), (x1, y1), 200)]
    # The choice comes first, since it must have a name.
    for i in sorted(range(len(points)), key=lambda i: not candidates[i].chosen):
        text = axis.annotate(
            texts.of_subnet(candidates[i].subnet), (xs[i], ys[i]), textcoords='offset points',
            xytext=(0, 0), fontsize=8.5,
            color=STAND_IN['choice' if candidates[i].chosen else 'ink'])
        for obstacles in (taken + line, taken):
            if any(_fits(text, place, inside, obstacles) for place in _PLACES):
                taken.append(text.get_window_extent())
                break
        else:
            text.remove()


def _fits(text: Annotation, place: tuple, inside: Bbox, obstacles: Sequence[Bbox]) -> bool:
    horizontal, vertical, offset = place
    text.set(ha=horizontal, va=vertical, position=offset)
    box = text.get_window_extent()
    return inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 and \
        box.y1 <= inside.y1 and not any(box.overlaps(other) for other in obstacles)


def _legend(figure: Figure, axis: Axes) -> None:
    handles, labels = axis.get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc='outside upper left', ncols=len(labels))


# ------------------------------------------------------------------------ SVG


def _svg(figure: Figure, name: str, description: str) -> str:
    buffer = io.StringIO()
    figure.savefig(
        buffer, format='svg', metadata=dict(Creator=None, Date=None, Format=None, Type=None))
    svg = buffer.getvalue()
    svg = with_variables(svg[svg.index('<svg'):])
    # The page has several, whose parts must not have the same names.
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf'\g<1>{name}-', svg)
    # The width is the page's business.
    svg = re.sub(r' (?:height|width)="[\d.]+pt"', '', svg, count=2)
    return svg.replace('<svg', f'<svg role="img" aria-label="{description}"', 1).strip()
