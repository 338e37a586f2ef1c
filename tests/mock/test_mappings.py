# SPDX-License-Identifier: MIT
"""The ordered store of mappings, compared with a plain list."""

from __future__ import annotations

from typing import NamedTuple

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyvfio.mock.vfio.mappings import Mappings


class Item(NamedTuple):
    iova: int
    last: int


RANGES = st.tuples(st.integers(0, 4000), st.integers(0, 60)).map(lambda pair: Item(pair[0], pair[0] + pair[1]))


@settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(RANGES, max_size=200), st.lists(RANGES, max_size=40))
def test_it_finds_what_a_search_through_all_finds(added: list[Item], asked: list[Item]) -> None:
    mappings: Mappings[Item] = Mappings()
    plain: list[Item] = []
    for item in added:
        over = [other for other in plain if other.iova <= item.last and item.iova <= other.last]
        assert mappings.first(item.iova, item.last) == min(over, default=None)
        assert list(mappings.within(item.iova, item.last)) == sorted(over)
        if over:
            mappings.remove(over[0])
            plain.remove(over[0])
        else:
            mappings.insert(item)
            plain.append(item)
    assert list(mappings) == sorted(plain)
    assert len(mappings) == len(plain)
    for item in asked:
        assert mappings.at(item.iova) == next((one for one in plain if one.iova <= item.iova <= one.last), None)


def test_blocks_keep_their_order_while_every_second_item_goes() -> None:
    mappings: Mappings[Item] = Mappings()
    items = [Item(8 * n, 8 * n + 3) for n in range(5000)]
    for item in items[::2] + items[1::2]:
        mappings.insert(item)
    for item in items[::2]:
        mappings.remove(item)
    assert list(mappings) == items[1::2]
    assert all(mappings.at(item.iova) is None for item in items[::2])
    for item in mappings.within(0, 8 * 5000):
        mappings.remove(item)
    assert len(mappings) == 0
    assert mappings.first(0, 2**64 - 1) is None
