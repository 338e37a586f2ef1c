# SPDX-License-Identifier: MIT
"""Answers that depend on the bound driver, the firmware and the kind of memory: the mock refuses the same requests as the kernel."""

from __future__ import annotations

import errno
import io
from collections.abc import Iterator
from typing import Any

import pytest

import pyvfio
from pyvfio import Device, host, mock
from pyvfio.migration import State
from pyvfio.mock.machine.profile import PROFILES, Reserved

VF = "0000:41:10.1"
EDU = "0000:00:03.0"
LOG = {"DMA_LOGGING_START", "DMA_LOGGING_STOP", "DMA_LOGGING_REPORT"}
MIGRATION = {"MIGRATION", "MIG_DEVICE_STATE", "MIG_DATA_SIZE"}


def refused(number: int) -> pytest.RaisesExc[OSError]:
    return pytest.raises(OSError, check=lambda error: error.errno == number)


# Features depend on the bound driver.


@pytest.mark.parametrize(
    ("profile", "driver", "there", "absent"),
    [
        ("mlx5", None, LOG | MIGRATION | {"MIG_PRECOPY_INFOv2", "LOW_POWER_ENTRY"}, {"DMA_BUF"}),
        ("pds", None, LOG | MIGRATION, {"DMA_BUF", "MIG_PRECOPY_INFOv2"}),
        ("mlx5", "vfio-pci", {"LOW_POWER_ENTRY", "DMA_BUF"}, LOG | MIGRATION | {"MIG_PRECOPY_INFOv2"}),
        ("pds", "vfio-pci", {"DMA_BUF"}, LOG | MIGRATION),
    ],
)
def test_a_device_has_the_features_of_its_driver(
    profile: str, driver: str | None, there: set[str], absent: set[str]
) -> None:
    """In Linux 7.3, vfio-pci supports neither DMA logging nor migration, and variant drivers export no dma-bufs."""
    kernel = mock.Kernel(profile)
    if driver is not None:
        host.bind(VF, driver, kernel=kernel)
    with pyvfio.open(VF, kernel=kernel) as device:
        features = set(device.features.available)
        assert there <= features
        assert not absent & features


def test_vfio_pci_refuses_to_log() -> None:
    kernel = mock.Kernel("mlx5")
    with host.bind(VF, "vfio-pci", kernel=kernel), pyvfio.open(VF, kernel=kernel) as device:
        with pytest.raises(pyvfio.Unsupported):
            device.dirty_log([pyvfio.IovaRange(0, (1 << 30) - 1)])
        with pytest.raises(pyvfio.Unsupported):
            _ = device.migration


@pytest.fixture
def functions() -> Iterator[tuple[Device, Device]]:
    """The virtual functions of two hosts with a ConnectX."""
    with pyvfio.open(VF, kernel=mock.Kernel("mlx5")) as source, pyvfio.open(VF, kernel=mock.Kernel("mlx5")) as target:
        yield source, target


def test_a_function_migrates_to_another_host(functions: tuple[Device, Device]) -> None:
    source, target = functions
    source.regions[0].write32(0x8000, 0x12345678)
    stream = io.BytesIO()
    for left in source.migration.pre_copy(stream):
        source.regions[0].write32(0x8004, 7)
        if not left.pending:
            break
    source.migration.save(stream)
    stream.seek(0)
    target.migration.load(stream)
    target.migration.state = State.RUNNING
    assert target.regions[0].read32(0x8000) == 0x12345678
    assert target.regions[0].read32(0x8004) == 7


@pytest.mark.parametrize("damage", ["cut", "changed", "foreign"])
def test_a_damaged_stream_is_refused(functions: tuple[Device, Device], damage: str) -> None:
    source, target = functions
    source.regions[0].write32(0x8000, 1)
    stream = io.BytesIO()
    source.migration.save(stream)
    data = bytearray(stream.getvalue())
    if damage == "cut":
        del data[-1]
    else:
        data[-1 if damage == "changed" else 4] ^= 1
    with refused(errno.EINVAL):
        target.migration.load(io.BytesIO(bytes(data)))
    target.reset()
    assert target.migration.state == State.RUNNING


def test_pds_has_no_pre_copy() -> None:
    with pyvfio.open(VF, kernel=mock.Kernel("pds")) as device:
        assert device.migration.has_p2p
        assert not device.migration.has_pre_copy
        with pytest.raises(OSError):
            device.migration.state = State.PRE_COPY


# BARs mapped by their virtual address.


class Card(mock.Device):
    function = mock.Function((1, 2), bars={2: mock.Bar(1 << 16, wide=True, memory=True)})


@pytest.mark.parametrize("mode", ["iommufd", "iommufd-type1v2", "iommufd-type1"])
def test_iommufd_pins_no_bar(mode: Any) -> None:
    """C05: EFAULT, as on every real kernel. A BAR can be mapped through its dma-buf."""
    kernel = mock.Kernel("intel-48")
    Card(kernel, "0000:00:0a.0", driver="vfio-pci")
    with pyvfio.open("0000:00:0a.0", mode=mode, kernel=kernel) as device:
        mapped = device.regions[2].mmap()
        with refused(errno.EFAULT):
            device.address_space.map(mapped, 0x100000)
        mapped.close()
        device.address_space.alloc(1 << 16, 0x100000)


def test_type1_maps_a_bar_while_it_decodes_memory() -> None:
    """As Linux 7.3 with edu: type1 maps the BAR by its address, and returns EFAULT while memory decoding is off."""
    kernel = mock.Kernel("intel-48", memlock=4096)
    Card(kernel, "0000:00:0a.0", driver="vfio-pci")
    with pyvfio.open("0000:00:0a.0", mode="type1v2", kernel=kernel) as device:
        mapped = device.regions[2].mmap()
        device.address_space.map(mapped, 0x100000).unmap()
        device.config.memory_enabled = False
        with refused(errno.EFAULT):
            device.address_space.map(mapped, 0x100000)


# Direct regions: memory that the firmware requires to be mapped one to one.


DIRECT = (Reserved(0x7E800000, 0x7FFFFFFF, "direct"), Reserved(0xFEE00000, 0xFEEFFFFF, "msi"))


@pytest.mark.parametrize(
    ("mode", "request_"),
    [
        ("type1v2", "VFIO_GROUP_SET_CONTAINER"),
        ("iommufd", "VFIO_DEVICE_BIND_IOMMUFD"),
        ("iommufd-type1v2", "VFIO_GROUP_GET_DEVICE_FD"),
    ],
)
def test_a_group_with_a_direct_region_cannot_be_owned(mode: Any, request_: str) -> None:
    """C01: EINVAL since Linux 6.6, by group and by cdev.

    Linux 7.3.4 refused the same requests for an edu with an RMRR structure in the DMAR table.
    """
    kernel = mock.Kernel("intel-48", reserved=DIRECT)
    with host.bind(EDU, "vfio-pci", kernel=kernel), refused(errno.EINVAL) as caught:
        pyvfio.open(EDU, mode=mode, kernel=kernel)
    assert request_ in str(caught.value)


def test_a_group_with_a_relaxable_direct_region_can_be_owned() -> None:
    regions = (Reserved(0x7E800000, 0x7FFFFFFF, "direct-relaxable"),)
    kernel = mock.Kernel("intel-48", reserved=regions)
    with host.bind(EDU, "vfio-pci", kernel=kernel), pyvfio.open(EDU, kernel=kernel) as device:
        ranges = device.address_space.iova_ranges
        assert ranges is not None
        assert pyvfio.IovaRange(0x7E800000, 0x7FFFFFFF) in ranges


# Virtual functions.


def test_without_room_there_are_no_virtual_functions() -> None:
    """C12: ENOMEM if the firmware has reserved no room for their BARs."""
    kernel = mock.Kernel("intel-48")
    function = mock.Function((0x8086, 0x10C9), 0x020000, express=True, virtual=8, virtual_device=3, virtual_room=2)
    mock.Device(kernel, "0000:00:0a.0", function=function, driver="igb")
    with refused(errno.ENOMEM):
        host.create_vfs("0000:00:0a.0", 3, kernel=kernel)
    assert len(host.create_vfs("0000:00:0a.0", 2, kernel=kernel)) == 2


def test_virtual_functions_behind_the_end_of_the_bus_are_refused() -> None:
    """C12: ENOMEM if the bridge above has no further bus number."""
    kernel = mock.Kernel("mlx5")
    kernel.devices["0000:41:00.0"].virtual.remove()  # type: ignore[attr-defined]
    with refused(errno.ENOMEM):
        host.create_vfs("0000:41:00.0", 100, kernel=kernel)
    assert len(host.create_vfs("0000:41:00.0", 64, kernel=kernel)) == 64


# Reset methods.


def resets(device: Device, register: int = 0) -> bool:
    device.regions[0].write32(register, 5)
    assert device.regions[0].read32(register) == 5
    device.reset()
    return device.regions[0].read32(register) == 0


@pytest.mark.parametrize(
    ("written", "shown"),
    [("pm", "pm"), ("flr", "flr"), ("pm flr", "pm flr"), ("default", "flr pm"), ("\n", ""), ("bus", None), ("x", None)],
)
def test_the_reset_method_can_be_chosen(written: str, shown: str | None) -> None:
    """As Linux 7.3 with QEMU's igb: a method that the function does not have is EINVAL and changes nothing."""
    kernel = mock.Kernel("intel-48")
    function = mock.Function(
        (1, 2), express=True, power_management=True, flr=True, resets=True, bars=Card.function.bars
    )
    mock.Device(kernel, "0000:00:0a.0", function=function)
    path = "/sys/bus/pci/devices/0000:00:0a.0/reset_method"
    assert kernel.read_file(path) == b"flr pm\n"
    if shown is None:
        with refused(errno.EINVAL):
            kernel.write_file(path, written.encode())
    else:
        kernel.write_file(path, written.encode())
    assert kernel.read_file(path).decode().strip() == ("flr pm" if shown is None else shown)


def test_without_a_reset_method_vfio_has_none() -> None:
    kernel = mock.Kernel("intel-48")
    nvme = "0000:00:04.0"
    with host.bind(nvme, "vfio-pci", kernel=kernel):
        kernel.write_file(f"/sys/bus/pci/devices/{nvme}/reset_method", b"\n")
        with pyvfio.open(nvme, kernel=kernel) as device:
            assert not device.info.resettable
            with pytest.raises(pyvfio.Unsupported):
                device.reset()
        kernel.write_file(f"/sys/bus/pci/devices/{nvme}/reset_method", b"default\n")
        with pyvfio.open(nvme, kernel=kernel) as device:
            assert resets(device, 0x24)  # a reset clears AQA, the sizes of the admin queues


def test_a_device_without_a_reset_shows_no_reset_method() -> None:
    kernel = mock.Kernel("intel-48")
    assert not kernel.exists(f"/sys/bus/pci/devices/{EDU}/reset_method")
    assert kernel.read_file("/sys/bus/pci/devices/0000:01:00.0/reset_method") == b"bus\n"


# Profiles name the machine that they were compared with.


def test_profiles_that_were_never_compared_say_so() -> None:
    for name, profile in PROFILES.items():
        assert profile.compared == (name not in ("mlx5", "pds"))
        assert ("never compared with hardware" in repr(mock.Kernel(name))) == (not profile.compared)
