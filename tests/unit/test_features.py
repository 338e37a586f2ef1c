"""Features of devices, and devices without an IOMMU, with a fake behind the door: what goes over the border, byte for byte."""

from __future__ import annotations

import errno
import os
import struct
import uuid
import warnings
from collections.abc import Callable, Iterator

import pytest

import pyvfio
from pyvfio import Container, Device, InvalidRequest, NoIommuWarning, Unsupported
from pyvfio._abi import ffi, lib
from pyvfio._core.vf_token import uuid_of
from pyvfio.region import Area
from tests.unit.fake import FIRST_FD, GROUPS, FakeKernel

TOKEN = "01234567-89ab-cdef-0123-456789abcdef"
REQUEST = "VFIO_DEVICE_FEATURE"


class Kernel(FakeKernel):
    """The fake, with eventfds that are the process's own."""

    def eventfd(self, initial: int = 0, flags: int = 0) -> int:
        number = super().eventfd(initial, flags)
        self.fds[number] = ("eventfd", "eventfd")
        return number

    def close(self, fd: int) -> None:
        super().close(fd)
        if fd < FIRST_FD:
            os.close(fd)


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def device(kernel: Kernel) -> Iterator[Device]:
    with Container(kernel=kernel) as space:
        yield space.attach("fake.0")


@pytest.fixture
def asked(kernel: Kernel) -> list[tuple[str, bytes]]:
    """What came over as VFIO_DEVICE_FEATURE: `SET 3` and the data; each is answered with 0."""
    asked: list[tuple[str, bytes]] = []

    def answer(_fd: int, argument: int) -> int:
        feature = ffi.cast("struct vfio_device_feature *", argument)
        data = bytes(ffi.buffer(ffi.addressof(feature, "data"), feature.argsz - 8))
        way = "SET" if feature.flags & lib.VFIO_DEVICE_FEATURE_SET else "GET"
        asked.append((f"{way} {feature.flags & lib.VFIO_DEVICE_FEATURE_MASK}", data))
        return 0

    kernel.answers["device", REQUEST] = answer
    return asked


def answering(error: int) -> Callable[[int, int], int]:
    return lambda _fd, _argument: -error


def test_low_power_is_entered_and_left_without_data(device: Device, asked: list[tuple[str, bytes]]) -> None:
    with device.low_power():
        assert asked == [("SET 3", b"")]
    assert asked[1:] == [("SET 5", b"")]


def test_a_closed_device_leaves_low_power_first(kernel: Kernel, device: Device, asked: list[tuple[str, bytes]]) -> None:
    asleep = device.low_power()
    device.close()
    assert asleep.closed
    assert [name for name, _ in asked] == ["SET 3", "SET 5"]
    asleep.close()
    assert len(asked) == 2


def test_wake_up_goes_with_an_eventfd(device: Device, asked: list[tuple[str, bytes]]) -> None:
    with device.low_power_with_wakeup() as asleep:
        assert asked == [("SET 4", struct.pack("=iI", asleep.wakeup.fileno(), 0))]
        os.eventfd_write(asleep.wakeup.fileno(), 2)
        assert asleep.wakeup.wait(0) == 2
        with pytest.raises(TimeoutError, match=r"fake\.0 wakeup: no event within 0 seconds"):
            asleep.wakeup.wait(0)
    assert asleep.wakeup.closed


def test_what_is_refused_leaves_nothing_open(kernel: Kernel, device: Device) -> None:
    kernel.answers["device", REQUEST] = answering(errno.EINVAL)
    before = dict(kernel.fds)
    for enter in (device.low_power, device.low_power_with_wakeup):
        with pytest.raises(OSError, match="in low power already"):
            enter()
    with pytest.raises(OSError, match="whole pages"):
        device.regions[0].dma_buf()
    kernel.answers["device", REQUEST] = answering(errno.ENOTTY)
    for call in (device.low_power, device.low_power_with_wakeup, device.regions[0].dma_buf):
        with pytest.raises(Unsupported):
            call()
    assert kernel.fds == before
    device.close()


def test_a_dma_buf_names_its_parts(kernel: Kernel, device: Device, asked: list[tuple[str, bytes]]) -> None:
    made = kernel._new("dma-buf", "dma-buf")
    answer = kernel.answers["device", REQUEST]
    kernel.answers["device", REQUEST] = lambda fd, argument: answer(fd, argument) or made
    exported = device.regions[0].dma_buf([Area(0x1000, 0x2000), Area(0, 0x1000)])
    flags = os.O_RDWR | os.O_CLOEXEC
    assert asked == [("GET 11", struct.pack("=IIII4Q", 0, flags, 0, 2, 0x1000, 0x2000, 0, 0x1000))]
    assert (exported.size, exported.fileno()) == (0x3000, made)
    device.close()
    assert exported.closed
    assert kernel.closed[:1] == ["dma-buf"]


@pytest.mark.parametrize("token", [TOKEN, uuid.UUID(TOKEN), uuid.UUID(TOKEN).bytes, TOKEN.upper()])
def test_a_token_goes_over_in_the_order_of_its_text(
    device: Device, asked: list[tuple[str, bytes]], token: uuid.UUID | str | bytes
) -> None:
    device.set_vf_token(token)
    assert asked == [("SET 0", bytes.fromhex(TOKEN.replace("-", "")))]


@pytest.mark.parametrize("token", ["", "0123", TOKEN + "0", b"\0" * 15, b"\0" * 17])
def test_what_is_no_token_is_refused(token: str | bytes) -> None:
    with pytest.raises(ValueError, match="vf_token"):
        uuid_of(token)


def test_a_group_is_given_the_token_behind_the_name(kernel: Kernel) -> None:
    with pyvfio.open("fake.0", mode="type1v2", vf_token=uuid.UUID(TOKEN), kernel=kernel) as device:
        assert kernel.fds[device.fileno()][1] == f"fake.0 vf_token={TOKEN}"
        assert device.address == "fake.0"


def test_bus_master_is_a_feature_where_there_is_no_pci(device: Device, asked: list[tuple[str, bytes]]) -> None:
    device.set_bus_master(True)
    device.set_bus_master(False)
    assert asked == [("SET 10", struct.pack("=I", 1)), ("SET 10", struct.pack("=I", 0))]


class TestZpci:
    @pytest.fixture
    def device(self, kernel: Kernel) -> Iterator[Device]:
        """A device of an s390 machine: its information has the capability that tells the size of an error."""

        def info(_fd: int, argument: int) -> int:
            info = ffi.cast("struct vfio_device_info *", argument)
            base = ffi.sizeof("struct vfio_device_info_cap_zpci_base")
            if info.argsz >= ffi.sizeof(info[0]) + base:
                info.cap_offset = ffi.sizeof(info[0])
                cap = ffi.cast("struct vfio_device_info_cap_zpci_base *", argument + info.cap_offset)
                cap.header.id, cap.header.version, cap.ccdf_err_length = lib.VFIO_DEVICE_INFO_CAP_ZPCI_BASE, 3, 24
            info.argsz = ffi.sizeof(info[0]) + base
            info.flags, info.num_regions, info.num_irqs = lib.VFIO_DEVICE_FLAGS_CAPS, 1, 1
            return 0

        kernel.answers["device", "VFIO_DEVICE_GET_INFO"] = info
        with Container(kernel=kernel) as space:
            yield space.attach("fake.0")

    def test_an_error_is_read_in_its_own_size(self, kernel: Kernel, device: Device) -> None:
        def error(_fd: int, argument: int) -> int:
            feature = ffi.cast("struct vfio_device_feature *", argument)
            assert feature.flags == lib.VFIO_DEVICE_FEATURE_ZPCI_ERROR | lib.VFIO_DEVICE_FEATURE_GET
            where = ffi.cast("struct vfio_device_feature_zpci_err *", ffi.addressof(feature, "data"))
            ffi.memmove(ffi.cast("char *", where.data), bytes(range(24)), 24)
            return 0

        kernel.answers["device", REQUEST] = error
        assert device.zpci_error() == bytes(range(24))

    def test_none_may_be_pending(self, kernel: Kernel, device: Device) -> None:
        kernel.answers["device", REQUEST] = answering(errno.ENOMSG)
        assert device.zpci_error() is None
        kernel.answers["device", REQUEST] = answering(errno.EFAULT)
        with pytest.raises(OSError, match="ZPCI_ERROR"):
            device.zpci_error()


def test_other_machines_say_that_they_have_no_such_errors(device: Device) -> None:
    with pytest.raises(Unsupported, match="s390"):
        device.zpci_error()


def test_the_features_that_there_are_are_listed_by_name(kernel: Kernel, device: Device) -> None:
    there = {0: 0, 3: 0, 6: errno.EINVAL, 11: errno.EOPNOTSUPP}

    def answer(_fd: int, argument: int) -> int:
        flags = ffi.cast("struct vfio_device_feature *", argument).flags
        assert flags & lib.VFIO_DEVICE_FEATURE_PROBE
        return -there.get(flags & lib.VFIO_DEVICE_FEATURE_MASK, errno.ENOTTY)

    kernel.answers["device", REQUEST] = answer
    assert device.features.available == ["PCI_VF_TOKEN", "LOW_POWER_ENTRY"]


# --- without an IOMMU ---------------------------------------------------------------------------------------------------


class NoIommuKernel(Kernel):
    """fake.0 is in no-IOMMU mode, fake.1 is not."""

    def exists(self, path: str) -> bool:
        if path.startswith("/sys/class/vfio/"):
            return path == f"/sys/class/vfio/noiommu-{GROUPS['fake.0']}"
        return super().exists(path)

    def open(self, path: str, flags: int = 0) -> int:
        if path == "/dev/vfio/noiommu-7":
            return self._new("group", path)
        return super().open(path, flags)

    def _VFIO_CHECK_EXTENSION(self, fd: int, argument: int) -> int:
        return 1

    def _VFIO_IOMMU_MAP_DMA(self, fd: int, argument: int) -> int:
        return -errno.ENOTTY


class TestNoIommu:
    @pytest.fixture
    def kernel(self) -> NoIommuKernel:
        return NoIommuKernel()

    @pytest.mark.parametrize("mode", [None, "type1", "type1v2"])
    def test_it_takes_an_explicit_word(self, kernel: NoIommuKernel, mode: str | None) -> None:
        with pytest.raises(InvalidRequest, match=r"no IOMMU stands between.*no_iommu=True"):
            pyvfio.open("fake.0", mode=mode, kernel=kernel)
        assert not kernel.fds

    @pytest.mark.parametrize(
        "arguments", [{"no_iommu": True}, {"mode": "noiommu"}, {"mode": "noiommu", "no_iommu": True}]
    )
    def test_with_that_word_it_opens_and_warns(self, kernel: NoIommuKernel, arguments: dict[str, object]) -> None:
        with pytest.warns(NoIommuWarning, match="reaches all memory") as caught:
            device = pyvfio.open("fake.0", kernel=kernel, **arguments)  # type: ignore[arg-type]
        assert [warning.filename for warning in caught] == [__file__]
        with device:
            assert device.address_space.mode == "noiommu"
            assert "noiommu" in repr(device)
            with pytest.raises(OSError, match="DMA uses physical addresses") as refused:
                device.address_space.map(bytearray(1), 0)
            assert refused.value.errno == errno.ENOTTY
            with pytest.raises(Unsupported, match="nothing can be mapped"):
                device.address_space.alloc(4096)
        assert not kernel.fds

    def test_the_warning_comes_before_anything_is_opened(self, kernel: NoIommuKernel) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(NoIommuWarning):
                pyvfio.open("fake.0", no_iommu=True, kernel=kernel)
        assert ("group", "VFIO_GROUP_SET_CONTAINER") not in kernel.calls
        assert not kernel.fds

    def test_modes_are_not_mixed_up(self, kernel: NoIommuKernel) -> None:
        with pytest.raises(Unsupported, match=r"fake\.0 has no IOMMU: mode type1v2 does not take it, noiommu does"):
            pyvfio.open("fake.0", mode="type1v2", no_iommu=True, kernel=kernel)
        with pytest.raises(Unsupported, match=r"fake\.1 has an IOMMU, or needs none: .* type1v2 does"):
            pyvfio.open("fake.1", mode="noiommu", kernel=kernel)
        assert not kernel.fds

    def test_who_has_an_iommu_loses_nothing_by_it(self, kernel: NoIommuKernel) -> None:
        with pyvfio.open("fake.1", no_iommu=True, kernel=kernel) as device:
            assert device.address_space.mode == "type1v2"
