# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What each setting does, of arms that differ in several at once (a factorial)."""
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
from paired import T_975


def varied(arms: Sequence[dict]) -> List[Dict[str, str]]:
    """The settings in which arms differ, of each arm.

    Args:
        arms (Sequence[dict]): Arms of a suite, at least one.

    Returns:
        list[dict[str, str]]: Values by name. Settings that vary together are
        one, with all their names.
    """
    flat = [_flatten({key: value for key, value in arm.items() if key != 'base'}) for arm in arms]
    names: Dict[Tuple[int, ...], List[str]] = {}
    for name in dict.fromkeys(name for settings in flat for name in settings):
        values = [settings.get(name, 'default') for settings in flat]
        kinds = list(dict.fromkeys(values))
        if len(kinds) > 1:
            names.setdefault(tuple(map(kinds.index, values)), []).append(name)
    return [{', '.join(same): settings.get(same[0], 'default') for same in names.values()}
            for settings in flat]


def _flatten(settings: dict, prefix: str = '') -> Dict[str, str]:
    found = {}
    for key, value in settings.items():
        found.update(_flatten(value, f'{prefix}{key}.') if isinstance(value, dict) else
                     {f'{prefix}{key}': str(value)})
    return found


def main_effects(runs: Sequence[Dict[str, str]],
                 values: Sequence[float]) -> Dict[Tuple[str, str], Tuple[float, Optional[float]]]:
    """Fit a sum of what each setting does, by least squares.

    Args:
        runs (Sequence[dict[str, str]]): Settings of each run by name.
        values (Sequence[float]): Figure of each run.

    Returns:
        dict[tuple[str, str], tuple[float, float | None]]: By setting and
        value, all but the first value of each: how much more it gives than
        the first, and half the width of its 95 % interval, by what the sum
        leaves unexplained (None if there are no more runs than settings).
        What the runs can't tell apart from other settings is left out.
    """
    columns = [(name, value) for name in runs[0]
               for value in list(dict.fromkeys(run[name] for run in runs))[1:]]
    design = np.array([[1.] + [float(run[name] == value) for name, value in columns]
                       for run in runs])
    rank, inverse = np.linalg.matrix_rank(design), np.linalg.pinv(design)
    fitted = inverse @ np.asarray(values)
    free, halves = len(runs) - rank, [None] * (1 + len(columns))
    if free:
        residual = np.asarray(values) - design @ fitted
        halves = T_975[min(free, len(T_975)) - 1] * np.sqrt(
            residual @ residual / free * np.diag(inverse @ inverse.T))
    return {column: (fitted[i], halves[i]) for i, column in enumerate(columns, 1)
            if np.linalg.matrix_rank(np.delete(design, i, 1)) < rank}
