# SPDX-License-Identifier: MIT
"""Regions: sizes, access rules, sparse areas, and accesses beyond the end."""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from pyvfio import Device
from pyvfio.kernel import Kernel
from pyvfio.region import Region, region_info

_U40 = 1 << 40


def each(device: Device) -> list[Region]:
    """Return the regions that the device has."""
    return [region for region in device.regions if region.size]


def test_an_index_beyond_the_last_is_refused(device: Device, refused: Callable[..., Any]) -> None:
    """VFIO_DEVICE_GET_REGION_INFO answers EINVAL."""
    with refused(errno.EINVAL):
        region_info(device.file, device.info.num_regions)


def test_regions_do_not_overlap_in_the_file(device: Device) -> None:
    """Each region has its own part of the device's file."""
    spans = sorted((region.info.offset, region.info.offset + region.size, region.name) for region in each(device))
    for (_, end, name), (start, _, following) in pairwise(spans):
        assert end <= start, f"{name} and {following} overlap"


def test_every_region_can_be_used_in_some_way(device: Device) -> None:
    """A region that is not empty can be read, written or mapped."""
    for region in each(device):
        assert region.readable or region.writable or region.mmappable, region.name


def test_mappable_areas_lie_within_their_region(device: Device) -> None:
    """Mappable areas are whole pages, lie in their region, and do not overlap."""
    for region in each(device):
        end = 0
        for area in sorted(region.info.areas):
            assert area.offset % mmap.PAGESIZE == 0, region.name
            assert area.size > 0, region.name
            assert end <= area.offset, f"{region.name}: areas overlap"
            end = area.offset + area.size
            assert end <= -(-region.size // mmap.PAGESIZE) * mmap.PAGESIZE, region.name


def test_mappable_areas_can_be_mapped(device: Device) -> None:
    """Each area is mapped as it is reported; nothing is read."""
    for region in each(device):
        for area in region.info.areas:
            region.mmap(area.offset, area.size).close()


def test_a_mapping_beyond_a_region_is_refused(device: Device, kernel: Kernel) -> None:
    """mmap(2) past the end fails."""
    for region in each(device):
        if not region.mmappable or region.size % mmap.PAGESIZE:
            continue
        with pytest.raises(OSError):  # noqa: PT011 (EINVAL, ENODEV: drivers differ)
            kernel.mmap(device.fileno(), mmap.PAGESIZE, offset=region.info.offset + region.size, prot=mmap.PROT_READ)


def test_what_is_not_mappable_is_refused(device: Device, kernel: Kernel) -> None:
    """mmap(2) of a region without VFIO_REGION_INFO_FLAG_MMAP fails."""
    for region in each(device):
        if region.info.areas:
            continue
        with pytest.raises(OSError):  # noqa: PT011 (as above)
            kernel.mmap(device.fileno(), mmap.PAGESIZE, offset=region.info.offset, prot=mmap.PROT_READ)


def test_a_read_beyond_every_region_is_refused(device: Device, kernel: Kernel, refused: Callable[..., Any]) -> None:
    """A read at an offset that belongs to no region fails with EINVAL."""
    beyond = max(region.info.offset for region in device.regions) + 64 * _U40
    with refused(errno.EINVAL):
        kernel.pread(device.fileno(), 4, beyond)


@pytest.mark.vfio_require("pci")
def test_configuration_space_is_readable_and_not_mappable(device: Device) -> None:
    """Configuration space is virtualised, so every access goes through the kernel."""
    region = device.regions["CONFIG"]
    assert region.readable
    assert region.writable
    assert not region.mmappable
    assert region.size in (256, 4096)


@pytest.mark.vfio_require("pci")
def test_a_read_across_the_end_of_configuration_space_ends_there(device: Device, kernel: Kernel) -> None:
    """The read is short, or refused; no bytes from beyond the end are returned."""
    region = device.regions["CONFIG"]
    try:
        data = kernel.pread(device.fileno(), 16, region.info.offset + region.size - 4)
    except OSError as error:
        assert error.errno in (errno.EINVAL, errno.EFAULT), os.strerror(error.errno or 0)  # noqa: PT017 (drivers may also answer)
    else:
        assert len(data) <= 4
