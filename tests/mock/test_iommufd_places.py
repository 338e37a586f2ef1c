# SPDX-License-Identifier: MIT
"""The IOVAs that the mock's iommufd chooses are the first free ones, whatever its search algorithm."""

from __future__ import annotations

from random import Random

import pytest

from pyvfio.mock.iommufd.area import LAST, Area
from pyvfio.mock.iommufd.places import Places, holes
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.vfio.mappings import Mappings

PAGE = 4096


class Memory:
    """A substitute for memory: the choice of an IOVA does not look at pages."""


def first(
    areas: Mappings[Area], reserved: list[tuple[int, int]], allowed: list[tuple[int, int]], address: int, size: int
) -> int | None:
    """Search as the kernel does: gap after gap, and take the first that fits."""
    alignment = min(1 << (size - 1).bit_length(), address & -address or 1 << 63, 2 << 20)
    offset = address % PAGE

    def fit(start: int, last: int) -> int | None:
        start = (start + alignment - 1 & -alignment) | offset
        return start if start < last and last - start >= size - 1 else None

    taken = sorted([*reserved, *((area.iova, area.last) for area in areas)])
    for low, high in allowed or [(PAGE, LAST - PAGE)]:
        begin = fit(max(low, PAGE), min(high, LAST - PAGE))
        if begin is None:
            continue
        for hole in holes(taken, begin, min(high, LAST - PAGE)):
            if (found := fit(*hole)) is not None:
                return found
    return None


@pytest.mark.parametrize("seed", range(20))
def test_the_first_place_is_found_after_any_map_and_unmap(seed: int) -> None:
    random = Random(seed)
    areas: Mappings[Area] = Mappings()
    places = Places(areas, PAGE)
    reserved: list[tuple[int, int]] = []
    allowed: list[tuple[int, int]] = []
    places.limit(reserved, allowed)
    mapped: list[Area] = []
    for _ in range(400):
        if random.random() < 0.01:
            reserved = [(0x40000, 0x43FFF)] if random.random() < 0.5 else []
            allowed = random.choice([[], [(0x10000, 0x8FFFF)], [(0x3000, 0x20FFF), (0x80000, 0xFFFFF)]])
            places.limit(reserved, allowed)
        if mapped and random.random() < 0.45:
            area = mapped.pop(random.randrange(len(mapped)))
            areas.remove(area)
            places.freed(area)
            continue
        pieces = random.random() < 0.05
        size = random.choice([512, 2048, 6144]) if pieces else PAGE * random.choice([1, 1, 1, 2, 2, 3, 4, 7, 16])
        address = 0x7F0000000000 + PAGE * random.randrange(64) + (512 * random.randrange(8) if pieces else 0)
        expected = first(areas, reserved, allowed, address, size)
        try:
            found = places.find(address, size, 1)
        except Errno:
            found = None
        assert found == expected
        if found is not None and areas.first(found, found + size - 1) is None:
            area = Area(found, found + size - 1, Memory(), 0, 3)  # type: ignore[arg-type]
            areas.insert(area)
            mapped.append(area)
