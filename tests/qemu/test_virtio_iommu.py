# SPDX-License-Identifier: MIT
"""A virtio-iommu reports the host IOMMU's reserved regions to its guest, as pyvfio.guest computes them from the kernel's usable ranges."""

from __future__ import annotations

from collections.abc import Callable

from vmtest.virtio_iommu import VirtioIommu

import pyvfio
from pyvfio.guest.qemu import virtio_iommu
from pyvfio.guest.reserved import Q35_PROPERTY, device_regions, host_reserved
from tests.qemu.client import Client
from tests.qemu.conftest import FIRST, assigned


def test_a_probe_conveys_the_hosts_reserved_regions(start: Callable[..., Client]) -> None:
    with pyvfio.address_space("type1v2") as space, space.attach(FIRST):
        usable = space.iova_ranges
    regions = device_regions(host_reserved(usable), [Q35_PROPERTY])
    # The interrupt window, and the addresses beyond the host IOMMU's width.
    assert len(regions) >= 2
    foretold = virtio_iommu.probe(regions)
    with start("-device", "virtio-iommu-pci,addr=3.0", *assigned(FIRST), "-device", "pci-testdev,addr=5.0") as client:
        driver = VirtioIommu(client.qtest, slot=3)
        assert driver.probe(4 << 3) == (foretold.status, foretold.data.ljust(driver.config.probe_size, b"\0"))
        emulated = virtio_iommu.probe([Q35_PROPERTY]).data
        assert driver.probe(5 << 3) == (0, emulated.ljust(driver.config.probe_size, b"\0"))
