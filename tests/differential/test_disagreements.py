# SPDX-License-Identifier: MIT
"""Findings of the differential runs: calls that the mock once answered differently from Linux 7.3."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import resource
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from random import Random

import pytest

import pyvfio
from pyvfio import mock
from pyvfio._abi import ffi, lib
from tests.differential import replay, selftest
from tests.differential.iommufd import POINTED_AT
from tests.differential.selftest import SelftestMaker
from tests.differential.steps import PAGE

EDU = "0000:00:03.0"


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_blanks_behind_a_device_s_name_are_nothing() -> None:
    kernel = mock.Kernel()
    with (
        pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel),
        pyvfio.address_space("type1v2", kernel=kernel) as space,
        space.add_group(kernel.devices[EDU].group.number) as group,
        closing(group.device_fd(f"{EDU} ")) as fd,
    ):
        assert fd.fileno() >= 0


def test_a_group_that_left_its_iommufd_gives_up_dma_at_close() -> None:
    kernel = mock.Kernel()
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel):
        group = kernel.devices[EDU].group
        iommufd, file = kernel.open("/dev/iommu"), kernel.open(f"/dev/vfio/{group.number}")
        door = kernel.door(file, "group")
        lib.pyvfio_ioctl(door, lib.VFIO_GROUP_SET_CONTAINER, ffi.new("int *", iommufd))
        device = lib.pyvfio_ioctl(door, lib.VFIO_GROUP_GET_DEVICE_FD, ffi.new("char[]", EDU.encode()))
        assert device >= 0
        assert lib.pyvfio_ioctl(door, lib.VFIO_GROUP_UNSET_CONTAINER, ffi.NULL) == 0
        for fd in (device, file, iommufd):
            kernel.close(fd)
        assert group.owner is None


def test_a_mapping_beyond_an_iommus_reach_is_erange_at_attach() -> None:
    kernel = mock.Kernel("intel-39")
    with (
        pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel),
        pyvfio.open("vfio-mock.0", mode="type1v2", kernel=kernel) as device,
    ):
        space = device.address_space
        assert isinstance(space, pyvfio.Container)
        space.alloc(4096, 1 << 39)
        with pytest.raises(OSError, match="SET_CONTAINER") as caught:
            space.attach(EDU)
        assert caught.value.errno == errno.ERANGE
        assert kernel.locked.pages == 0


def test_every_pci_device_has_the_error_interrupt() -> None:
    # Before Linux 7.3 only those on PCI Express had it.
    kernel = mock.Kernel()
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel), pyvfio.open(EDU, mode="type1v2", kernel=kernel) as device:
        assert device.irqs.err.count == 1


def test_a_device_alone_on_its_bus_is_reset_with_it() -> None:
    kernel = mock.Kernel()
    alone, shared = "0000:01:00.0", EDU
    for address, resets in ((alone, True), (shared, False)):
        with (
            pyvfio.host.bind(address, "vfio-pci", kernel=kernel),
            pyvfio.open(address, mode="type1v2", kernel=kernel) as device,
        ):
            assert bool(device.info.flags & lib.VFIO_DEVICE_FLAGS_RESET) == resets
            if resets:
                device.reset()


def test_an_msi_x_that_a_device_has_not_does_not_grow() -> None:
    kernel = mock.Kernel()
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel), pyvfio.open(EDU, mode="type1v2", kernel=kernel) as device:
        info = ffi.new("struct vfio_irq_info *", {"argsz": 16, "index": lib.VFIO_PCI_MSIX_IRQ_INDEX})
        assert lib.pyvfio_ioctl(kernel.door(device.fileno(), "device"), lib.VFIO_DEVICE_GET_IRQ_INFO, info) == 0
        assert (info.count, info.flags) == (0, lib.VFIO_IRQ_INFO_EVENTFD | lib.VFIO_IRQ_INFO_NORESIZE)


def test_the_command_register_is_as_firmware_leaves_it() -> None:
    kernel = mock.Kernel()
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel), pyvfio.open(EDU, mode="type1v2", kernel=kernel) as device:
        assert device.config.read(4, 2) == b"\x03\x01"


def test_who_reads_a_device_in_low_power_wakes_it() -> None:
    kernel = mock.Kernel()
    with (
        pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel),
        pyvfio.open(EDU, mode="type1v2", kernel=kernel) as device,
        device.low_power(),
    ):
        assert device.regions[0].read32(0) == 0x010000ED


def test_the_limit_on_locked_memory_is_checked_before_the_memory() -> None:
    kernel = mock.Kernel(memlock=0)
    with (
        pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel),
        pyvfio.open(EDU, mode="type1v2", kernel=kernel) as device,
    ):
        # Two pages of address space, of which the second is not there.
        memory = mmap.mmap(-1, 2 * PAGE)
        start = ffi.cast("uintptr_t", ffi.from_buffer(memory))
        ctypes.CDLL(None).munmap(ctypes.c_void_p(int(start) + PAGE), ctypes.c_size_t(PAGE))
        assert isinstance(device.address_space, pyvfio.Container)
        call = ffi.new(
            "struct vfio_iommu_type1_dma_map *", {"argsz": 32, "flags": 3, "vaddr": int(start), "size": 2 * PAGE}
        )
        door = kernel.door(device.address_space.fileno(), "container")
        assert lib.pyvfio_ioctl(door, lib.VFIO_IOMMU_MAP_DMA, call) == -errno.ENOMEM
        kernel.limit_memlock(None)
        assert lib.pyvfio_ioctl(door, lib.VFIO_IOMMU_MAP_DMA, call) == -errno.EFAULT
        # Python would unmap both.
        ctypes.CDLL(None).mmap(ctypes.c_void_p(int(start) + PAGE), ctypes.c_size_t(PAGE), 3, 0x32, -1, 0)
        memory.close()


def test_what_was_mapped_without_a_limit_is_pinned_without_one() -> None:
    kernel = mock.Kernel("virtio")
    with (
        pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel),
        pyvfio.open("vfio-mock.0", mode="type1v2", kernel=kernel) as device,
    ):
        device.address_space.alloc(PAGE)
        kernel.limit_memlock(0)
        with device.address_space.attach(EDU):
            assert kernel.locked.pages == 1
            with pytest.raises(OSError, match="Cannot allocate memory"):
                device.address_space.alloc(PAGE)


def test_the_mode_of_the_limit_takes_a_capability() -> None:
    kernel = mock.Kernel()
    with pyvfio.Iommufd(kernel=kernel) as iommufd:
        kernel.capabilities.remove("CAP_SYS_RESOURCE")
        assert _results(kernel, iommufd.fileno(), rlimit=1) == -errno.EPERM
        kernel.capabilities.add("CAP_SYS_RESOURCE")
        assert _results(kernel, iommufd.fileno(), rlimit=1) == 0


def _results(kernel: mock.Kernel, fd: int, *, rlimit: int) -> int:
    call = ffi.new("struct iommu_option *", {"size": ffi.sizeof("struct iommu_option"), "val64": rlimit})
    return int(lib.pyvfio_ioctl(kernel.door(fd, "iommufd"), lib.IOMMU_OPTION, call))


def test_without_a_free_descriptor_nothing_is_changed() -> None:
    kernel = mock.Kernel()
    with pyvfio.Iommufd(kernel=kernel) as iommufd:
        call = ffi.new("struct iommu_fault_alloc *", {"size": ffi.sizeof("struct iommu_fault_alloc")})
        door = kernel.door(iommufd.fileno(), "iommufd")
        with no_descriptor_left():
            assert lib.pyvfio_ioctl(door, lib.IOMMU_FAULT_QUEUE_ALLOC, call) == -errno.EMFILE
        assert not kernel.files[iommufd.fileno()].objects  # type: ignore[attr-defined]  # the file of an iommufd


# Findings that only the iommufd selftest driver shows, with the steps that showed them.


def _answered(make: SelftestMaker, profile: str = "intel-39") -> list[int]:
    with replay.on_mock([EDU], profile) as replayer:
        return [answer["r"] for answer in replayer.episode(make.steps)]


def _selftest() -> SelftestMaker:
    class Maker(SelftestMaker):
        def chance(self, percent: float) -> bool:
            return False

    make = Maker(Random(0))
    selftest.begin(make)
    return make


def test_a_device_detached_by_pasid_0_is_attached_to_nothing() -> None:
    make = _selftest()
    make.test(selftest.PASID_DETACH, ["var", "self0", 0])
    make.test(selftest.REPLACE, ["var", "self0", 0], put=[[0, 4, ["var", "ioas0", 0]]])
    assert _answered(make)[-2:] == [0, -errno.EINVAL]


def test_a_device_is_not_found_before_it_is_made() -> None:
    make = _selftest()
    make.request("IOMMU_DESTROY", "iommu_destroy", {}, {"id": ["var", "ioas1", 0]})
    # Its own number is the one that was given back.
    make.test(selftest.DOMAIN, ["var", "ioas1", 0])
    assert _answered(make)[-2:] == [0, -errno.ENOENT]


def test_a_device_without_pasids_has_none() -> None:
    make = _selftest()
    make.test(selftest.DOMAIN, ["var", "ioas0", 0], keep={"self1": [16, 4], "auto1": [20, 4], "dev1": [24, 4]})
    selftest.table(make, "hwpt0", 8)
    for device in ("self0", "self1"):
        make.test(selftest.REPLACE, ["var", device, 0], put=[[0, 4, ["var", "hwpt0", 0]]])
        make.test(selftest.PASID_ATTACH, ["var", device, 0], struct.pack("=2I", 5, 0), [[4, 4, ["var", "hwpt0", 0]]])
    assert _answered(make)[-4:] == [0, 0, 0, -errno.EINVAL]


def test_the_other_page_table_has_4_kib_pages_and_starts_at_0() -> None:
    make = _selftest()
    make.step("fill", at=POINTED_AT, data=struct.pack("=2I", 0, 1).hex())
    refs = {"dev_id": ["var", "dev0", 0], "pt_id": ["var", "ioas0", 0], "data_uptr": ["arena", POINTED_AT]}
    make.request(
        "IOMMU_HWPT_ALLOC",
        "iommu_hwpt_alloc",
        {"data_type": selftest.DATA, "data_len": 8},
        refs,
        keep={"huge": [16, 4]},
    )
    for size in (2048, 4096):
        union = struct.pack("=2Q", selftest.BASE, size)
        make.test(selftest.CHECK_MAP, ["var", "huge", 0], union, [[16, 8, ["arena", 0]]])
    assert _answered(make)[-3:] == [0, -errno.EINVAL, 0]


def test_events_carry_the_virtual_id_of_attach_time() -> None:
    make = _selftest()
    selftest.table(make, "hwpt0", 1)
    dev: list[object] = ["var", "dev0", 0]
    for name in ("one", "two"):
        refs = {"dev_id": dev, "hwpt_id": ["var", "hwpt0", 0]}
        make.request("IOMMU_VIOMMU_ALLOC", "iommu_viommu_alloc", {"type": selftest.TYPE}, refs, keep={name: [20, 4]})
    make.step("fill", at=POINTED_AT, data=bytes(8).hex())
    refs = {"dev_id": dev, "pt_id": ["var", "one", 0], "data_uptr": ["arena", POINTED_AT]}
    make.request(
        "IOMMU_HWPT_ALLOC",
        "iommu_hwpt_alloc",
        {"data_type": selftest.DATA, "data_len": 8},
        refs,
        keep={"table": [16, 4]},
    )
    for name, number in (("one", 7), ("two", 8)):
        refs = {"viommu_id": ["var", name, 0], "dev_id": dev}
        make.request("IOMMU_VDEVICE_ALLOC", "iommu_vdevice_alloc", {"virt_id": number}, refs, keep={"vdevice": [12, 4]})
        if name == "one":
            make.test(selftest.REPLACE, ["var", "self0", 0], put=[[0, 4, ["var", "table", 0]]])
            make.request("IOMMU_DESTROY", "iommu_destroy", {}, {"id": ["var", "vdevice", 0]})
    # The device is the second's now, which has no queue, and nor has the first.
    make.test(selftest.EVENT, 0, put=[[0, 4, dev]])
    values = {"type": selftest.EVENTS, "veventq_depth": 2}
    make.request(
        "IOMMU_VEVENTQ_ALLOC", "iommu_veventq_alloc", values, {"viommu_id": ["var", "one", 0]}, take={"q": [24, 4]}
    )
    make.test(selftest.EVENT, 0, put=[[0, 4, dev]])
    make.step("read", slot="q", size=100)
    assert _answered(make)[-4:] == [-errno.EOPNOTSUPP, 0, 0, 12]


def test_amds_iommu_enforces_coherency_and_takes_fault_queues() -> None:
    kernel = mock.Kernel("amd")
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel), pyvfio.Iommufd(kernel=kernel) as iommufd:
        device, ioas = iommufd.bind(EDU), iommufd.ioas()
        with device:
            table = ioas.hwpt(device, fault_queue=iommufd.fault_queue())
            device.attach(table)
            with pytest.raises(OSError, match="IOMMU_VIOMMU_ALLOC") as caught:
                pyvfio.iommufd.Viommu(table, device, 1)
            assert caught.value.errno == errno.EINVAL
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel), pyvfio.open(EDU, mode="type1v2", kernel=kernel) as device:
        assert isinstance(device.address_space, pyvfio.Container)
        assert device.address_space.has_extension(lib.VFIO_DMA_CC_IOMMU)


# The host's files.


def test_nothing_that_is_written_is_nothing_that_is_done() -> None:
    kernel = mock.Kernel()
    for path in ("/sys/bus/pci/drivers/vfio-pci/bind", "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit"):
        kernel.write_file(path, b"")


@pytest.mark.parametrize(
    ("text", "value"),
    [(b"010", 8), (b"0x10\n", 16), (b"+5", 5), (b" 7", errno.EINVAL), (b"7 ", errno.EINVAL), (b"08", errno.EINVAL), (b"-1", errno.EINVAL), (b"4294967296", errno.ERANGE)],
)  # fmt: skip
def test_numbers_are_read_as_c_reads_them(text: bytes, value: int) -> None:
    path = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit"
    kernel = mock.Kernel()
    if value in (errno.EINVAL, errno.ERANGE):
        with pytest.raises(OSError) as caught:
            kernel.write_file(path, text)
        assert caught.value.errno == value
    else:
        kernel.write_file(path, text)
        assert int(kernel.read_file(path)) == value


def test_drivers_probe_succeeds_if_no_driver_takes_the_device() -> None:
    kernel = mock.Kernel()
    kernel.write_file("/sys/bus/pci/drivers_probe", EDU.encode())
    assert kernel.devices[EDU].driver is None


def test_virtual_functions_of_what_vfio_has_are_vfio_s_too() -> None:
    kernel, nvme = mock.Kernel(), "0000:00:04.0"
    with pyvfio.host.bind(nvme, "vfio-pci", kernel=kernel):
        kernel.write_file("/sys/module/vfio_pci/parameters/enable_sriov", b"Y")
        kernel.write_file(f"/sys/bus/pci/devices/{nvme}/sriov_drivers_autoprobe", b"0")
        with closing(kernel.udev_monitor()) as monitor:
            kernel.write_file(f"/sys/bus/pci/devices/{nvme}/sriov_numvfs", b"1")
            heard = []
            while (event := monitor.poll(0)) is not None:
                heard.append((event[0], event[1].subsystem))
        kind = [
            ("add", "pci"),
            ("change", "pci"),
            ("add", "vfio"),
            ("add", "vfio-dev"),
            ("bind", "pci"),
            ("change", "pci"),
        ]
        assert heard == kind
        assert kernel.devices["0000:00:04.1"].driver == "vfio-pci"
        kernel.write_file(f"/sys/bus/pci/devices/{nvme}/sriov_numvfs", b"0")


def test_a_dma_buf_is_not_for_programs() -> None:
    kernel = mock.Kernel()
    with (
        pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel),
        pyvfio.open(EDU, mode="iommufd", kernel=kernel) as device,
        device.regions[0].dma_buf() as exported,
    ):
        with pytest.raises(OSError) as caught:
            kernel.mmap(exported.fileno(), PAGE, offset=0, prot=mmap.PROT_READ)
        assert caught.value.errno == errno.EINVAL


def test_ports_are_a_region_and_power_management_is_a_reset() -> None:
    kernel, card = mock.Kernel(), "0000:00:06.0"
    with pyvfio.host.bind(card, "vfio-pci", kernel=kernel), pyvfio.open(card, mode="type1v2", kernel=kernel) as device:
        assert device.regions[2].size == 32
        assert device.info.flags & lib.VFIO_DEVICE_FLAGS_RESET


def test_without_an_iommu_a_fault_queue_is_looked_for_first() -> None:
    kernel = mock.Kernel("none")
    with pyvfio.host.bind(EDU, "vfio-pci", kernel=kernel):
        with pytest.warns(pyvfio.NoIommuWarning):
            device = pyvfio.open(EDU, mode="iommufd", no_iommu=True, kernel=kernel)
        space = device.address_space
        assert isinstance(space, pyvfio.iommufd.Ioas)
        call = ffi.new(
            "struct iommu_hwpt_alloc *", {"size": ffi.sizeof("struct iommu_hwpt_alloc"), "flags": 4, "pt_id": space.id}
        )
        call.dev_id, call.fault_id = device.bound.id, 99
        door = kernel.door(space.iommufd.fileno(), "iommufd")
        assert lib.pyvfio_ioctl(door, lib.IOMMU_HWPT_ALLOC, call) == -errno.ENOENT
        device.close()


def test_a_state_changes_without_a_free_descriptor_for_its_data() -> None:
    kernel = mock.Kernel()
    with pyvfio.open("vfio-mock.0", mode="type1v2", kernel=kernel) as device:
        call = ffi.new(
            "uint32_t[4]",
            [
                16,
                lib.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE | lib.VFIO_DEVICE_FEATURE_SET,
                lib.VFIO_DEVICE_STATE_STOP_COPY,
                0x55,
            ],
        )
        door = kernel.door(device.fileno(), "device")
        with no_descriptor_left():
            assert lib.pyvfio_ioctl(door, lib.VFIO_DEVICE_FEATURE, call) == -errno.EMFILE
        assert call[3] == 0x55
        assert device.migration.state.name == "STOP_COPY"
