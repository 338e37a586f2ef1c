# SPDX-License-Identifier: MIT
"""Find the pages that a device wrote: edu copies a page by DMA, and vfio-mock reports its writes in a dirty log.

On the mock (the kernel inside the process): `PYVFIO_KERNEL=mock:amd .venv/bin/python scripts/examples/dirty_pages.py`.
On a real kernel, as root, on a machine that has both devices:
`scripts/vm --iommu amd -- .venv/bin/python scripts/examples/dirty_pages.py`.
"""

from __future__ import annotations

import os
import subprocess
import time

from edu import Edu  # type: ignore[import-not-found]  # beside this file

import pyvfio
from pyvfio.vfio_mock import VfioMock


def edu_copies(address: str) -> None:
    """Copy one page to another by the DMA of a PCI device behind the IOMMU."""
    with pyvfio.host.bind(address, "vfio-pci"), pyvfio.open(address) as device:
        space = device.address_space
        print(f"{device} usable IOVAs:")
        for range_ in space.iova_ranges or []:
            print(f"    {range_}")
        mapping = space.alloc(2 << 20, 0x100000)
        source, target = mapping.buffer.view[:4096], mapping.buffer.view[0x5000:0x6000]
        source[:] = os.urandom(4096)
        with Edu(device) as edu:
            edu.copy(mapping.iova + 0x5000, mapping.iova, 4096)
        print(
            f"edu copied {mapping.iova:#x} to {mapping.iova + 0x5000:#x} by DMA: {'equal' if source == target else 'DIFFERENT'}"
        )
        try:
            space.map(pyvfio.DmaBuffer(4 << 20), 0xFC_FFE0_0000)
        except OSError as error:
            print(f"mapping 4 MiB at 0xfcffe00000: {error}")
            for note in getattr(error, "__notes__", ()):
                print(f"    {note}")


def mock_logs(address: str) -> None:
    """Let a device that logs its DMA write a few pages, and read the log."""
    with pyvfio.open(address) as device:
        mapping = device.address_space.alloc(2 << 20)
        mock = VfioMock(device)
        with device.dirty_log([mapping.range]) as log:
            print(f"{log}, pages of {log.page_size} bytes")
            mock.fill(mapping.iova + 0x5000, 4096, 0x1122334455667788)
            mock.fill(mapping.iova + 0x50000, 3 * 4096, 0x1122334455667788)
            report = log.read()
            print(f"dirty: {report.count()} pages")
            for run in report.runs():
                print(f"    {run}")
            print(f"read again: {log.read().count()} pages")


def main() -> None:
    started = time.monotonic()
    edu = next(d for d in pyvfio.host.devices() if (d.vendor, d.device) == (0x1234, 0x11E8))
    edu_copies(edu.address)
    if module := os.environ.get("PYVFIO_MOCK_MODULE"):
        subprocess.run(["insmod", module], check=True)
    if any(device.address == "vfio-mock.0" for device in pyvfio.host.devices()):
        mock_logs("vfio-mock.0")
    print(f"{time.monotonic() - started:.1f} s")


if __name__ == "__main__":
    main()
