# SPDX-License-Identifier: MIT
"""Reasons in error messages: facts are stated, guesses are called likely, and the cause is named if the host shows it.

The numbers C01 and so on are those of a collection of public bug reports (see test_cases.py). Each case represents a
kind of problem.
"""

from __future__ import annotations

import errno
import mmap
import os
import re
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import pyvfio
from pyvfio import Device, host, mock
from pyvfio.mock.fs.tree import Text
from pyvfio.mock.machine.profile import Reserved
from tests.overriding import Overriding

NAME, EDU = "0000:00:0a.0", "0000:00:03.0"
MODES = ("type1v2", "iommufd")


class Card(mock.Device):
    function = mock.Function(
        (0x1234, 0x11E8),
        bars={0: mock.Bar(4096), 2: mock.Bar(1 << 16, wide=True, memory=True)},
        msi=4,
        msix=8,
        intx=True,
        express=True,
        resets=True,
    )


class Opened(NamedTuple):
    kernel: Any
    model: Card
    device: Device


Open = Callable[..., Opened]


@pytest.fixture
def opened() -> Iterator[Open]:
    with ExitStack() as stack:

        def open_(mode: Any = "type1v2", kind: type[mock.Kernel] = mock.Kernel, **fields: Any) -> Opened:
            kernel = kind("intel-48", **fields)
            model = Card(kernel, NAME, driver="vfio-pci")
            return Opened(kernel, model, stack.enter_context(pyvfio.open(NAME, mode=mode, kernel=kernel)))

        yield open_


def explained(error: BaseException) -> str:
    """Return an error's message with its notes."""
    return "\n".join([str(error), *getattr(error, "__notes__", ())])


def refused(number: int, words: str) -> pytest.RaisesExc[OSError]:
    def fits(error: OSError) -> bool:
        return error.errno == number and re.search(words, explained(error), re.S) is not None

    return pytest.raises(OSError, check=fits)


# Groups.


@pytest.mark.parametrize("mode", MODES)
def test_a_direct_region_is_named(mode: Any) -> None:
    """C01."""
    kernel = mock.Kernel("intel-48", reserved=(Reserved(0x7E800000, 0x7FFFFFFF, "direct"),))
    with (
        host.bind(EDU, "vfio-pci", kernel=kernel),
        refused(errno.EINVAL, r"\[0x7e800000, 0x7fffffff\] mapped one to one.*RMRR.*another slot"),
    ):
        pyvfio.open(EDU, mode=mode, kernel=kernel)


@pytest.mark.parametrize("request_", ["VFIO_GROUP_SET_CONTAINER", "VFIO_SET_IOMMU"])
def test_a_direct_region_is_named_before_linux_6_6_too(request_: str) -> None:
    """C01: Intel's IOMMU gives EPERM, since Linux 5.19 when the group is attached, before at VFIO_SET_IOMMU.

    The message must not advise allowing unsafe interrupts.
    """
    kernel = Overriding("intel-48", reserved=(Reserved(0x7E800000, 0x7FFFFFFF, "direct"),))
    kernel.answers |= {"VFIO_GROUP_SET_CONTAINER": 0, request_: -errno.EPERM}
    with (
        host.bind(EDU, "vfio-pci", kernel=kernel),
        refused(errno.EPERM, "RMRR") as caught,
    ):
        pyvfio.open(EDU, mode="type1v2", kernel=kernel)
    assert "unsafe" not in explained(caught.value)


@pytest.mark.parametrize("mode", MODES)
def test_the_member_in_the_way_is_named_and_the_bridge_may_stay(mode: Any) -> None:
    """C13."""
    kernel = mock.Kernel("intel-48")
    port = "0000:00:08.0"
    group = kernel.devices[port].group
    Card(kernel, "0000:01:00.1", driver="vfio-pci", parent=port, group=group)
    network = mock.Function((0x8086, 0x10D3), 0x020000)
    mock.Device(kernel, "0000:01:00.2", function=network, parent=port, group=group, driver="e1000e")
    with pytest.raises(OSError, match=r"0000:01:00\.2 \(e1000e\)") as caught:
        pyvfio.open("0000:01:00.1", mode=mode, kernel=kernel)
    message, *advice = explained(caught.value).splitlines()
    assert "pcieport" not in message
    assert advice[0].startswith("pyvfio.host.bind('0000:01:00.2', 'vfio-pci')")
    assert "0000:00:08.0 (pcieport) may stay" in advice[0]
    assert "unsafe" not in explained(caught.value)
    exec(
        advice[0].partition(";")[0].replace("'vfio-pci')", "'vfio-pci', kernel=kernel)"),
        {"pyvfio": pyvfio, "kernel": kernel},
    )
    pyvfio.open("0000:01:00.1", mode=mode, kernel=kernel).close()


def test_who_holds_a_group_is_named(opened: Open) -> None:
    """C19: most often the holder is this process itself."""
    one = opened("type1v2")
    group = one.device.group
    assert group is not None
    held = f"/dev/vfio/{group.number} is open in this process, descriptor {group.fileno()}"
    with refused(errno.EBUSY, f"{held}.*only once.*close it there first"):
        pyvfio.open(NAME, mode="type1v2", kernel=one.kernel)
    with refused(errno.EBUSY, f"group is in use: {held}"):
        pyvfio.open(NAME, mode="iommufd", kernel=one.kernel)


def test_who_holds_a_device_is_named(opened: Open) -> None:
    """C19."""
    one = opened("iommufd")
    held = f"{NAME} is open in this process, descriptor {one.device.fileno()}"
    with refused(errno.EINVAL, held):
        pyvfio.open(NAME, mode="iommufd", kernel=one.kernel)
    with refused(errno.EBUSY, held):
        pyvfio.open(NAME, mode="type1v2", kernel=one.kernel)


def test_who_holds_a_neighbour_of_the_group_is_named() -> None:
    kernel = mock.Kernel("intel-48")
    with (
        host.bind("0000:00:05.0", "vfio-pci", kernel=kernel),
        host.bind("0000:00:05.1", "vfio-pci", kernel=kernel),
        pyvfio.open("0000:00:05.0", mode="iommufd", kernel=kernel),
        refused(errno.EPERM, r"0000:00:05\.0 is open in this process.*same IOMMU group") as caught,
    ):
        pyvfio.open("0000:00:05.1", mode="iommufd", kernel=kernel)
    assert "unsafe" not in explained(caught.value)


@pytest.mark.parametrize(
    ("mode", "request_", "module"),
    [
        ("type1v2", "VFIO_SET_IOMMU", "vfio_iommu_type1"),
        ("iommufd", "VFIO_DEVICE_BIND_IOMMUFD", "iommufd"),
        ("iommufd-type1v2", "VFIO_GROUP_GET_DEVICE_FD", "iommufd"),
    ],
)
def test_interrupts_are_the_likely_cause_when_no_other_is_seen(mode: Any, request_: str, module: str) -> None:
    kernel = Overriding("amd")
    kernel.answers[request_] = -errno.EPERM
    path = f"/sys/module/{module}/parameters/allow_unsafe_interrupts"
    with host.bind(EDU, "vfio-pci", kernel=kernel):
        with refused(errno.EPERM, f"most likely .* does not isolate interrupts.*echo 1 > {path}"):
            pyvfio.open(EDU, mode=mode, kernel=kernel)
        # If unsafe interrupts are allowed already, their isolation is not the cause.
        kernel.tree.add(path, Text(b"Y\n"))
        with pytest.raises(PermissionError) as caught:
            pyvfio.open(EDU, mode=mode, kernel=kernel)
        assert "echo" not in explained(caught.value)
        assert "dmesg" in explained(caught.value)


def test_a_command_line_that_switches_remapping_off_is_named() -> None:
    kernel = Overriding("amd")
    kernel.answers["VFIO_SET_IOMMU"] = -errno.EPERM
    kernel.tree.add("/proc/cmdline", Text(b"ro quiet intremap=off\n"))
    with host.bind(EDU, "vfio-pci", kernel=kernel), refused(errno.EPERM, "command line has intremap=off") as caught:
        pyvfio.open(EDU, mode="type1v2", kernel=kernel)
    assert "echo" not in explained(caught.value)


# Nodes.


@pytest.mark.parametrize(
    ("mode", "nth", "node"),
    [
        ("type1v2", 1, "/dev/vfio/vfio"),
        ("type1v2", 2, "/dev/vfio/11"),
        ("iommufd", 1, "/dev/iommu"),
        ("iommufd", 2, "/dev/vfio/devices/vfio2"),
    ],
)
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EPERM, r"most likely the device cgroup.*--device {node}"),
        (
            errno.EACCES,
            r"most likely a security module \(SELinux, AppArmor\)" if os.geteuid() == 0 else "root and the owner",
        ),
    ],
)
def test_a_node_that_is_not_permitted(mode: Any, nth: int, node: str, number: int, words: str) -> None:
    """C03: the device cgroup gives EPERM; file permissions and security modules give EACCES."""
    kernel = mock.Kernel("intel-48")
    Card(kernel, NAME, driver="vfio-pci")
    kernel.failures.fail(number, call="open", nth=nth)
    with refused(number, f"open {node}.*" + words.format(node=node)):
        pyvfio.open(NAME, mode=mode, kernel=kernel)


@pytest.mark.parametrize("mode", ["noiommu", "iommufd"])
def test_a_device_without_an_iommu_takes_a_capability(mode: Any) -> None:
    """The message depends on whether the process has the capability, which /proc shows."""
    kernel = mock.Kernel("none")
    kernel.capabilities.discard("CAP_SYS_RAWIO")
    with host.bind(EDU, "vfio-pci", kernel=kernel):
        with (
            pytest.warns(pyvfio.NoIommuWarning),
            refused(errno.EPERM, "CAP_SYS_RAWIO, since the device has no IOMMU"),
        ):
            pyvfio.open(EDU, mode=mode, no_iommu=True, kernel=kernel)
        kernel.capabilities.add("CAP_SYS_RAWIO")
        kernel.failures.fail(errno.EPERM, call="open", nth=2)
        with pytest.warns(pyvfio.NoIommuWarning), refused(errno.EPERM, "device cgroup"):
            pyvfio.open(EDU, mode=mode, no_iommu=True, kernel=kernel)


def test_a_node_that_sysfs_shows_and_dev_does_not_have() -> None:
    """This happens in a (docker) container to which only a part of /dev was passed."""
    kernel = mock.Kernel("intel-48")
    Card(kernel, NAME, driver="vfio-pci")
    kernel.tree.remove("/dev/vfio/11")
    with refused(errno.ENOENT, r"has made /dev/vfio/11, and /dev does not have it.*--device /dev/vfio/11"):
        pyvfio.open(NAME, mode="type1v2", kernel=kernel)


# Memory.


@pytest.mark.parametrize("mode", MODES)
def test_a_file_that_is_too_short_is_named(opened: Open, mode: Any) -> None:
    """C04."""
    fd = os.memfd_create("guest-ram")
    os.ftruncate(fd, 1 << 20)
    memory = mmap.mmap(fd, 1 << 20)
    os.ftruncate(fd, 1 << 16)
    space = opened(mode).device.address_space
    with refused(errno.EFAULT, r"guest-ram.* is too short: it has 64 KiB.* 1 MiB.*ftruncate\(fd, 1048576\)"):
        space.map(memory, 0x100000000)
    os.ftruncate(fd, 1048576)
    space.map(memory, 0x100000000).unmap()
    os.close(fd)


class Shown(mock.Kernel):
    """A mock that reports other properties of the process's memory."""

    change: dict[str, Any]

    def backing(self, address: int, size: int) -> tuple[Any, ...]:
        return tuple(area._replace(**self.change) for area in super().backing(address, size))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"huge": True, "free": 0, "path": "/memfd:ram"}, "pool of huge pages has too few.*nr_hugepages"),
        ({"free": 0, "path": "/dev/shm/ram"}, ": the file system of /dev/shm/ram .*is full: 0 bytes are free"),
        ({"free": 4096, "path": "/dev/shm/ram"}, "most likely the file system of /dev/shm/ram .*4 KiB are free"),
        ({"on_disk": True, "path": "/var/ram"}, "most likely because /var/ram .* is a file on a disk's file system"),
        (
            {"writable": False, "path": "/dev/shm/ram"},
            r"is read-only in this process.*map\(buffer, read=True, write=False\)",
        ),
        ({"readable": False, "writable": False}, "may not be read in this process"),
        ({"path": "/dev/vfio/devices/vfio0"}, "region of a VFIO device, which most likely does not decode"),
        ({}, "most likely it is memory that cannot be pinned"),
    ],
    ids=str,
)
def test_memory_that_the_kernel_cannot_have(opened: Open, change: dict[str, Any], words: str) -> None:
    """C04: EFAULT is explained by the memory that the process has mapped at the address, not by a guess."""
    one = opened("type1v2", Shown)
    one.kernel.change = change
    one.kernel.failures.fail(errno.EFAULT, call="VFIO_IOMMU_MAP_DMA")
    with refused(errno.EFAULT, words):
        one.device.address_space.alloc(1 << 20)


def test_a_gap_in_the_memory_is_named(opened: Open) -> None:
    start = 0x20000  # above vm.mmap_min_addr, and so low that only a program that asks for it gets it
    space = opened().device.address_space
    with refused(errno.EFAULT, f"nothing is mapped in this process at addresses {start:#x} to "):
        space.map_many(array("Q", [start, 0x100000, 3 << 16]))


@pytest.mark.parametrize("mode", ["iommufd", "iommufd-type1v2"])
def test_a_bar_is_mapped_by_its_dma_buf(opened: Open, mode: Any) -> None:
    """C05."""
    one = opened(mode)
    mapped = one.device.regions[2].mmap()
    with refused(errno.EFAULT, r"region of a VFIO device, which iommufd does not pin.*Region\.dma_buf\(\)"):
        one.device.address_space.map(mapped, 0x100000)


@pytest.mark.parametrize("mode", MODES)
def test_the_limit_on_locked_memory_is_named(opened: Open, mode: Any) -> None:
    """C11: with the mock's own limit."""
    one = opened(mode, memlock=4 << 20)
    with refused(
        errno.ENOMEM, r"8 MiB more would exceed .* 4 MiB \(RLIMIT_MEMLOCK\), of which 0 bytes are used.*ulimit -l 8192"
    ):
        one.device.address_space.alloc(8 << 20)


def test_the_limit_on_mappings_counts_them(opened: Open) -> None:
    """C20: the rows before the failed one count as mappings. iommufd has no such limit."""
    space = opened(dma_entry_limit=10).device.address_space
    buffer = pyvfio.DmaBuffer(4096)
    rows = array("Q", [word for row in range(11) for word in (buffer.address, 0x100000 + 4096 * row, 4096)])
    with refused(errno.ENOSPC, "row 10 of 11.*dma_entry_limit.*iommufd has no such limit.*10 mappings"):
        space.map_many(rows)
    assert space.mappings == []


def test_sizes_are_readable() -> None:
    """C22: a size like 58947593 MiB is hard to read."""
    low, high = pyvfio.IovaRange(0, 0x807FFFFF), pyvfio.IovaRange(0x100000000, 0x3838000FFFFF)
    with (
        pyvfio.open("0000:41:10.1", kernel=mock.Kernel("mlx5")) as device,
        refused(errno.EOPNOTSUPP, "56.22 TiB in all"),
    ):
        device.dirty_log([low, high])


# Interrupts.


@pytest.mark.parametrize(("kind", "count"), [("msi", 4), ("intx", 1)])
def test_vectors_that_cannot_be_added_are_enabled_anew(opened: Open, kind: str, count: int) -> None:
    """C10: vectors with VFIO_IRQ_INFO_NORESIZE. The message's advice works."""
    one = opened()
    irq = one.device.irqs[kind]
    irq.enable()
    if kind == "intx":
        assert irq.enable() == irq.vectors
        return
    with refused(errno.EINVAL, r"fixed when the first is enabled \(1 now; VFIO_IRQ_INFO_NORESIZE\)") as caught:
        irq.enable(range(count))
    (advice,) = caught.value.__notes__
    exec(advice, {"device": one.device})
    assert len(irq.vectors) == count


@pytest.mark.parametrize("kind", ["msi", "msix"])
def test_the_host_has_fewer_vectors(opened: Open, kind: str) -> None:
    """C21: the kernel returns the number of available vectors, and enables none."""
    one = opened(vectors=2)
    irq = one.device.irqs[kind]
    with refused(errno.ENOSPC, "cannot allocate that many interrupt vectors; it has 2 for this device.*enable fewer"):
        irq.enable(range(4))
    assert irq.vectors == []
    assert len(irq.enable(range(2))) == 2


def test_the_host_has_no_vector_left_to_add(opened: Open) -> None:
    """C21: MSI-X vectors can be added as long as the host has free ones."""
    irq = opened(vectors=2).device.irqs.msix
    irq.enable(range(2))
    with refused(errno.ENOSPC, "cannot allocate that many.*can be enabled later"):
        irq.enable(range(3))


@pytest.mark.parametrize("kind", ["msi", "msix"])
def test_without_bus_master_no_message_comes(opened: Open, kind: str) -> None:
    """C15. The message's advice works."""
    one = opened()
    (vector,) = one.device.irqs[kind].enable()
    one.model.interrupt()
    with pytest.raises(TimeoutError) as late:
        vector.wait(timeout=0.01)
    (note,) = late.value.__notes__
    assert note.startswith("bus master is off")
    exec(note.partition(": ")[2], {"device": one.device})
    one.model.interrupt()
    assert vector.wait(timeout=1) == 1


def test_intx_that_is_off_in_the_command_register(opened: Open) -> None:
    """C15."""
    one = opened()
    one.device.config.command |= 0x400
    (vector,) = one.device.irqs.intx.enable()
    one.model.interrupt()
    with pytest.raises(TimeoutError) as late:
        vector.wait(timeout=0.01)
    (note,) = late.value.__notes__
    exec(note.partition(": ")[2], {"device": one.device})
    assert vector.wait(timeout=1) == 1


def test_intx_that_was_not_unmasked(opened: Open) -> None:
    """C15."""
    one = opened()
    (vector,) = one.device.irqs.intx.enable()
    one.model.interrupt()
    assert vector.wait(timeout=1) == 1
    with pytest.raises(TimeoutError) as late:
        vector.wait(timeout=0.01)
    assert "unmask() after each" in explained(late.value)
    vector.unmask()
    assert vector.wait(timeout=1) == 1
    one.model.deassert()
    vector.unmask()
    with pytest.raises(TimeoutError) as late:
        vector.wait(timeout=0.01)
    assert explained(late.value) == str(late.value)


def test_a_look_without_a_timeout_explains_nothing(opened: Open) -> None:
    (vector,) = opened().device.irqs.msix.enable()
    with pytest.raises(TimeoutError) as late:
        vector.wait(timeout=0)
    assert not hasattr(late.value, "__notes__")


def test_interrupts_in_d3hot_are_explained(opened: Open) -> None:
    kernel = mock.Kernel("intel-48")
    function = mock.Function((1, 2), msix=4, express=True, power_management=True)
    mock.Device(kernel, NAME, function=function, driver="vfio-pci")
    with pyvfio.open(NAME, kernel=kernel) as device:
        power = device.config.capability("Power Management")
        assert power is not None
        device.config.write16(power.offset + 4, 3)
        with refused(errno.EINVAL, "D3hot"):
            device.irqs.msix.enable()


# Resets, tokens, virtual functions.


@pytest.mark.parametrize("request_", ["VFIO_DEVICE_RESET", "VFIO_DEVICE_PCI_HOT_RESET"])
def test_a_reset_is_to_be_tried_again(request_: str) -> None:
    """C14: EAGAIN means that pci_try_reset_function did not get the device's lock."""
    kernel = mock.Kernel("intel-48")
    behind = "0000:01:00.0"
    with host.bind(behind, "vfio-pci", kernel=kernel), pyvfio.open(behind, kernel=kernel) as device:
        kernel.failures.fail(errno.EAGAIN, call=request_)
        call = device.reset if request_ == "VFIO_DEVICE_RESET" else device.hot_reset
        with refused(errno.EAGAIN, "held the device's lock, so nothing was reset.*try again"):
            call()
        call()


@pytest.mark.parametrize(
    ("mode", "request_"), [("type1v2", "VFIO_GROUP_GET_DEVICE_FD"), ("iommufd", "VFIO_DEVICE_BIND_IOMMUFD")]
)
@pytest.mark.parametrize(
    ("number", "words"), [(errno.EAGAIN, "try again"), (errno.EIO, "did not wake up from D3.*disable_idle_d3")]
)
def test_an_open_that_fails_for_the_device(mode: Any, request_: str, number: int, words: str) -> None:
    """C14, C17: opening a device also wakes it up and resets it."""
    kernel = mock.Kernel("intel-48")
    Card(kernel, NAME, driver="vfio-pci")
    kernel.failures.fail(number, call=request_)
    with refused(number, words):
        pyvfio.open(NAME, mode=mode, kernel=kernel)


@pytest.mark.parametrize("mode", MODES)
def test_a_physical_function_needs_the_token_of_its_open_vfs(mode: Any) -> None:
    kernel = mock.Kernel("intel-48")
    kernel.write_file("/sys/module/vfio_pci/parameters/enable_sriov", b"Y")
    igb, token = "0000:00:07.0", b"0123456789abcdef"
    with host.bind(igb, "vfio-pci", kernel=kernel):
        (function, *_) = host.create_vfs(igb, 2, kernel=kernel)
        with pyvfio.open(igb, mode=mode, kernel=kernel) as physical:
            physical.set_vf_token(token)
        with pyvfio.open(function.address, mode=mode, vf_token=token, kernel=kernel):
            for given, words in ((None, "missing"), (b"fedcba9876543210", "wrong")):
                with refused(errno.EACCES, f"vf_token is {words}: virtual functions .* are open .{function.address}"):
                    pyvfio.open(igb, mode=mode, vf_token=given, kernel=kernel)
            pyvfio.open(igb, mode=mode, vf_token=token, kernel=kernel).close()
        with refused(errno.EACCES, "vf_token is missing"):
            pyvfio.open(function.address, mode=mode, kernel=kernel)
        host.remove_vfs(igb, kernel=kernel)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOMEM, "most likely the firmware left no addresses.*above-4G"),
        (errno.EBUSY, r"can only be removed all at once.*pyvfio\.host\.remove_vfs"),
        (errno.ENOENT, "its driver, igb, creates no virtual functions"),
    ],
)
def test_virtual_functions_that_cannot_be_created(number: int, words: str) -> None:
    """C12."""

    class Refusing(mock.Kernel):
        def write_file(self, path: str, data: bytes) -> None:
            if path.endswith("numvfs"):
                raise OSError(number, os.strerror(number))
            super().write_file(path, data)

    with refused(number, words) as caught:
        host.create_vfs("0000:00:07.0", 2, kernel=Refusing("intel-48"))
    assert isinstance(caught.value, pyvfio.RequestError)
    assert caught.value.reason


# The rest of the cases.


@pytest.mark.parametrize(
    ("region", "number", "words"), [(0, errno.EEXIST, "already: remove_ioeventfd"), (1, errno.EINVAL, "MSI-X table")]
)
def test_an_ioeventfd_that_is_refused(opened: Open, region: int, number: int, words: str) -> None:
    """C25."""
    device = opened().device
    eventfd = os.eventfd(0)
    try:
        with refused(number, words):
            for _ in range(2):
                device.regions[region].add_ioeventfd(eventfd, 0, 4, 1)
    finally:
        os.close(eventfd)


def test_a_log_of_all_64_bits_is_refused_with_a_reason() -> None:
    """C24."""
    with (
        pyvfio.open("0000:41:10.1", kernel=mock.Kernel("mlx5")) as device,
        pytest.raises(pyvfio.InvalidRequest, match="last byte of the 64-bit address space"),
    ):
        device.dirty_log([pyvfio.IovaRange(0, 2**64 - 1)])


def test_this_process_memory_is_described(tmp_path: Path) -> None:
    """The reasons above are computed from what the real kernel reports about the process's memory (/proc)."""
    from pyvfio.process_memory import backing

    file = tmp_path / "ram"
    file.write_bytes(bytes(8192))
    with open(file, "r+b") as opened_file, mmap.mmap(opened_file.fileno(), 8192) as memory:
        (area,) = backing(pyvfio.memory.address_of(memory), 8192)
        assert (area.path, area.size, area.readable, area.writable) == (str(file), 8192, True, True)
        assert area.free is not None
    anonymous = pyvfio.DmaBuffer(4096)
    (area,) = backing(anonymous.address, 4096)
    assert not area.path or area.path.startswith("[")
    assert not area.is_device


@pytest.mark.parametrize(
    ("mode", "module"), [("type1v2", "vfio_iommu_type1"), ("iommufd", "iommufd"), ("iommufd-type1v2", "iommufd")]
)
def test_without_interrupt_remapping_a_device_needs_permission(mode: Any, module: str) -> None:
    """The message's advice works: it names the parameter of the module that refused the device."""
    kernel = mock.Kernel("amd", isolated=False)
    with host.bind(EDU, "vfio-pci", kernel=kernel):
        with refused(errno.EPERM, "most likely the IOMMU does not isolate interrupts") as caught:
            pyvfio.open(EDU, mode=mode, kernel=kernel)
        command = re.search(r"echo 1 > (\S+)", explained(caught.value))
        assert command is not None
        assert module in command[1]
        kernel.write_file(command[1], b"1")
        pyvfio.open(EDU, mode=mode, kernel=kernel).close()
