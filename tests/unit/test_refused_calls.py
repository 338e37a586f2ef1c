# SPDX-License-Identifier: MIT
"""Refused calls raise an exception, whatever they would have done otherwise."""

from __future__ import annotations

import errno

import pytest

import pyvfio
from pyvfio import Container, Device, DmaBuffer, host
from pyvfio.guest import planning
from pyvfio.guest.sections import MemorySection
from pyvfio.guest.x86 import cmos_above_4g
from pyvfio.host.disks import mounts
from pyvfio.spaces.base import AddressSpace
from tests.overriding import Overriding

PAGE = 4096
EDU, NVME = "0000:00:03.0", "0000:00:04.0"
GIB = 1 << 30


@pytest.mark.parametrize("mode", ["", "iommufd", "type2", "TYPE1"])
def test_a_container_has_a_mode_of_its_own(kernel: Overriding, mode: str) -> None:
    with pytest.raises(ValueError, match=r"mode must be one of type1"):
        Container(mode, kernel=kernel)
    assert not kernel.files


@pytest.mark.vfio(mode="type1v2")
def test_an_unmap_with_its_dirty_pages_needs_tracking(device: Device) -> None:
    space = device.address_space
    assert isinstance(space, Container)
    space.map(DmaBuffer(PAGE), 0x100000)
    with pytest.raises(OSError, match="VFIO_IOMMU_UNMAP_DMA"):
        space.unmap_dirty(0x100000, PAGE)
    assert space.mapped_ranges.total == PAGE


@pytest.mark.vfio(mode="type1v2")
@pytest.mark.parametrize("error", [errno.EPERM, errno.EIO, errno.ENOSPC])
def test_a_hot_reset_that_cannot_be_asked_about_raises(kernel: Overriding, space: AddressSpace, error: int) -> None:
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel):
        device = space.attach(EDU)
        kernel.answers["VFIO_DEVICE_GET_PCI_HOT_RESET_INFO"] = -error
        with pytest.raises(OSError, match="HOT_RESET_INFO") as caught:
            assert device.hot_reset_info is None
        assert caught.value.errno == error
        device.close()


@pytest.mark.parametrize("name", ["exact:", "exact:3", "split_32_64:0", "none", "coalesced", "coalesced:", ""])
def test_a_strategy_takes_the_argument_that_it_has(name: str) -> None:
    with pytest.raises(ValueError, match="strategy"):
        planning.plan([MemorySection(0, PAGE)], name)


@pytest.mark.parametrize(
    ("size", "registers"),
    [
        (0, (0, 0, 0)),
        (0xFFFF, (0, 0, 0)),
        (0x10000, (1, 0, 0)),
        (GIB, (0, 0x40, 0)),
        (5 * GIB + 0x120000, (0x12, 0x40, 1)),
        (1 << 40, (0, 0, 0)),
    ],
)
def test_memory_above_4_gib_is_in_three_registers(size: int, registers: tuple[int, int, int]) -> None:
    assert tuple(cmos_above_4g(size)) == registers


class Mountinfo:
    """A kernel with only one file."""

    def __init__(self, text: str) -> None:
        self.text = text

    def read_file(self, path: str) -> bytes:
        return self.text.encode()


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("36 35 98:0 / /mnt rw,noatime - ext4 /dev/sda rw", [("98:0", "/mnt", "ext4", "/dev/sda")]),
        ("36 35 98:0 / /a\\040b rw master:1 - xfs /dev/x\\134y rw", [("98:0", "/a b", "xfs", "/dev/x\\y")]),
        ("36 35 98:0 / /mnt", []),
        ("36 35 98:0 / - ext4 /dev/sda rw", []),
        ("36 35 98:0 / /mnt rw - ext4", []),
        ("", []),
    ],
)
def test_mounts_are_lines_with_all_their_fields(line: str, found: list[tuple[str, ...]]) -> None:
    assert mounts(Mountinfo(line)) == found  # type: ignore[arg-type]


@pytest.mark.parametrize("available", [1, 2])
def test_fewer_available_vectors_are_an_error(available: int) -> None:
    """vfio_msi_enable() returns the number of vectors that are available, and enables none."""
    kernel = Overriding("intel-48")
    with (
        host.bind(NVME, "vfio-pci", kernel=kernel),
        pyvfio.open(NVME, mode="type1v2", kernel=kernel) as device,
    ):
        kernel.answers["VFIO_DEVICE_SET_IRQS"] = available
        with pytest.raises(OSError, match=f"it has {available} for this device") as caught:
            device.irqs.msix.enable([0, 1, 2])
        assert caught.value.errno == errno.ENOSPC
        del kernel.answers["VFIO_DEVICE_SET_IRQS"]
        assert len(device.irqs.msix.enable([0, 1, 2])) == 3
