# Copyright (c) the autoprog_mm authors. All rights reserved.
"""Which slots of a full-size network wake up, and from which they copy."""
from typing import Dict, List, Sequence

from ..utils.errors import UserError


def slot_order(num_slots: int, min_depth: int) -> List[int]:
    """The order in which the slots of one group wake up.

    The slots are split into ``min_depth`` consecutive gaps, the last ones one
    slot longer where it does not divide. The first slot of each gap belongs to
    the base; round t then wakes the t-th further slot of each gap, deepest gap
    first. The first l entries are awake at depth l, so that all depths of a
    run are nested, and growth by copying the nearest awake slot to the left is
    the interpolation of the AutoProg paper (section 3.3).

    Args:
        num_slots (int): Slots of the full-size group.
        min_depth (int): The smallest number of awake slots in this run.

    Returns:
        list[int]: All slots in waking order, the base first.

    Raises:
        ValueError: If ``min_depth`` is not within 1 and ``num_slots``.
    """
    if not 1 <= min_depth <= num_slots:
        raise UserError(
            f'min_depth must be between 1 and the number of slots ({num_slots}), '
            f'but got {min_depth}.')
    short, num_longer = divmod(num_slots, min_depth)
    gaps, start = [], 0
    for i in range(min_depth):
        length = short + (i >= min_depth - num_longer)
        gaps.append(range(start, start + length))
        start += length
    order = [gap[0] for gap in gaps]
    for turn in range(1, short + 1):
        order += [gap[turn] for gap in reversed(gaps) if turn < len(gap)]
    return order


def growth_sources(awake_before: Sequence[int], awake_after: Sequence[int]) -> Dict[int, int]:
    """The slot that each waking slot copies: the nearest awake one to its left.

    Args:
        awake_before (Sequence[int]): Slots awake before the growth.
        awake_after (Sequence[int]): Slots awake after it, all of
            ``awake_before`` among them.

    Returns:
        dict[int, int]: ``{waking slot: source slot}`` in ascending order.

    Raises:
        ValueError: If a slot falls asleep, or has nothing to its left.
    """
    asleep = set(awake_before) - set(awake_after)
    if asleep:
        raise UserError(
            f'A growth can only wake slots, but {sorted(asleep)} of awake_before '
            f'{sorted(awake_before)} are not in awake_after {sorted(awake_after)}.')
    sources = {}
    for slot in sorted(set(awake_after) - set(awake_before)):
        left = [source for source in awake_before if source < slot]
        if not left:
            raise UserError(
                f'Slot {slot} has no awake slot to its left to copy from '
                f'(awake_before: {sorted(awake_before)}).')
        sources[slot] = max(left)
    return sources
