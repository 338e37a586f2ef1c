# SPDX-License-Identifier: MIT
"""Public bug reports of other VFIO users, tried on pyvfio.

For C01 to C25 its answer was wrong, unhelpful or missing; for G01 to G22 right.

C01 to C07 and C12 are in test_bound_driver.py and test_pci_functions.py, the errors (C01 to C05, C10 to C15, C19 to
C22, C24, C25) in test_reasons.py, C16 in tests/unit/test_guest.py, C17 in test_power.py, C18 in tests/unit/test_pci.py
and test_saved_config.py. The others are in this file.
"""

from __future__ import annotations

import errno
import io
import os
import re
from array import array
from typing import Any

import pytest

import pyvfio
from pyvfio import IovaRange, host, mock
from pyvfio.guest import limits, mapping, planning, qemu, x86
from pyvfio.guest.qemu import logs
from pyvfio.migration import State

NAME, EDU, IGB, NVME = "0000:00:0a.0", "0000:00:03.0", "0000:00:07.0", "0000:00:04.0"
MODES = ("type1v2", "iommufd")
#: The usable IOVA ranges of a host with an Intel IOMMU, by its address width in bits.
INTEL = {width: [IovaRange(0, 0xFEDFFFFF), IovaRange(0xFEF00000, 2**width - 1)] for width in (39, 46, 48)}


def refused(number: int, words: str) -> pytest.RaisesExc[OSError]:
    def fits(error: OSError) -> bool:
        text = "\n".join([str(error), *getattr(error, "__notes__", ())])
        return error.errno == number and re.search(words, text, re.S) is not None

    return pytest.raises(OSError, check=fits)


def opened(profile: str, mode: Any = "type1v2", address: str = EDU, **fields: Any) -> pyvfio.Device:
    """Open a device, bound to vfio-pci, of a new mock."""
    kernel = mock.Kernel(profile, **fields)
    host.bind(address, "vfio-pci", kernel=kernel)
    return pyvfio.open(address, mode=mode, kernel=kernel)


# QEMU's logs and layouts.


def test_qemu_up_to_7_0_refuses_no_guest_for_its_physical_bits() -> None:
    """C08: an AMD guest with 1 TiB. QEMU checks this since 7.1; before, a mapping failed later."""
    machine = x86.Machine(1010 << 30, phys_bits=40, amd_cpu=True)
    before = x86.as_before(machine)
    assert before.error is None
    assert "QEMU refuses" not in before.explain(x86.AMD_USABLE.complement())
    assert "phys-bits too low (40)" in (x86.merged(machine).error or "")


LOG = "qemu-kvm: 0000:b1:00.2: Failed to start DMA logging, err -95 (Operation not supported)\n"


@pytest.mark.parametrize("read", [qemu.read_start, qemu.read_sections])
@pytest.mark.parametrize("log", [LOG, "", "nothing here\n"])
def test_a_log_without_the_lines_that_are_looked_for_says_so(read: Any, log: str) -> None:
    """C09: most users have only one line of log, without trace events."""
    with pytest.raises(
        ValueError, match=r"no vfio_device_dirty_tracking_\w+ line in .* lines? of log: run QEMU with -trace"
    ):
        read(log)


def test_lines_of_a_log_in_every_form_are_read() -> None:
    """G09: lines can be plain, or have QEMU's prefix with process and time, or ftrace's prefix.

    The last of two starts counts.
    """
    line = "vfio_device_dirty_tracking_start nr_ranges 2 32:[0x0 - 0x807fffff], 64:[0x100000000 - 0x3838000fffff], pci64:[0xffffffffffffffff - 0x0]"
    expected = [IovaRange(0, 0x807FFFFF), IovaRange(0x100000000, 0x3838000FFFFF)]
    for prefix in ("", "12345@1700000000.123456:", "  qemu-1234 [001] 12.5: "):
        assert list(logs.read_start(prefix + line)) == expected
    other = line.replace("0x807fffff", "0x7fffffff")
    assert next(iter(logs.read_start(f"{line}\n{other}\n"))) == IovaRange(0, 0x7FFFFFFF)
    assert "2^46" in planning.fit(expected, limits.MLX5).explain()


# Widths and holes.


@pytest.mark.parametrize("mode", MODES)
def test_a_width_of_39_bits_is_named(mode: Any) -> None:
    """G01, G02."""
    with opened("intel-39", mode) as device:
        space = device.address_space
        with refused(errno.EINVAL, r"address width of 39 bits.*\[0x7fffffe000, 0x7fffffffff\]"):
            space.map(pyvfio.DmaBuffer(8192), 0x8800000000)
        with refused(errno.EINVAL, "39 bits"):
            space.alloc(4096, 0x382000000000)


@pytest.mark.parametrize("start", [0x380000000000, 0x3FFC00000000, 0x400000000000])
def test_a_bar_above_the_width_is_refused_on_39_bits_only(start: int) -> None:
    """G03, G04."""
    for width, answer in ((39, errno.EINVAL), (46, errno.EINVAL if start >> 46 else 0), (48, 0)):
        assert mapping.type1_map(mapping.Space(usable=INTEL[width]), start, 1 << 20) == answer
    for profile, number in (("intel-39", errno.EINVAL), ("intel-48", 0)):
        with opened(profile) as device:
            if number:
                with refused(number, "39 bits"):
                    device.address_space.alloc(4096, start)
            else:
                device.address_space.alloc(4096, start)


@pytest.mark.parametrize("mode", MODES)
def test_the_hole_of_amd_is_named_with_its_neighbours(mode: Any) -> None:
    """G05."""
    with opened("amd", mode) as device, refused(errno.EINVAL, "HyperTransport.*0xfcffffffff.*0x10000000000"):
        device.address_space.map(pyvfio.DmaBuffer(4 << 20), 0xFCFFE00000)


def test_a_large_amd_guest_is_moved_above_1_tib() -> None:
    """G05."""
    for size, last in ((1010, 0x203FFFFFFFF), (1024, 0x2077FFFFFFF)):
        layout = x86.merged(x86.Machine(size << 30, phys_bits=40, amd_cpu=True))
        assert layout.above_4g_start == 1 << 40
        assert layout.max_used_gpa == last
        assert f"0x{last:x}" in (layout.error or "")


# Mapping and unmapping.


def test_a_map_before_a_device_is_attached_is_explained() -> None:
    """G06."""
    with (
        pyvfio.Container(kernel=mock.Kernel("intel-48")) as container,
        refused(errno.EINVAL, "no IOMMU type is set yet: attach a device first"),
    ):
        container.alloc(4096, 0x1000)


@pytest.mark.parametrize(
    ("mode", "number", "left"),
    [("type1", 0, 8192), ("type1v2", errno.EINVAL, 8192), ("iommufd", errno.ENOENT, 8192), ("iommufd-type1", 0, 4096)],
)
def test_an_unmap_inside_a_mapping(mode: Any, number: int, left: int) -> None:
    """G07: each mode answers as its kernel does. Where nothing is unmapped, a new map conflicts with the old one."""
    with opened("intel-48", mode) as device:
        space = device.address_space
        space.alloc(8192, 0x100000)
        if number:
            with refused(number, "would split"):
                space.unmap(0x101000, 4096)
        else:
            assert space.unmap(0x101000, 4096) == 8192 - left
        if left == 8192:
            with refused(errno.EEXIST, "0x100000, 0x101fff"):
                space.alloc(4096, 0x101000)
        else:
            space.alloc(4096, 0x101000)


@pytest.mark.parametrize("mode", MODES)
def test_a_second_bar_over_the_first_is_named(mode: Any) -> None:
    """G08."""
    with opened("intel-48", mode) as device:
        device.address_space.alloc(1 << 16, 0x100000)
        with refused(errno.EEXIST, r"overlaps what is mapped at \[0x100000, 0x10ffff\].*unmap that first"):
            device.address_space.alloc(1 << 16, 0x108000)


def test_an_array_that_meets_the_msi_window_names_row_and_region() -> None:
    """G22."""
    buffer = pyvfio.DmaBuffer(4096)
    rows = array("Q", [buffer.address, 0x1000, 4096, buffer.address, 0xFEE00000, 4096])
    with opened("intel-48") as device, refused(errno.EINVAL, r"row 1 of 2.*0xfee00000, 0xfeefffff.*interrupt window"):
        device.address_space.map_many(rows)


# Tokens and virtual functions.


@pytest.mark.parametrize("mode", MODES)
def test_a_token_that_nobody_wants_is_refused(mode: Any) -> None:
    """G10."""
    kernel = mock.Kernel("intel-48")
    with (
        host.bind(EDU, "vfio-pci", kernel=kernel),
        refused(errno.EINVAL, "does not take a vf_token"),
    ):
        pyvfio.open(EDU, mode=mode, vf_token=bytes(16), kernel=kernel)


@pytest.mark.parametrize("mode", MODES)
def test_a_token_that_is_missing_or_wrong_is_refused(mode: Any) -> None:
    """G11."""
    kernel = mock.Kernel("intel-48")
    kernel.write_file("/sys/module/vfio_pci/parameters/enable_sriov", b"Y")
    with host.bind(IGB, "vfio-pci", kernel=kernel), pyvfio.open(IGB, mode=mode, kernel=kernel) as physical:
        physical.set_vf_token(b"0123456789abcdef")
        (function,) = host.create_vfs(IGB, 1, kernel=kernel)
        for given, words in ((None, "missing"), (bytes(16), "wrong")):
            with refused(errno.EACCES, f"vf_token is {words}.*set_vf_token"):
                pyvfio.open(function.address, mode=mode, vf_token=given, kernel=kernel)
        pyvfio.open(function.address, mode=mode, vf_token=b"0123456789abcdef", kernel=kernel).close()
        host.remove_vfs(IGB, kernel=kernel)


def test_more_functions_than_there_can_be_are_refused() -> None:
    """G12."""
    kernel = mock.Kernel("intel-48")
    with pytest.raises(ValueError, match="1 to 7"):
        host.create_vfs(IGB, 8, kernel=kernel)
    with host.bind(IGB, "vfio-pci", kernel=kernel), refused(errno.ENOENT, "creates no virtual functions.*enable_sriov"):
        host.create_vfs(IGB, 2, kernel=kernel)


# Binding.


def test_a_device_is_bound_three_times_in_a_row() -> None:
    """G13."""
    kernel = mock.Kernel("intel-48")
    for _ in range(3):
        with host.bind(NVME, "vfio-pci", kernel=kernel):
            assert host.device(NVME, kernel).driver == "vfio-pci"
        assert host.device(NVME, kernel).driver == "nvme"


def test_a_group_with_a_port_and_an_endpoint_opens() -> None:
    """G15."""
    kernel = mock.Kernel("intel-48")
    port = kernel.devices["0000:00:08.0"]
    mock.Device(kernel, "0000:01:00.1", parent=port.name, group=port.group, driver="vfio-pci")
    assert host.group(port.group.number, kernel).in_the_way == {}
    for mode in MODES:
        pyvfio.open("0000:01:00.1", mode=mode, kernel=kernel).close()  # type: ignore[arg-type]
    with pytest.raises(OSError, match="is a bridge"):
        host.bind(port.name, "vfio-pci", kernel=kernel)


def test_a_module_that_is_not_loaded_and_an_unknown_address() -> None:
    """G22."""
    kernel = mock.Kernel("intel-48")
    with refused(errno.ENOENT, "modprobe xe_vfio_pci"):
        host.bind(EDU, "xe_vfio_pci", kernel=kernel)
    with refused(errno.ENODEV, "0000:00:03.0"):
        pyvfio.open("0000:00:1f.0", kernel=kernel)


# Devices.


def test_msi_after_intx_is_explained() -> None:
    """G14."""
    with opened("intel-48") as device:
        device.irqs.intx.enable()
        with refused(errno.EINVAL, r"INTx is enabled; only one of INTx, MSI and MSI-X.*irqs\.intx\.disable\(\)"):
            device.irqs.msi.enable()


def test_a_reset_ends_a_migration() -> None:
    """G17: a reset in PRE_COPY makes the device run again and closes its stream.

    A reset also ends a load that was cut.
    """
    with pyvfio.open("vfio-mock.0", kernel=mock.Kernel("intel-48")) as device:
        device.migration.state = State.PRE_COPY
        stream = device.migration.stream
        device.reset()
        assert device.migration.state == State.RUNNING
        assert stream is not None
        with pytest.raises(OSError):
            stream.read(1)
        with refused(errno.EINVAL, "ERROR"):
            device.migration.load(io.BytesIO(b""))
        device.reset()
        assert device.migration.state == State.RUNNING


class Card(mock.Device):
    function = mock.Function(
        (1, 2), bars={0: mock.Bar(1 << 20, wide=True), 2: mock.Bar(1 << 16)}, msix=4, msix_table=(2, 0)
    )


def test_a_dma_buf_goes_with_decoding_and_does_not_come_back() -> None:
    """G18: mappings made before decoding was switched off stay invalid; new mappings work."""
    kernel = mock.Kernel("intel-48")
    card = Card(kernel, NAME, driver="vfio-pci")
    with pyvfio.open(NAME, mode="iommufd", kernel=kernel) as device, device.regions[0].dma_buf() as buffer:
        device.config.bus_master = True
        space: Any = device.address_space
        old = space.map_file(buffer.fileno(), 0, buffer.size, 0x100000)
        card.dma_write(0x100000, b"\x01")
        device.config.memory_enabled = False
        with refused(errno.ENODEV, ""):
            space.map_file(buffer.fileno(), 0, buffer.size, 0x400000)
        device.config.memory_enabled = True
        assert kernel.faults == []
        card.dma_write(0x100000, b"\x01")
        assert len(kernel.faults) == 1
        old.unmap()
        space.map_file(buffer.fileno(), 0, buffer.size, 0x100000)
        card.dma_write(0x100000, b"\x01")
        assert len(kernel.faults) == 1


def test_a_device_without_an_iommu_is_refused_with_the_reason() -> None:
    """G19."""
    kernel = mock.Kernel("none")
    with host.bind(EDU, "vfio-pci", kernel=kernel):
        with pytest.raises(pyvfio.InvalidRequest, match=r"no IOMMU.*reaches all memory.*no_iommu=True"):
            pyvfio.open(EDU, kernel=kernel)
        with pytest.warns(pyvfio.NoIommuWarning):
            device = pyvfio.open(EDU, mode="noiommu", no_iommu=True, kernel=kernel)
        with device, pytest.raises(OSError, match="nothing can be mapped"):
            device.address_space.alloc(4096, 0x1000)


def test_a_bar_without_decoding_does_not_answer() -> None:
    """G20."""
    kernel = mock.Kernel("intel-48")
    Card(kernel, NAME, driver="vfio-pci")
    with pyvfio.open(NAME, kernel=kernel) as device:
        device.config.memory_enabled = False
        with refused(errno.EIO, "does not decode memory now.*memory_enabled = True"):
            device.regions[0].read32(0)
        device.config.memory_enabled = True
        for bar, size, width in ((0, 1 << 20, 64), (2, 1 << 16, 32)):
            at = 0x10 + 4 * bar
            before = [device.config.read32(at + offset) for offset in (0, 4)]
            for offset in (0, 4)[: width // 32]:
                device.config.write32(at + offset, 0xFFFFFFFF)
            read = [device.config.read32(at + offset) for offset in (0, 4)]
            value = read[0] & ~0xF | (read[1] << 32 if width == 64 else 0)
            assert (~value & (1 << width) - 1) + 1 == size
            for offset, old in zip((0, 4)[: width // 32], before, strict=False):
                device.config.write32(at + offset, old)
        assert device.regions[2].read32(0) == 0xFFFFFFFF


def test_a_hot_reset_with_a_neighbour_that_is_not_open_names_it() -> None:
    """G21."""
    kernel = mock.Kernel("intel-48")
    names = ("0000:01:00.0", "0000:01:00.1")
    mock.Device(kernel, names[1], parent="0000:00:08.0", driver="vfio-pci")
    with host.bind(names[0], "vfio-pci", kernel=kernel), pyvfio.address_space("type1v2", kernel=kernel) as space:
        first = space.attach(names[0])
        with refused(errno.EINVAL, r"not all of the affected devices.*0000:01:00\.1"):
            first.hot_reset()
        with space.attach(names[1]):
            first.hot_reset()
        first.close()


def test_huge_pages_that_are_not_there_are_explained() -> None:
    """G22."""
    with pytest.raises(OSError) as caught:
        pyvfio.DmaBuffer(1 << 45, huge=1 << 30)
    assert caught.value.errno == errno.ENOMEM
    assert "/sys/kernel/mm/hugepages/hugepages-1048576kB/free_hugepages" in "\n".join(caught.value.__notes__)


def test_a_region_mapping_is_mapped_without_its_view() -> None:
    """C05: `map(mapping)` is the call that users try first."""
    kernel = mock.Kernel("intel-48")
    function = mock.Function((1, 2), bars={0: mock.Bar(1 << 16, memory=True)})
    mock.Device(kernel, NAME, function=function, driver="vfio-pci")
    with pyvfio.open(NAME, mode="type1v2", kernel=kernel) as device:
        assert device.address_space.map(device.regions[0].mmap(), 0x100000).size == 1 << 16


def test_an_eventfd_can_be_used_by_two_registers() -> None:
    """C25: only a second registration with the same offset, width and value is refused."""
    eventfd = os.eventfd(0)
    try:
        with opened("intel-48") as device:
            device.regions[0].add_ioeventfd(eventfd, 0, 4, 1)
            device.regions[0].add_ioeventfd(eventfd, 0, 4, 2)
    finally:
        os.close(eventfd)
