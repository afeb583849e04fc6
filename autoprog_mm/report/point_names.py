# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Names beside points, where there is room for them."""
from typing import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox

# Where a name may stand: alignments, and an offset in points.
_PLACES = (('left', 'center', (7, 0)), ('right', 'center', (-7, 0)), ('center', 'bottom', (0, 6)),
           ('center', 'top', (0, -6)), ('left', 'bottom', (4, 5)), ('left', 'top', (4, -5)),
           ('right', 'bottom', (-4, 5)), ('right', 'top', (-4, -5)))


def name_points(figure: Figure, axis: Axes, xs: Sequence[float], ys: Sequence[float],
                names: Sequence[str], colors: Sequence[str]) -> None:
    """Write names beside points, so that they cover neither points nor each other.

    The axis's first line, a straight one, is covered only where nothing else
    helps. A name without room is left out.

    Args:
        figure (Figure): The figure, otherwise complete.
        axis (Axes): Where the points are.
        xs (Sequence[float]): Of the points.
        ys (Sequence[float]): Likewise.
        names (Sequence[str]): Likewise, the most important first.
        colors (Sequence[str]): Of the names.
    """
    figure.draw_without_rendering()  # gives everything its place
    inside = axis.get_window_extent()
    taken = [Bbox.from_extents(x - 5, y - 5, x + 5, y + 5)
             for x, y in axis.transData.transform(list(zip(xs, ys)))]
    (x0, y0), (x1, y1) = axis.transData.transform(axis.lines[0].get_xydata())
    line = [Bbox.from_bounds(x, y, 1, 1) for x, y in np.linspace((x0, y0), (x1, y1), 200)]
    for x, y, name, color in zip(xs, ys, names, colors):
        text = axis.annotate(name, (x, y), textcoords='offset points', xytext=(0, 0),
                             fontsize=8.5, color=color)
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
