# SPDX-License-Identifier: MIT
"""IOMMU_IOAS_MAP_FILE: mapping the memory of a file, whichever processes have mapped the file."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import signal
from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from pyvfio.memory import address_of
from tests.contract.kernel_log import logs_a_fault
from tests.contract.process import pinned
from tests.contract.raw_memory import RawMemory
from tests.contract.refused import refused

if TYPE_CHECKING:
    from pyvfio.iommufd import Ioas
    from tests.contract.drivers import Dma

pytestmark = [pytest.mark.only(mode="iommufd"), pytest.mark.require("linux", "map_file")]

PAGE = 4096


@pytest.fixture
def shared() -> Iterator[int]:
    """A descriptor of a memfd with four pages."""
    fd = os.memfd_create("shared")
    os.truncate(fd, 4 * PAGE)
    yield fd
    with contextlib.suppress(OSError):
        os.close(fd)


class Peer:
    """Another process that has mapped the file. This process reads and writes its memory."""

    def __init__(self, fd: int) -> None:
        memory = mmap.mmap(fd, 4 * PAGE)
        self._address = address_of(memory)
        self.process = os.fork()
        if self.process == 0:
            try:
                signal.pause()
            finally:
                os._exit(0)
        memory.close()
        self._memory = os.open(f"/proc/{self.process}/mem", os.O_RDWR | os.O_CLOEXEC)

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._memory, size, self._address + offset)

    def write(self, offset: int, data: bytes) -> None:
        os.pwrite(self._memory, data, self._address + offset)

    def end(self) -> None:
        os.close(self._memory)
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)


@pytest.fixture
def peer(shared: int) -> Iterator[Peer]:
    peer = Peer(shared)
    yield peer
    peer.end()


def test_a_device_copies_between_two_processes(space: Ioas, dma: Dma, shared: int, peer: Peer, cell: Any) -> None:
    ours = mmap.mmap(shared, PAGE)
    mapping = space.map_file(shared, 0, 4 * PAGE, 0x10_0000)
    # The IOMMU mapping needs neither the descriptor nor this process's own mapping of the file.
    os.close(shared)
    data = os.urandom(PAGE)
    ours[:] = data
    ours.close()
    dma.copy(mapping.iova + 2 * PAGE, mapping.iova, PAGE)
    assert peer.read(2 * PAGE, PAGE) == data
    answer = os.urandom(PAGE)
    peer.write(PAGE, answer)
    dma.copy(mapping.iova + 3 * PAGE, mapping.iova + PAGE, PAGE)
    assert peer.read(3 * PAGE, PAGE) == answer

    source = space.alloc(PAGE, 0x20_0000)
    assert mapping.unmap() == 4 * PAGE

    def write_there() -> None:
        # Not every device reports the failure: QEMU's nvme reports success, and edu has no error status.
        with contextlib.suppress(OSError):
            dma.copy(mapping.iova + 2 * PAGE, source.iova, 512)

    write_there()
    assert peer.read(2 * PAGE, PAGE) == data
    if (cell.iommu, cell.device) == ("intel", "edu"):
        assert logs_a_fault(write_there)
        assert peer.read(2 * PAGE, PAGE) == data
    if cell.device == "vfio-mock":
        with pytest.raises(FileNotFoundError):
            dma.copy(mapping.iova + 2 * PAGE, source.iova, 512)


@pytest.mark.require("iommu")
def test_what_is_pinned_stays_when_the_program_unmaps_it(space: Ioas, dma: Dma, shared: int, peer: Peer) -> None:
    before = pinned()
    with RawMemory(4 * PAGE, shared) as memory:
        batch = space.map_many(array("Q", [memory.address, 0x10_0000, memory.size]))
    assert pinned() - before == 4 * PAGE
    data = os.urandom(PAGE)
    peer.write(0, data)
    dma.copy(0x10_0000 + PAGE, 0x10_0000, PAGE)
    assert peer.read(PAGE, PAGE) == data
    assert batch.unmap() == 4 * PAGE
    assert pinned() == before


def test_a_part_of_a_file_is_mapped_where_the_kernel_likes(space: Ioas, shared: int) -> None:
    mapping = space.map_file(shared, PAGE, PAGE)
    assert mapping.range in space.iova_ranges
    assert mapping.unmap() == PAGE


@pytest.mark.require("iommu")
def test_a_file_is_not_mapped_beyond_its_end(space: Ioas, shared: int) -> None:
    with refused(errno.EINVAL):
        space.map_file(shared, 0, 8 * PAGE, 0x20_0000)
    os.truncate(shared, 0)
    with refused(errno.EINVAL):
        space.map_file(shared, 0, PAGE, 0x20_0000)
    assert space.unmap_all() == 0


@pytest.mark.require("iommu")
def test_a_file_that_is_no_memory_is_not_mapped(space: Ioas) -> None:
    with open("/dev/null", "r+b") as null, refused(errno.EINVAL):
        space.map_file(null.fileno(), 0, PAGE)
    assert space.mappings == []


def test_a_descriptor_of_nothing_is_not_mapped(space: Ioas, shared: int) -> None:
    os.close(shared)
    with refused(errno.EBADF):
        space.map_file(shared, 0, PAGE)
