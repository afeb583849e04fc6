# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Whether two runs may be compared, and how they differ."""
from typing import Any, Dict, List, Optional

from ..record.run import Run
from ..utils.errors import UserError
from .texts import of_subnet

_MISSING = object()
# Settings that must be the same, with their names in messages.
_SAME = {'epochs': 'epochs', 'batch_size': 'batch size', 'seed': 'seed'}


def check_comparable(run: Run, baseline: Run) -> None:
    """Check that data, epochs, batch size and seed of two runs are the same.

    Args:
        run (Run): A run.
        baseline (Run): What it is compared with.

    Raises:
        UserError: If they are not; it names each difference with both values.
    """
    for one in (run, baseline):
        if one.settings is None:
            raise UserError(
                f'The record in {one.work_dir!r} is of an older version, which did not write down '
                'data, epochs, batch and seed, so it cannot be compared: train it again, or leave '
                'out --baseline.')
    found = [f'the data ({"; ".join(differing)})'] if (differing := _data(run, baseline)) else []
    found += [
        f'the {name} ({_both(run.settings[key], baseline.settings[key])})'
        for key, name in _SAME.items() if run.settings[key] != baseline.settings[key]
    ]
    if found:
        raise UserError(
            f'{run.work_dir!r} cannot be compared with the baseline {baseline.work_dir!r}, for '
            f'they differ in {_listed(found)}.')


def _data(run: Run, baseline: Run) -> List[str]:
    here, there = (flat(dict(one.settings['dataset'], samples=one.settings['samples']))
                   for one in (run, baseline))
    return [
        f'{key}: {_both(here.get(key, "not set"), there.get(key, "not set"))}'
        for key in {**here, **there} if here.get(key, _MISSING) != there.get(key, _MISSING)
    ]


def other_differences(run: Run, baseline: Run) -> List[str]:
    """Differences besides the schedule that may explain a figure: network, device, versions.

    Args:
        run (Run): A run.
        baseline (Run): What it is compared with.

    Returns:
        list[str]: Such as ``'device (a and b)'``.
    """
    here, there = (
        dict(network=f'{one.model} {of_subnet(one.full)}',
             **{key: one.settings.get(key) for key in ('device', 'processes')},
             **{f'version of {name}': version
                for name, version in one.settings.get('versions', {}).items()})
        for one in (run, baseline))
    return [f'{key} ({_both(here.get(key), there.get(key))})'
            for key in {**here, **there} if here.get(key) != there.get(key)]


def speed_up(run: Run, baseline: Optional[Run]) -> Optional[float]:
    """The baseline's training seconds over the run's; None until both have finished."""
    if baseline is None or not (run.finished and baseline.finished) or run.train_seconds <= 0:
        return None
    return baseline.train_seconds / run.train_seconds


def gain(run: Run, baseline: Optional[Run]) -> Optional[float]:
    """Final top-1 less the baseline's, in points; None until both have finished."""
    if baseline is None or not (run.finished and baseline.finished):
        return None
    return None if None in (run.top1, baseline.top1) else run.top1 - baseline.top1


def all_settings(run: Run) -> Dict[str, Any]:
    """Network and settings of a run, nested names joined by dots."""
    settings = {'backbone': run.model, 'full network': of_subnet(run.full)}
    return flat({**settings, **(run.settings or {})})


def flat(tree: Dict[str, Any], prefix: str = '') -> Dict[str, Any]:
    """Nested dicts as one dict, names joined by dots."""
    leaves: Dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            leaves.update(flat(value, f'{prefix}{key}.'))
        else:
            leaves[f'{prefix}{key}'] = value
    return leaves


def _both(here: Any, there: Any) -> str:
    return f'{here} and {there}'


def _listed(parts: List[str]) -> str:
    return parts[0] if len(parts) == 1 else f'{", ".join(parts[:-1])} and {parts[-1]}'
