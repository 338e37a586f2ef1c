# SPDX-License-Identifier: MIT
"""The kernel's log, and what it says of DMA that an IOMMU stopped."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable

#: Of Intel's IOMMU. Of QEMU 7.2's amd-iommu and virtio-iommu no line was seen.
FAULT = re.compile(r"DMAR: .*\[DMA (Read|Write).*\]")


def kernel_log() -> str:
    """Return the kernel's log."""
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    parts = []
    try:
        while True:
            try:
                parts.append(os.read(fd, 8192))
            except BlockingIOError:
                return b"".join(parts).decode(errors="replace")
            except BrokenPipeError:
                continue  # the oldest lines were overwritten meanwhile
    finally:
        os.close(fd)


def logs_a_fault(dma: Callable[[], object]) -> bool:
    """Whether the kernel logs a fault when the DMA is done. It limits how many it logs, so this tries for a while."""
    before = len(kernel_log())
    limit = time.monotonic() + 20
    while time.monotonic() < limit:
        dma()
        if FAULT.search(kernel_log()[before:]):
            return True
        time.sleep(1)
    return False
