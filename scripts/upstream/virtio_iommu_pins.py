# SPDX-License-Identifier: MIT
"""An unmap under virtio's IOMMU that is out of memory leaves pages pinned for good.

VFIO_IOMMU_UNMAP_DMA makes the virtio-iommu driver allocate a request. When that allocation fails, type1 reports that
everything was unmapped, and forgets the mapping while its pages are still pinned. They stay pinned after the container
is closed and the process has unmapped its memory. The program makes each allocation of the unmap fail in turn, by
/proc/thread-self/fail-nth (CONFIG_FAILSLAB), as tests/contract/test_fail_nth.py does.

    scripts/vm --iommu virtio -- .venv/bin/python scripts/upstream/virtio_iommu_pins.py
"""

import errno
import fcntl
import os
import platform
import struct
from pathlib import Path

import pyvfio
from pyvfio import DmaBuffer, host
from pyvfio._abi import lib

SIZE = 2 << 20
PAGES = SIZE // 4096


def pinned() -> int:
    """Return the pages of the machine that are pinned by pin_user_pages()."""
    Path("/proc/sys/vm/stat_refresh").read_text()  # reading it makes the kernel add up the counters of all processors
    counters = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return int(counters["nr_foll_pin_acquired"]) - int(counters["nr_foll_pin_released"])


def unmap(container: int, iova: int, nth: int) -> tuple[str, bool]:
    """Unmap with the n-th allocation failing. Return the answer, and whether the unmap made that many allocations."""
    # struct vfio_iommu_type1_dma_unmap: argsz, flags, iova, size
    request = bytearray(struct.pack("=2I2Q", 24, 0, iova, SIZE))
    file = os.open("/proc/thread-self/fail-nth", os.O_RDWR | os.O_CLOEXEC)
    try:
        os.pwrite(file, b"%d" % nth, 0)
        try:
            fcntl.ioctl(container, lib.VFIO_IOMMU_UNMAP_DMA, request)
            answer = f"0, {struct.unpack('=2I2Q', request)[3] // 4096} of {PAGES} pages unmapped"
        except OSError as error:
            answer = errno.errorcode[error.errno or 0]
        left = int(os.pread(file, 16, 0))
        os.pwrite(file, b"0", 0)
    finally:
        os.close(file)
    return answer, left == 0


def attempt(address: str, nth: int) -> bool:
    """Map memory, unmap it with the n-th allocation failing, close everything, and print how many pages are still pinned."""
    before = pinned()
    with pyvfio.open(address, mode="type1v2") as device:
        memory = DmaBuffer(SIZE)
        mapping = device.address_space.map(memory, 0x100000000)
        answer, failed = unmap(device.address_space.fileno(), mapping.iova, nth)
    del mapping, memory
    which = f"allocation {nth} fails" if failed else "no allocation fails"
    print(
        f"Linux {platform.release()}: {which}: UNMAP_DMA: {answer}; closed: {pinned() - before} of {PAGES} pages pinned"
    )
    return failed


for name, value in (("ignore-gfp-wait", "N"), ("verbose", "0")):
    Path("/sys/kernel/debug/failslab", name).write_text(value)
edu = next(
    each.address
    for each in host.devices()
    if (each.vendor, each.device) == (0x1234, 0x11E8) and len(host.group_members(each.address)) == 1
)
with host.bind(edu, "vfio-pci"):
    number = 1
    while number < 20 and attempt(edu, number):
        number += 1
