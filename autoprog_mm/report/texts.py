# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Numbers and subnets as the page shows them."""
from typing import Optional, Sequence, Tuple

from ..growth.subnet import Subnet

NONE = '–'
# From so many seconds on, hours and minutes are easier to read.
LONG = 600.


def of_subnet(subnet: Optional[Subnet]) -> str:
    """Such as 6×128."""
    return NONE if subnet is None else str(subnet).replace('x', '×')


def of_number(value: Optional[float], digits: int = 4) -> str:
    """A number with so many digits after the point."""
    return NONE if value is None else f'{value:,.{digits}f}'.replace('-', '−')


def of_difference(value: Optional[float], digits: int = 2) -> str:
    """A number with its sign."""
    if value is None:
        return NONE
    # No '-0.00'.
    return f'{round(value, digits) + 0.:+,.{digits}f}'.replace('-', '−')


def of_amount(value: float) -> str:
    """A positive number with three significant digits, or all before the point."""
    return f'{value:,.0f}' if value >= 100 else f'{value:.3g}'


def of_percent(value: Optional[float]) -> str:
    """A number of percent."""
    return NONE if value is None else f'{value:.2f} %'


def of_seconds(seconds: float) -> str:
    """Seconds; hours and minutes from :data:`LONG` on."""
    if seconds < LONG:
        return f'{seconds:.1f} s'
    minutes = round(seconds / 60)
    return f'{minutes} min' if minutes < 120 else f'{minutes // 60:,} h {minutes % 60} min'


def time_unit(longest: float) -> Tuple[float, str]:
    """The unit that suits an axis of times: its seconds, and its name."""
    for seconds, name in ((3600., 'h'), (60., 'min')):
        if longest >= 10 * seconds:
            return seconds, name
    return 1., 's'


def cost_unit(costs: Sequence[float], by_time: bool) -> Tuple[float, str]:
    """Likewise for a search's costs, in seconds or multiply-adds."""
    if by_time:
        return (1., 's') if max(costs) >= 10 else (1e-3, 'ms')
    return (1e9, 'GFLOPs') if max(costs) >= 1e9 else (1e6, 'MFLOPs')
