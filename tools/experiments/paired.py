# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Statistics of runs that are paired by seed."""
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Dict, Optional, Sequence

# Student's t at 97.5 %, for 1, 2, ... degrees of freedom. For more the last one
# is a little too large, so that intervals are rather too wide.
T_975 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179,
         2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086)


@dataclass
class Difference:
    """A mean of paired differences, with its 95 % interval.

    Args:
        mean (float): The mean.
        half (float | None): Half the width of the interval, by Student's t;
            None for a single pair, which says nothing of others.
        pairs (int): How many pairs.
    """

    mean: float
    half: Optional[float]
    pairs: int

    def __str__(self) -> str:
        if self.half is None:
            return f'{self.mean:+.2f} (one pair)'
        return f'{describe_difference(self.mean, self.half)}, {self.pairs} pairs'


def describe_difference(value: float, half: Optional[float]) -> str:
    """A difference and its interval, of so much to each side."""
    interval = '' if half is None else f' [{value - half:+.2f}, {value + half:+.2f}]'
    return f'{value:+.2f}{interval}'


def mean_difference(differences: Sequence[float]) -> Difference:
    """The mean of some values, with its interval."""
    count = len(differences)
    half = None if count == 1 else \
        T_975[min(count - 1, len(T_975)) - 1] * stdev(differences) / count**0.5
    return Difference(mean(differences), half, count)


def paired(values: Dict[int, float], reference: Dict[int, float]) -> Optional[Difference]:
    """Compare two arms seed by seed.

    Args:
        values (dict[int, float]): Of an arm, by seed.
        reference (dict[int, float]): Of the arm to compare it with.

    Returns:
        Difference | None: Of the seeds that both have; None if there are none.
    """
    differences = [values[seed] - reference[seed] for seed in sorted(set(values) & set(reference))]
    return mean_difference(differences) if differences else None


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean and standard deviation of some values."""
    text = f'{mean(values):.{digits}f}'
    return text if len(values) == 1 else f'{text} ± {stdev(values):.{digits}f}'
