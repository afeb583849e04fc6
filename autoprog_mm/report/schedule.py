# Copyright (c) the autoprog_mm authors. All rights reserved.
"""The one drawer of schedules: what runs, over time or epochs."""
from typing import Callable, Dict, List, NamedTuple, Sequence, Tuple

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ..growth.subnet import Subnet

# Title of an axis, and what it shows of a subnet.
PARTS: Dict[str, Callable[[Subnet], float]] = {
    'Depth': lambda subnet: subnet.depth,
    'Resolution in px': lambda subnet: subnet.resolution,
}


class Line(NamedTuple):
    """Subnets that run one after the other, each from ``begin`` to ``end``."""

    label: str
    color: str
    width: float
    spans: List[Tuple[float, float, Subnet]]


class Band(NamedTuple):
    """Subnets of which any may run, from ``begin`` to ``end``."""

    begin: float
    end: float
    subnets: List[Subnet]


def plot_schedule(axes: Sequence[Axes], parts: Dict[str, Callable[[Subnet], float]],
                  full: Sequence[Subnet], lines: Sequence[Line], bands: Sequence[Band],
                  band_label: str, band_color: str) -> None:
    """Draw lines, and bands above them.

    Args:
        axes (Sequence[Axes]): One for each part.
        parts (dict[str, Callable]): Such as :data:`PARTS`.
        full (Sequence[Subnet]): What the vertical axes reach up to.
        lines (Sequence[Line]): The lines, the lowest first.
        bands (Sequence[Band]): The bands.
        band_label (str): What the legend says of the bands.
        band_color (str): Their colour.
    """
    for axis, (title, value) in zip(axes, parts.items()):
        axis.set_title(title)
        for line in lines:
            axis.plot([place for begin, end, _ in line.spans for place in (begin, end)],
                      [value(subnet) for _, _, subnet in line.spans for _ in range(2)],
                      color=line.color, linewidth=line.width, label=line.label)
        for i, (begin, end, subnets) in enumerate(bands):
            values = [value(subnet) for subnet in subnets]
            axis.fill_between([begin, end], min(values), max(values), color=band_color, alpha=0.3,
                              linewidth=0, label='' if i else band_label)
        axis.set_ylim(0, 1.12 * max(map(value, full)))
        axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
