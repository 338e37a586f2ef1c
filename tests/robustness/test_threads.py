# SPDX-License-Identifier: MIT
"""Two calls at once, without threads: one is made inside the request of another, before the kernel acts or after it."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from contextlib import suppress
from itertools import product
from typing import Any

import pytest

import pyvfio
from pyvfio import DmaBuffer, mock
from pyvfio._abi import lib
from pyvfio.spaces.opening import Mode
from tests.robustness.program import FIRST, PAGE, World, known_mappings

Call = Callable[[World], Any]
#: what calls of the second kind use, apart from those of the first
SECOND = FIRST + 0x100 * PAGE


def rows(world: World, start: int) -> array[int]:
    result = array("Q")
    for index in range(3):
        result.extend((world.buffer.address, start + index * PAGE, PAGE))
    return result


CALLS: dict[str, Call] = {
    "map": lambda world: world.made["space"].map(world.buffer, SECOND),
    "alloc": lambda world: world.made["space"].alloc(PAGE),
    "map_many": lambda world: world.made["space"].map_many(rows(world, SECOND + 0x40 * PAGE), keep=world.buffer),
    "unmap": lambda world: world.made["mapping"].unmap(),
    "unmap range": lambda world: world.made["space"].unmap(FIRST, 0x80 * PAGE),
    "unmap_many": lambda world: world.made["batch"].unmap(),
    "unmap_all": lambda world: world.made["space"].unmap_all(),
    "reset": lambda world: world.made["device"].reset(),
    "enable": lambda world: world.made["device"].irqs[0].enable(),
    "close": lambda world: world.made["device"].close(),
}
#: what some of them ask of the kernel
REQUESTS = {
    lib.VFIO_IOMMU_MAP_DMA, lib.VFIO_IOMMU_UNMAP_DMA, lib.IOMMU_IOAS_MAP, lib.IOMMU_IOAS_UNMAP, lib.VFIO_DEVICE_RESET,
    lib.VFIO_DEVICE_SET_IRQS,
}  # fmt: skip


def both(mode: Mode, first: str, second: str, after: bool) -> str | None:
    """Make the second call inside the first one's request; what kernel and library say differently afterwards."""
    with known_mappings() as known:
        world = World(mode)
        made = world.made
        made["device"] = device = pyvfio.open("vfio-mock.0", mode=mode, kernel=world.kernel)
        made["space"] = space = device.address_space
        made["mapping"] = space.map(world.buffer, FIRST)
        made["batch"] = space.map_many(rows(world, FIRST + 0x20 * PAGE), keep=world.buffer)
        real = world.kernel.ioctl
        pending = [CALLS[second]]

        def inside() -> None:
            if pending:
                call = pending.pop()
                with suppress(OSError):
                    call(world)

        def ioctl(fd: int, request: int, argument: int) -> int:
            if not after and request & 0xFFFFFFFF in REQUESTS:
                inside()
            result = real(fd, request, argument)
            if after and request & 0xFFFFFFFF in REQUESTS:
                inside()
            return result

        world.kernel.ioctl = ioctl  # type: ignore[method-assign]
        with suppress(OSError):
            CALLS[first](world)
        world.kernel.ioctl = real  # type: ignore[method-assign]
        found = world.disagreement(known)
        left = world.left()
        return found or (f"left {left}" if left else None)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("mode", ["type1v2", "iommufd"])
def test_kernel_and_library_agree_after_two_calls_at_once(mode: Mode) -> None:
    wrong = []
    for first, second, after in product(CALLS, CALLS, (False, True)):
        if (found := both(mode, first, second, after)) is not None:
            wrong.append(f"{second} {'after' if after else 'before'} {first}: {found}")
    assert wrong == []


def test_a_mapping_made_at_an_iova_just_unmapped_is_kept() -> None:
    """H3."""
    kernel = mock.Kernel()
    with pyvfio.open("vfio-mock.0", mode="iommufd", kernel=kernel) as device:
        space = device.address_space
        first = space.alloc(PAGE)
        real = kernel.ioctl
        got: list[Any] = []

        def ioctl(fd: int, request: int, argument: int) -> int:
            result = real(fd, request, argument)
            if request & 0xFFFFFFFF == lib.IOMMU_IOAS_UNMAP and not got:
                got.append(None)
                got[0] = space.map(DmaBuffer(PAGE), first.iova)
            return result

        kernel.ioctl = ioctl  # type: ignore[method-assign]
        first.unmap()
        (second,) = got
        assert second is not None
        assert second.mapped
        assert not first.mapped
        assert space.mappings == [second]
        assert second.unmap() == PAGE
