# Copyright (c) the autoprog_mm authors. All rights reserved.
"""What the arms of a suite have to do with each other: kinds and budgets."""
import json
import os.path as osp
from typing import Dict, List, Optional, Sequence


def is_full(arm: dict) -> bool:
    """Whether an arm trains the full network from the start, with nothing else changed."""
    return arm.get('hook', {}).get('num_stages', 1) == 1 and not arm.get('optim_wrapper')


def speedup_of(arm: dict) -> Optional[float]:
    """An arm's ``speedup``; None without one."""
    return arm.get('hook', {}).get('speedup')


def find_baseline(arms: Dict[str, dict], names: Sequence[str]) -> Optional[str]:
    """The first arm that trains the full network for the whole recipe; None without one."""
    return next((name for name in names
                 if is_full(arms[name]) and speedup_of(arms[name]) is None), None)


def find_rival(arms: Dict[str, dict], names: Sequence[str], name: str) -> Optional[str]:
    """The arm that trains the full network with the speed-up of ``name``; None without one."""
    speedup = speedup_of(arms[name])
    return next((other for other in names if speedup is not None and is_full(arms[other]) and
                 speedup_of(arms[other]) == speedup), None)


def families(arms: Dict[str, dict], names: Sequence[str]) -> Dict[str, List[str]]:
    """Put together arms that differ in ``speedup`` only.

    Args:
        arms (dict[str, dict]): Settings of arms by name.
        names (Sequence[str]): Those to put together.

    Returns:
        dict[str, list[str]]: Names by how all of them begin, or by all names
        where that says nothing or is taken: those of the full network first,
        and the longest run first.
    """
    found: Dict[str, List[str]] = {}
    for name in sorted(names, key=lambda name: speedup_of(arms[name]) or 1.):
        arm = arms[name]
        hook = {key: value for key, value in arm.get('hook', {}).items() if key != 'speedup'}
        key = '' if is_full(arm) else json.dumps(
            [hook, arm.get('optim_wrapper', {})], sort_keys=True, default=str)
        found.setdefault(key, []).append(name)
    named: Dict[str, List[str]] = {}
    for _, same in sorted(found.items(), key=lambda item: item[0] != ''):
        common = osp.commonprefix(same).strip(' ,')
        named[', '.join(same) if not common or common in named else common] = same
    return named
