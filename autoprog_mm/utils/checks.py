# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Checks of the numbers that a config sets."""
from typing import Any, Optional

from .errors import UserError


def check_int(name: str,
              value: Any,
              least: int = 1,
              optional: bool = False,
              most: Optional[int] = None) -> None:
    """Check that a setting is a whole number.

    Args:
        name (str): Of the setting, for the message.
        value (Any): What it is set to.
        least (int): The least that it may be. Defaults to 1.
        optional (bool): Whether it may be None. Defaults to False.
        most (int, optional): The most that it may be. Defaults to None, no end.

    Raises:
        UserError: If it isn't; names setting and value.
    """
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (
            most is not None and value > most):
        end = '' if most is None else f' and at most {most}'
        raise UserError(f'{name} must be an int of at least {least}{end}'
                        f'{" or None" if optional else ""}, but got {value!r}.')


def check_number(name: str,
                 value: Any,
                 low: float = 0.,
                 high: Optional[float] = None,
                 above: bool = False,
                 below: bool = False) -> None:
    """Check that a setting is a number in a range.

    Args:
        name (str): Of the setting, for the message.
        value (Any): What it is set to.
        low (float): Lower end. Defaults to 0.
        high (float, optional): Upper end. Defaults to None, no end.
        above (bool): Whether ``low`` itself is excluded. Defaults to False.
        below (bool): Whether ``high`` itself is excluded. Defaults to False.

    Raises:
        UserError: If it isn't; names setting and value.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = number and value >= low and not (above and value == low) and (
        high is None or value <= high and not (below and value == high))
    if fits:
        return
    if high is None:
        kind = f'a number {"above" if above else "of at least"} {low:g}'
    else:
        kind = f'a number in {"(" if above else "["}{low:g}, {high:g}{")" if below else "]"}'
    raise UserError(f'{name} must be {kind}, but got {value!r}.')
