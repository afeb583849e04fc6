# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The picture of a suite: accuracy over what it costs, of growth and of the full network."""
import io
from dataclasses import dataclass
from typing import Dict, List, Optional

from equal import SpeedUp
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from autoprog_mm.report.colors import LIGHT
from autoprog_mm.report.style import WIDTH, add_legend, set_log_axis, style
from autoprog_mm.utils import UserError

# Colour, marker and line of the full network, of growth, and of what is compared with both:
# told apart without colours, too.
_LOOKS = (('baseline', 's', '--'), ('run', 'o', '-'), ('choice', '^', '-'), ('growth', 'D', '-.'))


@dataclass
class Point:
    """An arm in the mean over its seeds.

    Args:
        arm (str): Its name.
        speedup (float): Its setting; 1 without one.
        top1 (float): In percent.
        half (float | None): Half the width of its 95 % interval.
        compute (float): In units of the whole recipe at full size.
        seconds (float): Of training.
    """

    arm: str
    speedup: float
    top1: float
    half: Optional[float]
    compute: float
    seconds: float

    def __str__(self) -> str:
        half = '' if self.half is None else f' ± {self.half:.2f}'
        return (f'{self.arm}: {self.top1:.2f}{half} % at {self.compute:.3f} of the multiply-adds '
                f'and {self.seconds:.0f} s')


def describe_curve(lines: Dict[str, List[Point]]) -> str:
    """What a picture shows, in words: its points."""
    return 'Top-1 by multiply-adds and seconds. ' + '; '.join(
        str(point) for points in lines.values() for point in points) + '.'


def draw_curve(lines: Dict[str, List[Point]], baseline: Point, compute: SpeedUp,
               seconds: SpeedUp) -> str:
    """Draw top-1 over multiply-adds and over seconds.

    Args:
        lines (dict[str, list[Point]]): Points by the name of their line: the
            full network's first, then growth, for which the speed-ups are.
        baseline (Point): The full network for the whole recipe, one of these.
        compute (SpeedUp): At the baseline's accuracy, in multiply-adds.
        seconds (SpeedUp): The same in seconds.

    Returns:
        str: An SVG file, on white.

    Raises:
        UserError: If there are more lines than can be told apart.
    """
    if len(lines) > len(_LOOKS):
        raise UserError(f'A curve can have {len(_LOOKS)} lines, but got {", ".join(lines)}. Take '
                        'arms out of its table, or make two.')
    every = [point for points in lines.values() for point in points]
    unit, name = (60., 'minutes') if max(p.seconds for p in every) >= 600 else (1., 'seconds')
    with style(LIGHT):
        figure = Figure(figsize=(WIDTH, 3.9), layout='constrained')
        left, right = figure.subplots(1, 2, sharey=True)
        for axis, costs in ((left, {p.arm: p.compute for p in every}),
                            (right, {p.arm: p.seconds / unit for p in every})):
            set_log_axis(axis, 'x', list(costs.values()))
            for look, (label, points) in zip(_LOOKS, lines.items()):
                color, marker, dashes = look
                axis.errorbar(
                    [costs[p.arm] for p in points], [p.top1 for p in points],
                    [p.half or 0. for p in points], label=label, color=LIGHT[color],
                    marker=marker, linestyle=dashes, markersize=4.5, capsize=2.5, elinewidth=1.,
                    linewidth=1.8)
        left.set_title('Top-1 in %, mean and 95 % interval')
        left.set_xlabel("Multiply-adds of training, as a share of the whole recipe's at full size")
        ticks = {1 / p.speedup: f'1/{p.speedup:g}' if p.speedup > 1 else '1' for p in every}
        left.xaxis.set_major_locator(FixedLocator(list(ticks)))
        left.xaxis.set_major_formatter(FuncFormatter(lambda value, _: min(
            ticks.items(), key=lambda tick: abs(tick[0] - value))[1]))
        left.xaxis.set_minor_locator(NullLocator())
        right.set_xlabel(f'Training time in {name}')
        _mark_speed_up(left, compute, baseline.top1, baseline.compute, 'compute')
        _mark_speed_up(right, seconds, baseline.top1, baseline.seconds / unit, 'time')
        add_legend(figure, left)
        buffer = io.BytesIO()
        figure.savefig(
            buffer, format='svg', facecolor=LIGHT['page'],
            metadata=dict(Creator=None, Date=None, Type=None, Description=describe_curve(lines)))
    # Where the first font is missing, one that is as wide.
    return buffer.getvalue().decode().replace("'DejaVu Sans'", "'DejaVu Sans', Verdana, sans-serif")


def _mark_speed_up(axis: Axes, speed_up: SpeedUp, level: float, cost: float, what: str) -> None:
    """An arrow from the full network's point to where growth is as accurate."""
    if not speed_up.value:
        return
    times = min(speed_up.value, speed_up.most)
    axis.annotate('', (cost / times, level), (cost, level), arrowprops=dict(
        arrowstyle='->', color=LIGHT['ink'], linewidth=1.2, shrinkA=4, shrinkB=0))
    axis.annotate(f'equal for {speed_up.text(speed_up.value, 1)}× less {what}',
                  (cost / times**0.5, level), (0, 4), textcoords='offset points', ha='center',
                  color=LIGHT['ink'])
