# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Names in messages."""
import difflib
from typing import Iterable, Sequence

_LISTED = 5


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that is not known.

    Args:
        name (str): The name.
        known (Iterable[str]): Those that there are.

    Returns:
        str: ``" Did you mean 'num_stages'?"``, with a space before it; empty if
        no known name is close.
    """
    known = sorted(set(known))
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    # Of a longer or shorter name that has the same beginning or end, too.
    near += [other for other in known if min(len(name), len(other)) > 2 and (
        other.startswith(name) or name.startswith(other) or other.endswith(name))]
    return f' Did you mean {near[0]!r}?' if near else ''


def listed(names: Sequence[str]) -> str:
    """The first few of some names, and how many more there are.

    Args:
        names (Sequence[str]): The names.
    """
    text = ', '.join(map(repr, names[:_LISTED]))
    return text if len(names) <= _LISTED else f'{text} and {len(names) - _LISTED} more'
