# Copyright (c) the autoprog_mm authors. All rights reserved.
"""How all pictures look, and how they become SVG or a file."""
import io
import re
from contextlib import contextmanager
from typing import ContextManager, Dict, Iterator, Sequence, Tuple

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from .colors import LIGHT, STAND_IN, with_variables

# Inches, of a page as wide as it gets; narrower ones scale or scroll.
WIDTH = 9.6
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
}


def style(colors: Dict[str, str] = STAND_IN) -> ContextManager:
    """Context in which matplotlib draws in our style, whatever the user's own settings are.

    Args:
        colors (dict[str, str]): By the names of :data:`COLORS`. Defaults to
            those that :func:`to_svg` replaces.
    """
    ink, soft, line = (colors[name] for name in ('ink', 'soft', 'line'))
    return matplotlib.style.context(['default', {
        **_STYLE, 'text.color': ink, 'axes.labelcolor': soft, 'axes.edgecolor': line,
        'grid.color': line, 'xtick.color': soft, 'ytick.color': soft}])


def panels(rows: int, height: float) -> Tuple[Figure, Sequence[Axes]]:
    """A figure of some axes, one above the other; ``height`` in inches."""
    figure = Figure(figsize=(WIDTH, height), layout='constrained')
    return figure, figure.subplots(rows, sharex=True)


def add_legend(figure: Figure, axis: Axes) -> None:
    """One above the figure, if the axis has more than one thing to tell apart."""
    handles, labels = axis.get_legend_handles_labels()
    if len(labels) > 1:
        figure.legend(handles, labels, loc='outside upper left', ncols=len(labels))


def set_log_axis(axis: Axes, which: str, values: Sequence[float]) -> None:
    """A logarithmic axis (``'x'`` or ``'y'``) with plain numbers at round places."""
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


def to_svg(figure: Figure, name: str, description: str) -> str:
    """The ``<svg>`` element of a figure, to be put into the report's page.

    Args:
        figure (Figure): Drawn in :func:`style`, as this must be called.
        name (str): Tells its parts from those of the page's other pictures.
        description (str): For those who do not see it.
    """
    buffer = io.StringIO()
    figure.savefig(
        buffer, format='svg', metadata=dict(Creator=None, Date=None, Format=None, Type=None))
    svg = buffer.getvalue()
    svg = with_variables(svg[svg.index('<svg'):])
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf'\g<1>{name}-', svg)
    # The width is the page's business.
    svg = re.sub(r' (?:height|width)="[\d.]+pt"', '', svg, count=2)
    return svg.replace('<svg', f'<svg role="img" aria-label="{description}"', 1).strip()


@contextmanager
def picture_file(path: str, rows: int, height: float) -> Iterator[Sequence[Axes]]:
    """Context that gives axes, one above the other, to draw on in :data:`LIGHT`, then writes them.

    Args:
        path (str): A .png, .svg or .pdf.
        rows (int): Number of axes.
        height (float): In inches.
    """
    with style(LIGHT):
        figure, axes = panels(rows, height)
        yield axes
        add_legend(figure, axes[0])
        # The same picture, the same bytes.
        metadata = {'Date': None} if path.endswith('.svg') else None
        figure.savefig(path, dpi=120, facecolor=LIGHT['page'], metadata=metadata)
