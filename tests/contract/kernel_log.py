# SPDX-License-Identifier: MIT
"""Read the kernel's log, and find messages about DMA that an IOMMU blocked."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable

#: A fault of Intel's IOMMU. With QEMU 7.2's amd-iommu and virtio-iommu, no line about faults was seen.
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
    """Whether the kernel logs a fault for the DMA.

    The kernel limits the rate of such messages, so the DMA is repeated for up to 20 s.
    """
    before = len(kernel_log())
    limit = time.monotonic() + 20
    while time.monotonic() < limit:
        dma()
        if FAULT.search(kernel_log()[before:]):
            return True
        time.sleep(1)
    return False
