# Copyright (c) the autoprog_mm authors. All rights reserved.
import pytest

from autoprog_mm.growth import growth_sources, slot_order


@pytest.mark.parametrize('num_slots, min_depth, order', [
    (12, 6, [0, 2, 4, 6, 8, 10, 11, 9, 7, 5, 3, 1]),
    # Gaps of 2 2 2 3 3 slots; the third slots of the last two wake last.
    (12, 5, [0, 2, 4, 6, 9, 10, 7, 5, 3, 1, 11, 8]),
    (8, 4, [0, 2, 4, 6, 7, 5, 3, 1]),
    (8, 3, [0, 2, 5, 6, 3, 1, 7, 4]),
    (14, 5, [0, 2, 5, 8, 11, 12, 9, 6, 3, 1, 13, 10, 7, 4]),
    (4, 2, [0, 2, 3, 1]),
    (5, 1, [0, 1, 2, 3, 4]),
    (7, 2, [0, 3, 4, 1, 5, 2, 6]),
    (4, 4, [0, 1, 2, 3]),
    (1, 1, [0]),
])
def test_slot_order(num_slots, min_depth, order):
    assert slot_order(num_slots, min_depth) == order


@pytest.mark.parametrize('num_slots', range(1, 25))
def test_depths_are_nested_and_begin_with_the_first_slot(num_slots):
    for min_depth in range(1, num_slots + 1):
        order = slot_order(num_slots, min_depth)
        assert sorted(order) == list(range(num_slots))
        assert order[0] == 0
        assert order[:min_depth] == sorted(order[:min_depth])


@pytest.mark.parametrize('before, after, sources', [
    # 6 -> 8 -> 10 -> 12 of 12.
    ([0, 2, 4, 6, 8, 10], [0, 2, 4, 6, 8, 9, 10, 11], {9: 8, 11: 10}),
    ([0, 2, 4, 6, 8, 9, 10, 11], [0, 2, 4, 5, 6, 7, 8, 9, 10, 11], {5: 4, 7: 6}),
    ([0, 2, 4, 5, 6, 7, 8, 9, 10, 11], range(12), {1: 0, 3: 2}),
    # 5 -> 12 of 12: two slots copy one source.
    ([0, 2, 4, 6, 9], range(12), {1: 0, 3: 2, 5: 4, 7: 6, 8: 6, 10: 9, 11: 9}),
    ([0, 3], [0, 3], {}),
    # The order in which awake slots are named plays no part.
    ([6, 0, 4, 2], [7, 0, 2, 4, 6, 5], {5: 4, 7: 6}),
])
def test_growth_sources(before, after, sources):
    assert growth_sources(before, after) == sources
    assert list(growth_sources(before, after)) == sorted(sources)


def authors_mapping(old_depth, new_depth):
    """What each new layer copies: all repeat equally often, the last ones once more."""
    times, num_more = divmod(new_depth, old_depth)
    mapping = []
    for layer in range(old_depth):
        mapping += [layer] * (times + (1 if layer >= old_depth - num_more else 0))
    return mapping


def mapping_of(order, old_depth, new_depth):
    """The same for slots that wake in this order: ranks of sources among the old layers."""
    before, after = sorted(order[:old_depth]), sorted(order[:new_depth])
    rank = {slot: i for i, slot in enumerate(before)}
    sources = growth_sources(before, after)
    return [rank[sources.get(slot, slot)] for slot in after]


@pytest.mark.parametrize('old_depth, new_depth, mapping', [
    (6, 8, [0, 1, 2, 3, 4, 4, 5, 5]),
    (5, 12, [0, 0, 1, 1, 2, 2, 3, 3, 3, 4, 4, 4]),
])
def test_mapping_by_hand(old_depth, new_depth, mapping):
    assert authors_mapping(old_depth, new_depth) == mapping
    assert mapping_of(slot_order(12, old_depth), old_depth, new_depth) == mapping


def test_mapping_is_the_authors_for_every_growth():
    num_cases = 0
    for num_slots in range(1, 49):
        for old_depth in range(1, num_slots + 1):
            order = slot_order(num_slots, old_depth)
            for new_depth in range(old_depth, num_slots + 1):
                assert mapping_of(order, old_depth, new_depth) == \
                    authors_mapping(old_depth, new_depth), (num_slots, old_depth, new_depth)
                num_cases += 1
    assert num_cases == 19600


@pytest.mark.parametrize('min_depth', [0, -1, 13])
def test_slot_order_errors(min_depth):
    match = rf'min_depth must be between 1 and the number of slots \(12\), but got {min_depth}'
    with pytest.raises(ValueError, match=match):
        slot_order(12, min_depth)


def test_growth_sources_errors():
    with pytest.raises(ValueError, match=r'can only wake slots, but \[2\] of awake_before'):
        growth_sources([0, 2, 4], [0, 3, 4, 5])
    with pytest.raises(ValueError, match=r'Slot 1 has no awake slot to its left'):
        growth_sources([2, 4], [1, 2, 4])
