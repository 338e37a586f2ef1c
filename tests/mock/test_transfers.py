# SPDX-License-Identifier: MIT
"""Transfers of devices over several mappings: every byte, and every page that is dirty by them, as a model of flat memory has it."""

from __future__ import annotations

import errno
from contextlib import ExitStack
from random import Random

import pytest

import pyvfio
from pyvfio import Container, DmaBuffer, host, mock
from pyvfio.mock.machine.errno import Errno

EDU, MOCK = "0000:00:03.0", "vfio-mock.0"
PAGE = 4096
START = 16 * PAGE
#: pages of mappings, one after the other without a gap
SIZES = (1, 2, 1, 3)
TOTAL = sum(SIZES)


def edges(random: Random) -> list[tuple[int, int]]:
    """Return offsets and sizes of transfers: around the ends of pages and mappings, and some anywhere."""
    ends = [page * PAGE for page in range(TOTAL + 1)]
    near = [end + by for end in ends for by in (-1, 0, 1) if 0 <= end + by <= TOTAL * PAGE]
    pairs = [(start, end - start) for start in near for end in near if start < end]
    return random.sample(pairs, 40) + [
        (start, random.randrange(1, TOTAL * PAGE - start + 1)) for start in random.sample(range(TOTAL * PAGE), 10)
    ]


@pytest.mark.parametrize("name", [MOCK, EDU])
@pytest.mark.parametrize("mode", ["type1v2", "iommufd"])
def test_transfers_over_several_mappings_move_every_byte(mode: str, name: str) -> None:
    kernel, random = mock.Kernel("intel-48"), Random(7)
    with ExitStack() as stack:
        if name == EDU:
            stack.enter_context(host.bind(EDU, "vfio-pci", kernel=kernel))
        device = stack.enter_context(pyvfio.open(name, mode=mode, kernel=kernel))  # type: ignore[arg-type]  # a mode, as text
        space, buffers, at = device.address_space, [], START
        for size in SIZES:
            buffers.append(DmaBuffer(size * PAGE))
            space.map(buffers[-1], at)
            at += size * PAGE
        dma = kernel.devices[name].space
        assert dma is not None
        flat = bytearray(TOTAL * PAGE)
        for offset, size in edges(random):
            data = random.randbytes(size)
            dma.write(START + offset, data)
            flat[offset : offset + size] = data
            assert b"".join(bytes(buffer.view) for buffer in buffers) == flat
            assert dma.read(START + offset, size) == data
        for offset, size in ((-1, 1), (-1, 2), (TOTAL * PAGE, 1), (TOTAL * PAGE - 1, 2), (0, TOTAL * PAGE + 1)):
            for call in (dma.read, lambda at, n: dma.write(at, bytes(n))):
                with pytest.raises(Errno) as caught:
                    call(START + offset, size)
                assert caught.value.number in (errno.EINVAL, errno.ENOENT)


def test_only_the_pages_that_a_transfer_writes_are_dirty() -> None:
    kernel, random = mock.Kernel("intel-48"), Random(8)
    with pyvfio.open(MOCK, mode="type1v2", kernel=kernel) as device:
        space = device.address_space
        assert isinstance(space, Container)
        places, at = [], START
        for size in SIZES:
            places.append(space.map(DmaBuffer(size * PAGE), at).range)
            at += size * PAGE
        space.start_dirty_tracking()
        dma = kernel.devices[MOCK].space
        assert dma is not None

        def dirty() -> list[int]:
            # Each mapping by itself: of several in one bitmap, Linux reports more than was written.
            runs = [run for place in places for run in space.read_dirty(place.start, place.size).runs()]
            return [page for run in runs for page in range(run.start // PAGE, run.last // PAGE + 1)]

        dirty()
        for offset, size in edges(random):
            dma.write(START + offset, bytes(size))
            assert dirty() == list(range((START + offset) // PAGE, (START + offset + size - 1) // PAGE + 1))
            dma.read(START + offset, size)
            assert dirty() == []
