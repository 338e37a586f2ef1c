# SPDX-License-Identifier: MIT
"""The mock's kernel, method by method: descriptors, files, limits, and which memory belongs to a device."""

from __future__ import annotations

import errno
import mmap
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import pyvfio
from pyvfio import mock
from pyvfio._abi import ffi, lib
from pyvfio.mock.machine.errno import Errno, descriptors
from pyvfio.mock.machine.file import File
from pyvfio.mock.vfio.container import ContainerFile
from pyvfio.mock.vfio.region import MMAP, READ, WRITE, Region

PAGE = 4096
NAME = "0000:00:0a.0"
FUNCTION = mock.Function(
    (0x1234, 0x11E8), bars={0: mock.Bar(4096), 1: mock.Bar(1 << 16, memory=True), 3: mock.Bar(32, ports=True), 4: mock.Bar(1024)}, msix=4, msix_table=(1, 0)
)  # fmt: skip


@pytest.fixture
def kernel() -> mock.Kernel:
    return mock.Kernel("intel-48")


def number_of(error: BaseException) -> str:
    """Return the name of an error's number."""
    found = error.number if isinstance(error, Errno) else getattr(error, "errno", None)
    return errno.errorcode[found or 0]


@contextmanager
def fails(number: int) -> Iterator[None]:
    """Expect an OSError or an Errno of this number."""
    with pytest.raises((OSError, Errno)) as caught:
        yield
    assert number_of(caught.value) == errno.errorcode[number]


@pytest.mark.parametrize(
    ("fields", "capabilities", "pages", "lines"),
    [
        ({}, None, (0, 0), ("       0 kB", "       0 kB", "0000000001024000")),
        ({}, set(), (3, 5), ("      12 kB", "      20 kB", "0000000000004000")),
        ({"memlock": PAGE}, None, (1, 0), ("       4 kB", "       0 kB", "0000000001020000")),
        ({"memlock": PAGE}, {"CAP_SYS_RAWIO"}, (0, 1000000), ("       0 kB", " 4000000 kB", "0000000000020000")),
    ],
)
def test_the_status_of_the_process(
    fields: dict[str, Any], capabilities: set[str] | None, pages: tuple[int, int], lines: tuple[str, str, str]
) -> None:
    kernel = mock.Kernel("intel-48", **fields)
    if capabilities is not None:
        kernel.capabilities = capabilities
    kernel.locked.pages, kernel.locked_by_user.pages = pages
    text = kernel.read_file("/proc/self/status").decode()
    assert text == f"VmLck:\t{lines[0]}\nVmPin:\t{lines[1]}\nCapEff:\t{lines[2]}\n"


def test_limits_are_the_profiles_or_the_processs() -> None:
    plain, limited = mock.Kernel("amd"), mock.Kernel("amd", memlock=5 * PAGE, descriptors=7)
    for which, limit in ((resource.RLIMIT_MEMLOCK, 5 * PAGE), (resource.RLIMIT_NOFILE, 7)):
        assert limited.getrlimit(which) == (limit, limit)
        assert plain.getrlimit(which) == resource.getrlimit(which)
    limited.limit_memlock(PAGE)
    assert (limited.locked.limit, limited.locked_by_user.limit) == (PAGE, PAGE)
    assert limited.getrlimit(resource.RLIMIT_MEMLOCK) == (PAGE, PAGE)
    limited.limit_memlock(None)
    assert limited.getrlimit(resource.RLIMIT_MEMLOCK) == resource.getrlimit(resource.RLIMIT_MEMLOCK)


def test_descriptors_have_a_limit() -> None:
    kernel = mock.Kernel("amd", descriptors=2)
    fds = [kernel.open("/dev/vfio/vfio") for _ in range(2)]
    with fails(errno.EMFILE):
        kernel.open("/dev/vfio/vfio")
    kernel.close(fds[0])
    kernel.close(kernel.open("/dev/vfio/vfio"))
    kernel.close(fds[1])
    assert kernel.files == {}


def test_a_file_by_its_descriptor(kernel: mock.Kernel) -> None:
    fd = kernel.open("/dev/vfio/vfio")
    assert isinstance(kernel.file(fd), ContainerFile)
    assert isinstance(kernel.file(fd, ContainerFile), ContainerFile)
    assert kernel.file(fd, int) is None
    other = os.open("/dev/null", os.O_RDONLY)
    assert kernel.file(other) is None
    os.close(other)
    kernel.close(fd)
    for closed in fd, -1, 1 << 40:
        with fails(errno.EBADF):
            kernel.file(closed)
        assert kernel.ioctl(closed, lib.VFIO_GET_API_VERSION, 0) == -errno.EBADF


def test_requests_have_32_bits(kernel: mock.Kernel) -> None:
    fd = kernel.open("/dev/vfio/vfio")
    for request in lib.VFIO_GET_API_VERSION, lib.VFIO_GET_API_VERSION | 1 << 32, lib.VFIO_GET_API_VERSION - (1 << 32):
        assert kernel.ioctl(fd, request, 0) == 0
    assert kernel.ioctl(fd, lib.VFIO_GET_API_VERSION + 1000, 0) == -errno.EINVAL  # a container without an IOMMU
    kernel.close(fd)


def test_open_files_are_shown_in_proc(kernel: mock.Kernel) -> None:
    fd = kernel.open("/dev/vfio/vfio")
    root = f"/proc/{os.getpid()}"
    assert kernel.readlink(f"{root}/fd/{fd}") == "/dev/vfio/vfio"
    assert kernel.exists(f"{root}/fdinfo/{fd}")
    assert kernel.read_file(f"{root}/comm").endswith(b"\n")
    taken = kernel.take_descriptor(os.getpid(), fd)
    assert kernel.files[taken] is kernel.files[fd]
    kernel.close(fd)
    assert not kernel.exists(f"{root}/fd/{fd}")
    assert kernel.ioctl(taken, lib.VFIO_GET_API_VERSION, 0) == 0
    kernel.close(taken)
    with pytest.raises(ProcessLookupError):
        kernel.take_descriptor(os.getpid() + 1, 0)
    plain = os.open("/dev/null", os.O_RDONLY)
    taken = kernel.take_descriptor(os.getpid(), plain)
    assert taken != plain
    assert taken not in kernel.files
    os.close(plain)
    os.close(taken)


@pytest.mark.parametrize(
    ("path", "call", "number"),
    [
        ("/dev/nothing", "open", errno.ENOENT),
        ("/dev/vfio", "open", errno.EISDIR),
        ("/sys/bus/pci/rescan", "open", errno.ENXIO),
        ("/sys/bus/pci/rescan", "read_file", errno.EACCES),
        ("/sys/bus/nothing", "read_file", errno.ENOENT),
        ("/sys/bus/nothing", "listdir", errno.ENOENT),
        ("/dev/iommu", "listdir", errno.ENOTDIR),
        ("/dev/iommu", "readlink", errno.EINVAL),
    ],
)
def test_errors_name_their_path(kernel: mock.Kernel, path: str, call: str, number: int) -> None:
    with pytest.raises(OSError, check=lambda error: (error.errno, error.filename) == (number, path)):
        getattr(kernel, call)(path)


def test_regular_files(kernel: mock.Kernel) -> None:
    one, other = kernel.create("/run/lock"), kernel.create("/run/lock")
    assert os.write(one, b"content") == 7
    assert kernel.read_file("/run/lock") == b"content"
    assert os.pread(other, 10, 0) == b"content"
    third = kernel.create("/run/another")
    assert [kernel.is_at(fd, "/run/lock") for fd in (one, other, third)] == [True, True, False]
    assert not kernel.is_at(one, "/run/nothing")
    kernel.unlink("/run/lock")
    assert not kernel.exists("/run/lock")
    kernel.unlink("/run/lock")
    for fd in one, other, third:
        os.close(fd)


def test_owners_of_files(kernel: mock.Kernel) -> None:
    assert kernel.owner("/dev/vfio/vfio") == (0, 0, 0o666)
    assert kernel.owner("/dev/iommu") == (0, 0, 0o600)
    kernel.chown("/dev/iommu", 7, 8)
    assert kernel.owners == {"/dev/iommu": (7, 8)}
    with fails(errno.ENOENT):
        kernel.chown("/dev/nothing", 1, 1)
    assert "/dev/nothing" not in kernel.owners


def test_who_may_use_what() -> None:
    plain, bare = mock.Kernel("amd"), mock.Kernel("none")
    mock.Device(bare, NAME, function=FUNCTION, driver="vfio-pci")
    group, without = plain.devices["0000:00:03.0"].group, bare.devices[NAME].group
    for kernel, one in (plain, group), (bare, without):
        kernel.check_raw_io(one)
        kernel.capabilities = {"CAP_SYS_RESOURCE"}
    plain.check_raw_io(group)
    with fails(errno.EPERM):
        bare.check_raw_io(without)
    open_ = mock.Kernel("amd", isolated=False)
    plain.check_isolated("iommufd")
    for module in "vfio_iommu_type1", "iommufd":
        with fails(errno.EPERM):
            open_.check_isolated(module)
        open_.write_file(f"/sys/module/{module}/parameters/allow_unsafe_interrupts", b"Y")
        open_.check_isolated(module)


def test_memory_that_belongs_to_a_device(kernel: mock.Kernel) -> None:
    model = mock.Device(kernel, NAME, function=FUNCTION, driver="vfio-pci")
    with pyvfio.open(NAME, kernel=kernel) as device:
        fd = next(fd for fd, file in kernel.files.items() if file.kind == "device")
        memory = kernel.mmap(fd, 2 * PAGE, offset=1 << 40 | PAGE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        memory[:4] = b"abcd"
        assert device.regions[1].read(PAGE, 4) == b"abcd"
        start = int(ffi.cast("uintptr_t", ffi.from_buffer(memory)))
        for address, size, found in (
            (start, 1, True),
            (start - 1, 1, False),
            (start - 1, 2, True),
            (start + 2 * PAGE, 1, False),
            (start + 2 * PAGE - 1, 1, True),
        ):
            assert (kernel.device_memory(address, size) is model) == found
        memory.close()
        assert kernel.device_memory(start, PAGE) is None


def test_regions_of_a_function(kernel: mock.Kernel) -> None:
    model = mock.Device(kernel, NAME, function=FUNCTION, driver="vfio-pci")
    trapped = Region(4096, READ | WRITE | MMAP)
    assert model.region(0) == trapped
    assert model.region(1) == Region(1 << 16, READ | WRITE | MMAP, msix_mappable=True)
    for index in 2, 5, 6:
        assert model.region(index) == Region()
    assert model.region(3) == Region(32, READ | WRITE)
    assert model.region(4) == Region(1024, READ | WRITE), "less than a page cannot be mapped"
    assert model.region(7) == Region(256, READ | WRITE)
    for index in 8, 9, 1000:
        with fails(errno.EINVAL):
            model.region(index)
    assert [model.traps(index) for index in range(6)] == [True, False, False, False, False, False]


def test_groups_of_an_iommufd_go_with_their_last_device() -> None:
    kernel = mock.Kernel("amd")
    for name in NAME, "0000:00:0b.0":
        mock.Device(
            kernel,
            name,
            function=FUNCTION,
            driver="vfio-pci",
            group=kernel.devices[NAME].group if name != NAME else None,
        )
    number = kernel.devices[NAME].group.number
    with pyvfio.address_space("iommufd", kernel=kernel) as space:
        first, second = space.attach(NAME), space.attach("0000:00:0b.0")
        context: Any = next(file for file in kernel.files.values() if file.kind == "iommufd")
        assert context.groups[number].devices == 2
        first.close()
        assert context.groups[number].devices == 1
        second.close()
        assert context.groups == {}


@pytest.mark.parametrize("name", ["pread", "pwrite", "read", "write"])
def test_transfers_are_those_of_the_file(kernel: mock.Kernel, name: str) -> None:
    calls: list[tuple[Any, ...]] = []

    class Recorder(File):
        kind = "device"

        def descriptor(self) -> int:
            return os.open("/dev/null", os.O_RDWR)

        def read(self, size: int) -> bytes:
            calls.append(("read", size))
            return b"r" * size

        def write(self, data: bytes) -> int:
            calls.append(("write", data))
            return len(data)

        def pread(self, size: int, offset: int) -> bytes:
            calls.append(("pread", size, offset))
            return b"p" * size

        def pwrite(self, data: bytes, offset: int) -> int:
            calls.append(("pwrite", data, offset))
            return len(data)

    fd = kernel.install(Recorder(kernel))
    arguments: tuple[Any, ...] = {"read": (8,), "write": (b"12345678",), "pread": (8, 5), "pwrite": (b"12345678", 5)}[
        name
    ]
    call = getattr(kernel, name)
    whole = call(fd, *arguments)
    assert whole == {"read": b"r" * 8, "write": 8, "pread": b"p" * 8, "pwrite": 8}[name]
    kernel.failures.shorten(3, call=name)
    short = call(fd, *arguments)
    assert short == {"read": b"r" * 3, "write": 3, "pread": b"p" * 3, "pwrite": 3}[name]
    kernel.failures.fail(errno.EIO, call=name)
    with fails(errno.EIO):
        call(fd, *arguments)
    cut = tuple(one[:3] if isinstance(one, bytes) else one for one in arguments)
    expected = (3, *arguments[1:]) if isinstance(arguments[0], int) else cut
    assert calls == [(name, *arguments), (name, *expected)]
    kernel.close(fd)


# --- single facts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "number"), [(OSError(errno.ENFILE, "x"), errno.ENFILE), (OSError("no number"), errno.EMFILE)]
)
def test_an_error_of_the_process_is_one_of_the_mock(error: OSError, number: int) -> None:
    def fail() -> None:
        raise error

    with fails(number), descriptors():
        fail()


def test_a_reset_in_d3hot_restores_configuration_space(kernel: mock.Kernel) -> None:
    function = mock.Function((0x1234, 0x11E8), express=True, power_management=True, resets=True, flr=True)
    model = mock.Device(kernel, NAME, function=function, driver="vfio-pci")
    with pyvfio.open(NAME, kernel=kernel) as device:
        express = device.config.capability("Express")
        assert express is not None
        control = express.offset + 8
        device.config.write16(control, 0x0005)
        device.config.write16(model.config.power_control, 3)
        device.config.write16(control, 0x000A)  # what is written in D3hot is lost when the device leaves it
        assert (model.sleeps, device.config.read16(control)) == (True, 0x000A)
        device.reset()
        assert (model.sleeps, device.config.read16(control)) == (False, 0x0005)


def test_the_stream_of_a_closed_vfio_mock_is_enodev(kernel: mock.Kernel) -> None:
    model: Any = kernel.devices["vfio-mock.0"]
    device = pyvfio.open("vfio-mock.0", kernel=kernel)
    device.migration.state = pyvfio.migration.State.STOP_COPY
    session = model.states.session
    assert len(session.read(64)) == 64
    device.close()
    assert (session.ended, model.states.session, model.states.state) == (True, None, 2)
    with fails(errno.ENODEV):
        session.read(1)
