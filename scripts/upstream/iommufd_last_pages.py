# SPDX-License-Identifier: MIT
"""iommufd maps memory that is not the program's when a mapping ends at the last byte of the address space.

batch_to_domain() computes where a run of contiguous pages ends as min(last_iova + 1, ...). If last_iova is 2**64 - 1, that is 0 for every run. So the first
run is mapped to the end: pages that physically follow it take the place of the program's own, whoever has them. The device can read and
write them. IOMMU_IOAS_UNMAP then unpins what was mapped: a page whose reference count this makes negative, and one that stays pinned.

It takes an IOMMU whose addresses have 64 bits, as virtio's. Here two pages are mapped, and the page that follows the first in physical memory is
a third one of the program's own, so nobody else's is harmed: after the unmap it cannot be mapped any more. As a control the same is
done one page lower first.

    scripts/vm --iommu virtio -- .venv/bin/python scripts/upstream/iommufd_last_pages.py
"""

import contextlib
import ctypes
import errno
import mmap
import platform
import struct
from pathlib import Path

import pyvfio
from pyvfio import host

PAGE, PAGES = 4096, 512
END = 1 << 64


def frames(address: int) -> list[int]:
    """Return the page frame number of each page of the memory."""
    with Path("/proc/self/pagemap").open("rb") as file:
        file.seek(address // PAGE * 8)
        return [entry & (1 << 55) - 1 for entry in struct.unpack(f"<{PAGES}Q", file.read(8 * PAGES))]


def candidates(address: int) -> list[tuple[int, int]]:
    """Return pages that the next one does not follow in physical memory, each with the page that does."""
    numbers = frames(address)
    pages = {frame: page for page, frame in enumerate(numbers)}
    return [
        (page, pages[frame + 1])
        for page, frame in enumerate(numbers[:-1])
        if frame + 1 in pages and pages[frame + 1] != page + 1
    ]


def attempt(space: pyvfio.Ioas, memory: mmap.mmap, page: int, follower: int, iova: int) -> str:
    """Map two pages, unmap them, and return how a mapping of the one that physically follows the first then ends."""
    view = memoryview(memory)
    space.map(view[page * PAGE : (page + 2) * PAGE], iova).unmap()
    try:
        space.map(view[follower * PAGE : (follower + 1) * PAGE], 1 << 32).unmap()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "works"


with contextlib.ExitStack() as stack:
    edu = next(
        each.address
        for each in host.devices()
        if (each.vendor, each.device) == (0x1234, 0x11E8) and len(host.group_members(each.address)) == 1
    )
    stack.enter_context(host.bind(edu, "vfio-pci"))
    space = stack.enter_context(pyvfio.open(edu, mode="iommufd")).address_space
    assert isinstance(space, pyvfio.Ioas)
    memory = mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for page in reversed(range(PAGES)):  # frames are mostly given in ascending order
        memory[page * PAGE] = 1
    (page, follower), (other, its_follower), *_ = candidates(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
    for end, one, two in ((END - PAGE, page, follower), (END, other, its_follower)):
        print(
            f"Linux {platform.release()}: two pages mapped up to {end - 1:#x} and unmapped; then a mapping of the page that physically follows the first: "
            f"{attempt(space, memory, one, two, end - 2 * PAGE)}"
        )
