# SPDX-License-Identifier: MIT
"""Features of devices, byte by byte, and devices without an IOMMU: nothing is left open by a refusal."""

from __future__ import annotations

import errno
import gc
import os
import struct
import uuid
from collections.abc import Iterator

import pytest

import pyvfio
from pyvfio import Device, InvalidRequest, NoIommuWarning, Unsupported, mock
from pyvfio._abi import ffi, lib
from pyvfio._core.vf_token import uuid_of
from pyvfio.region import Area
from pyvfio.spaces.base import AddressSpace
from pyvfio.spaces.opening import Mode
from tests.overriding import Overriding

pytestmark = pytest.mark.vfio(mode="type1v2")
EDU = "0000:00:03.0"
TOKEN = "01234567-89ab-cdef-0123-456789abcdef"
REQUEST = "VFIO_DEVICE_FEATURE"


@pytest.fixture
def asked(kernel: Overriding) -> list[tuple[str, bytes]]:
    """A list of the requested features, such as `SET 3`, with the data. Each request succeeds."""
    asked: list[tuple[str, bytes]] = []

    def answer(argument: int) -> int:
        feature = ffi.cast("struct vfio_device_feature *", argument)
        data = bytes(ffi.buffer(ffi.addressof(feature, "data"), feature.argsz - 8))
        way = "SET" if feature.flags & lib.VFIO_DEVICE_FEATURE_SET else "GET"
        asked.append((f"{way} {feature.flags & lib.VFIO_DEVICE_FEATURE_MASK}", data))
        return 0

    kernel.answers[REQUEST] = answer
    return asked


def test_low_power_entry_and_exit_have_no_data(device: Device, asked: list[tuple[str, bytes]]) -> None:
    with device.low_power():
        assert asked == [("SET 3", b"")]
    assert asked[1:] == [("SET 5", b"")]


def test_closed_device_leaves_low_power_first(
    kernel: Overriding, device: Device, asked: list[tuple[str, bytes]]
) -> None:
    asleep = device.low_power()
    device.close()
    assert asleep.closed
    assert [name for name, _ in asked] == ["SET 3", "SET 5"]
    asleep.close()
    assert len(asked) == 2


def test_low_power_with_wakeup_passes_an_eventfd(device: Device, asked: list[tuple[str, bytes]]) -> None:
    with device.low_power_with_wakeup() as asleep:
        assert asked == [("SET 4", struct.pack("=iI", asleep.wakeup.fileno(), 0))]
        os.eventfd_write(asleep.wakeup.fileno(), 2)
        assert asleep.wakeup.wait(0) == 2
        with pytest.raises(TimeoutError, match=r"vfio-mock\.0 wakeup: no event within 0 seconds"):
            asleep.wakeup.wait(0)
    assert asleep.wakeup.closed


def test_refused_features_leave_nothing_open(kernel: Overriding, device: Device) -> None:
    kernel.answers[REQUEST] = -errno.EINVAL
    gc.collect()  # close the descriptors of earlier tests' kernels
    before = set(os.listdir("/proc/self/fd"))
    for enter in (device.low_power, device.low_power_with_wakeup):
        with pytest.raises(OSError, match="in low power already"):
            enter()
    with pytest.raises(OSError, match="whole pages"):
        device.regions[0].dma_buf()
    kernel.answers[REQUEST] = -errno.ENOTTY
    for call in (device.low_power, device.low_power_with_wakeup, device.regions[0].dma_buf):
        with pytest.raises(Unsupported):
            call()
    assert set(os.listdir("/proc/self/fd")) <= before  # earlier threads may be closing some


@pytest.mark.vfio(device=EDU)
def test_dma_buf_is_asked_for_with_its_parts(
    kernel: Overriding, device: Device, asked: list[tuple[str, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def make(argument: int) -> int:
        assert callable(note)
        note(argument)
        made.append(kernel.eventfd())
        return made[0]

    note, kernel.answers[REQUEST] = kernel.answers[REQUEST], make
    exported = device.regions[0].dma_buf([Area(0x1000, 0x2000), Area(0, 0x1000)])
    flags = os.O_RDWR | os.O_CLOEXEC
    assert asked == [("GET 11", struct.pack("=IIII4Q", 0, flags, 0, 2, 0x1000, 0x2000, 0, 0x1000))]
    assert (exported.size, exported.fileno()) == (0x3000, made[0])
    closed: list[int] = []

    def close(fd: int) -> None:
        closed.append(fd)
        mock.Kernel.close(kernel, fd)

    monkeypatch.setattr(kernel, "close", close)
    device.close()
    assert exported.closed
    assert closed[:1] == made


@pytest.mark.parametrize("token", [TOKEN, uuid.UUID(TOKEN), uuid.UUID(TOKEN).bytes, TOKEN.upper()])
def test_token_has_the_byte_order_of_its_text(
    device: Device, asked: list[tuple[str, bytes]], token: uuid.UUID | str | bytes
) -> None:
    device.set_vf_token(token)
    assert asked == [("SET 0", bytes.fromhex(TOKEN.replace("-", "")))]


@pytest.mark.parametrize("token", ["", "0123", TOKEN + "0", b"\0" * 15, b"\0" * 17])
def test_malformed_token_fails(token: str | bytes) -> None:
    with pytest.raises(ValueError, match="vf_token"):
        uuid_of(token)


def test_token_goes_to_the_group_behind_the_name(kernel: Overriding) -> None:
    names: list[bytes] = []

    def note(argument: int) -> None:
        names.append(ffi.string(ffi.cast("char *", argument)))

    kernel.answers["VFIO_GROUP_GET_DEVICE_FD"] = note
    kernel.write_file("/sys/module/vfio_mock/parameters/token", TOKEN.encode())
    with pyvfio.open("vfio-mock.0", mode="type1v2", vf_token=uuid.UUID(TOKEN), kernel=kernel) as device:
        assert names == [f"vfio-mock.0 vf_token={TOKEN}".encode()]
        assert device.address == "vfio-mock.0"


def test_bus_master_is_a_feature_off_pci(device: Device, asked: list[tuple[str, bytes]]) -> None:
    device.set_bus_master(True)
    device.set_bus_master(False)
    assert asked == [("SET 10", struct.pack("=I", 1)), ("SET 10", struct.pack("=I", 0))]


class TestZpci:
    @pytest.fixture
    def device(self, kernel: Overriding, space: AddressSpace) -> Device:
        """A device of an s390 machine: its information has the zPCI capability with the size of an error (ccdf_err_length)."""

        def info(argument: int) -> int:
            info = ffi.cast("struct vfio_device_info *", argument)
            base = ffi.sizeof("struct vfio_device_info_cap_zpci_base")
            if info.argsz >= ffi.sizeof(info[0]) + base:
                info.cap_offset = ffi.sizeof(info[0])
                cap = ffi.cast("struct vfio_device_info_cap_zpci_base *", argument + info.cap_offset)
                cap.header.id, cap.header.version, cap.ccdf_err_length = lib.VFIO_DEVICE_INFO_CAP_ZPCI_BASE, 3, 24
            info.argsz = ffi.sizeof(info[0]) + base
            info.flags, info.num_regions, info.num_irqs = lib.VFIO_DEVICE_FLAGS_CAPS, 1, 1
            return 0

        kernel.answers["VFIO_DEVICE_GET_INFO"] = info
        return space.attach("vfio-mock.0")

    def test_zpci_error_has_the_size_of_the_capability(self, kernel: Overriding, device: Device) -> None:
        def error(argument: int) -> int:
            feature = ffi.cast("struct vfio_device_feature *", argument)
            assert feature.flags == lib.VFIO_DEVICE_FEATURE_ZPCI_ERROR | lib.VFIO_DEVICE_FEATURE_GET
            where = ffi.cast("struct vfio_device_feature_zpci_err *", ffi.addressof(feature, "data"))
            ffi.memmove(ffi.cast("char *", where.data), bytes(range(24)), 24)
            return 0

        kernel.answers[REQUEST] = error
        assert device.zpci_error() == bytes(range(24))

    def test_zpci_error_is_none_when_nothing_is_pending(self, kernel: Overriding, device: Device) -> None:
        kernel.answers[REQUEST] = -errno.ENOMSG
        assert device.zpci_error() is None
        kernel.answers[REQUEST] = -errno.EFAULT
        with pytest.raises(OSError, match="ZPCI_ERROR"):
            device.zpci_error()


def test_zpci_error_is_unsupported_on_other_machines(device: Device) -> None:
    with pytest.raises(Unsupported, match="s390"):
        device.zpci_error()


def test_available_features_are_listed_by_name(kernel: Overriding, device: Device) -> None:
    there = {0: 0, 3: 0, 6: errno.EINVAL, 11: errno.EOPNOTSUPP}

    def answer(argument: int) -> int:
        flags = ffi.cast("struct vfio_device_feature *", argument).flags
        assert flags & lib.VFIO_DEVICE_FEATURE_PROBE
        return -there.get(flags & lib.VFIO_DEVICE_FEATURE_MASK, errno.ENOTTY)

    kernel.answers[REQUEST] = answer
    assert device.features.available == ["PCI_VF_TOKEN", "LOW_POWER_ENTRY"]


# --- without an IOMMU ---------------------------------------------------------------------------------------------------


@pytest.mark.vfio(profile="none")
class TestNoIommu:
    @pytest.fixture(autouse=True)
    def bound(self, kernel: Overriding) -> Iterator[None]:
        """Bind a device without an IOMMU to vfio-pci, and assert at the end that nothing is open."""
        with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel):
            yield
            assert not kernel.files

    @pytest.mark.parametrize("mode", [None, "type1", "type1v2"])
    def test_open_needs_an_explicit_no_iommu(self, kernel: Overriding, mode: Mode | None) -> None:
        with pytest.raises(InvalidRequest, match=r"has no IOMMU, so its DMA reaches all memory.*no_iommu=True"):
            pyvfio.open(EDU, mode=mode, kernel=kernel)

    @pytest.mark.parametrize("no_iommu", [False, True])
    def test_open_by_mode_noiommu_warns(self, kernel: Overriding, no_iommu: bool) -> None:
        with pytest.warns(NoIommuWarning, match="reaches all memory") as caught:
            device = pyvfio.open(EDU, mode="noiommu", no_iommu=no_iommu, kernel=kernel)
        assert [warning.filename for warning in caught] == [__file__]
        with device:
            assert device.address_space.mode == "noiommu"
            assert "noiommu" in repr(device)
            with pytest.raises(OSError, match="DMA uses physical addresses") as refused:
                device.address_space.map(bytearray(1), 0)
            assert refused.value.errno == errno.ENOTTY
            with pytest.raises(Unsupported, match="nothing can be mapped"):
                device.address_space.alloc(4096)

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("mode", [None, "noiommu"])
    def test_warning_comes_before_the_device_is_opened(self, kernel: Overriding, mode: Mode | None) -> None:
        with pytest.raises(NoIommuWarning):
            pyvfio.open(EDU, mode=mode, no_iommu=True, kernel=kernel)
        assert not {"VFIO_GROUP_SET_CONTAINER", "VFIO_DEVICE_BIND_IOMMUFD"} & set(kernel.calls)

    def test_modes_with_an_iommu_are_refused(self, kernel: Overriding) -> None:
        with pytest.raises(Unsupported, match=f"{EDU} has no IOMMU: mode type1v2 does not take it, .*noiommu does"):
            pyvfio.open(EDU, mode="type1v2", no_iommu=True, kernel=kernel)
        with pytest.raises(Unsupported, match=r"vfio-mock\.0 has an IOMMU, or needs none: .* type1v2 does"):
            pyvfio.open("vfio-mock.0", mode="noiommu", kernel=kernel)
