# SPDX-License-Identifier: MIT
"""The kernel itself: descriptors, paths, and the way of a request to its file."""

from __future__ import annotations

import errno
import fcntl
import mmap as _mmap
import os
import resource
import sys
from collections.abc import Iterator
from threading import RLock
from typing import Any, NamedTuple
from weakref import ref

from pyvfio._core import arguments
from pyvfio._core.weak import WeakTable
from pyvfio.kernel import PythonKernel, SysfsDevice, UdevMonitor, uninterrupted
from pyvfio.memory import address_of
from pyvfio.mock.fs.tree import Link, Special, Text, Tree, os_error
from pyvfio.mock.host import topology
from pyvfio.mock.host.host import Host
from pyvfio.mock.machine import ioctl_names
from pyvfio.mock.machine.errno import Errno, descriptors
from pyvfio.mock.machine.eventfd import Watcher
from pyvfio.mock.machine.failures import Failures
from pyvfio.mock.machine.file import File
from pyvfio.mock.machine.memlock import Memlock
from pyvfio.mock.machine.parameter import Flag, Parameter
from pyvfio.mock.machine.physical import PhysicalMemory
from pyvfio.mock.machine.profile import Profile, profile
from pyvfio.mock.vfio.device import Device
from pyvfio.mock.vfio.device_file import DeviceFile
from pyvfio.mock.vfio.dma_fault import DmaFault
from pyvfio.mock.vfio.group import Group
from pyvfio.process_memory import Backing

_CAP_IPC_LOCK = 1 << 14
#: the numbers of the capabilities that requests ask for
_CAPABILITIES = {"CAP_SYS_RAWIO": 17, "CAP_SYS_RESOURCE": 24}

_live: WeakTable[Kernel, None] = WeakTable()


def _after_fork() -> None:
    # Another thread, which the child does not have, may have held it.
    for kernel in _live:
        kernel.lock._at_fork_reinit()  # type: ignore[attr-defined]  # typeshed leaves it out; threading itself calls it


os.register_at_fork(after_in_child=_after_fork)


class Kernel(PythonKernel):
    """A kernel in this process: no root, no hardware, no module.

    Give it to everything that takes `kernel=`, or name it in the environment: `PYVFIO_KERNEL=mock:amd`.

    :param which: a profile's name, `intel-39`, `amd`, `mlx5`, ...; "Test your driver" lists them
    :param fields: fields of :class:`pyvfio.mock.Profile` that differ from it
    :ivar tree: its files by path
    :ivar files: descriptor -> what it refers to
    :ivar devices: name -> each device of the host; `groups`: number -> each IOMMU group
    :ivar host: groups, drivers and devices, and how they are bound
    :ivar locked: the memory that type1 has pinned, and its limit; `locked_by_user`: what iommufd has, which is counted apart
    :ivar watcher: what acts when eventfds of the caller's are signalled
    :ivar faults: what devices wanted of memory and their IOMMU did not let through
    :ivar dma_without_bus_master: what devices wanted of memory while their bus master bit was clear, so that no access was made
    :ivar dma_entry_limit: the most mappings of a type1 container, from its VFIO_SET_IOMMU on
    :ivar unsafe_interrupts: the modules' parameters allow_unsafe_interrupts
    :ivar physical: the memory that devices without an IOMMU reach; None where they all have one
    :ivar failures: the calls that are to fail, a :class:`pyvfio.mock.Failures`
    :ivar capabilities: what the caller may, of what requests ask for
    :ivar owners: path -> the user and the group that it was given to
    :ivar lock: held while a request runs, and by what runs by itself (a device's engine) while it touches anything shared
    """

    def __init__(self, which: str = "intel-39", **fields: Any) -> None:
        super().__init__()
        self.profile: Profile = profile(arguments.string(which, "which"), **fields)
        self.name = f"mock:{self.profile.name}"
        self.tree = Tree()
        self.files: dict[int, File] = {}
        self.devices: dict[str, Device] = {}
        self.groups: dict[int, Group] = {}
        self.lock = RLock()
        self.failures = Failures()
        self.capabilities = {"CAP_SYS_RAWIO", "CAP_SYS_RESOURCE"}
        self.locked = Memlock(self.profile.memlock, self.profile.page_size)
        self.locked_by_user = Memlock(self.profile.memlock, self.profile.page_size)
        self.watcher = Watcher(self.lock)
        _live[self] = None
        self.faults: list[DmaFault] = []
        self.owners: dict[str, tuple[int, int]] = {}
        self.dma_without_bus_master: list[DmaFault] = []
        self._device_memory: list[DeviceMemory] = []
        self.physical = PhysicalMemory(self.profile.page_size) if self.profile.iommu == "none" else None
        self.dma_entry_limit = Parameter(self.tree, "vfio_iommu_type1", "dma_entry_limit", self.profile.dma_entry_limit)
        self.unsafe_interrupts = {
            module: Flag(self.tree, module, "allow_unsafe_interrupts") for module in ("vfio_iommu_type1", "iommufd")
        }
        self.host = Host(self)
        topology.populate(self.host)
        self.tree.add("/proc/self/status", Text(self._status))

    def __repr__(self) -> str:
        return f"<{self.name}{'' if self.profile.compared else ', never compared with hardware'}>"

    def limit_memlock(self, size: int | None) -> None:
        """Set RLIMIT_MEMLOCK, in bytes; None for CAP_IPC_LOCK, which lifts it.

        :param size: bytes
        """
        self.locked.limit = self.locked_by_user.limit = size

    def check_raw_io(self, group: Group) -> None:
        """Whether the caller may have a device of a group, if all memory is open to it.

        :param group: the IOMMU group
        :raises Errno: EPERM
        """
        if group.no_iommu and "CAP_SYS_RAWIO" not in self.capabilities:
            raise Errno(errno.EPERM)

    def check_isolated(self, module: str) -> None:
        """Whether the host keeps a device's interrupts apart, or that is waived for a module.

        :param module: `vfio_iommu_type1` or `iommufd`
        :raises Errno: EPERM
        """
        if not self.profile.isolated and not self.unsafe_interrupts[module].value:
            raise Errno(errno.EPERM)

    # What the caller may and has.

    def getrlimit(self, which: int) -> tuple[int, int]:
        """Return the profile's limits; those that it has none for are the process's own.

        :param which: RLIMIT_* of the resource module
        """
        limit = {resource.RLIMIT_MEMLOCK: self.locked.limit, resource.RLIMIT_NOFILE: self.profile.descriptors}.get(
            which
        )
        if limit is None:
            return super().getrlimit(which)
        return limit, limit

    def _status(self) -> bytes:
        """The lines of /proc/self/status about locked memory: type1 counts in VmLck, iommufd in VmPin."""
        capabilities = sum(1 << bit for name, bit in _CAPABILITIES.items() if name in self.capabilities)
        if self.locked.limit is None:
            capabilities |= _CAP_IPC_LOCK
        kib = self.profile.page_size >> 10
        lines = (
            f"VmLck:\t{self.locked.pages * kib:8} kB",
            f"VmPin:\t{self.locked_by_user.pages * kib:8} kB",
            f"CapEff:\t{capabilities:016x}",
        )
        return "".join(f"{line}\n" for line in lines).encode()

    # Descriptors.

    def install(self, file: File) -> int:
        """A descriptor for a new file, whose first reference it is.

        :param file: the file
        :raises Errno: EMFILE
        """
        limit = self.profile.descriptors
        if limit is not None and len(self.files) >= limit:
            raise Errno(errno.EMFILE)
        with descriptors():
            fd = file.descriptor()
        self.files[fd] = file
        self._show_open(fd, file)
        return fd

    def file(self, fd: int, kind: type[Any] = File) -> Any:
        """Return the file that a caller's descriptor refers to, if it is a `kind`; None if it is something else.

        :param fd: the descriptor
        :param kind: the class of the file
        :raises Errno: EBADF, it is not open
        """
        file = self.files.get(fd)
        if file is None:
            try:
                os.fstat(fd)
            except (OSError, OverflowError):
                raise Errno(errno.EBADF) from None
        return file if isinstance(file, kind) else None

    def ioctl(self, fd: int, request: int, argument: int) -> int:
        file = self.files.get(fd)
        if file is None:
            return -errno.EBADF
        with self.lock:
            try:
                if self.failures.planned:
                    self.failures.check(ioctl_names.name(file.kind, request), file.kind)
                return file.ioctl(request & 0xFFFFFFFF, argument)
            except Errno as error:
                return -error.number

    @uninterrupted
    def open(self, path: str, flags: int = os.O_RDWR | os.O_CLOEXEC) -> int:
        with self.lock:
            try:
                self.failures.check("open")
                fd = self.tree.special(path).open(flags)
            except Errno as error:
                raise os_error(error, path) from None
            if (file := self.files.get(fd)) is not None:
                file.target = path
                self._show_open(fd, file)
            return fd

    @uninterrupted
    def close(self, fd: int) -> None:
        with self.lock:
            file = self.files.pop(fd, None)
            self.tree.remove(f"/proc/{os.getpid()}/fd/{fd}")
            os.close(fd)
            if file is not None:
                file.drop()

    @uninterrupted
    def take_descriptor(self, pid: int, number: int) -> int:
        if pid != os.getpid():
            raise ProcessLookupError(
                errno.ESRCH, f"process {pid}: {os.strerror(errno.ESRCH)}; the mock is in one process"
            )
        with self.lock:
            file = self.files.get(number)
            taken = os.dup(number)
            if file is not None:
                file.hold()
                self.files[taken] = file
            return taken

    def read(self, fd: int, size: int) -> bytes:
        file = self.files.get(fd)
        if file is None:
            self.watcher.settle()
            return os.read(fd, size)
        with self.lock, _raised():
            return file.read(self._part("read", file, size))

    @uninterrupted
    def write(self, fd: int, data: Any) -> int:
        file = self.files.get(fd)
        if file is None:
            return os.write(fd, data)
        with self.lock, _raised():
            return file.write(bytes(data)[: self._part("write", file, len(data))])

    @uninterrupted
    def pread(self, fd: int, size: int, offset: int) -> bytes:
        file = self.files.get(fd)
        if file is None:
            return os.pread(fd, size, offset)
        with self.lock, _raised():
            return file.pread(self._part("pread", file, size), offset)

    @uninterrupted
    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        file = self.files.get(fd)
        if file is None:
            return os.pwrite(fd, data, offset)
        with self.lock, _raised():
            return file.pwrite(bytes(data)[: self._part("pwrite", file, len(data))], offset)

    @uninterrupted
    def mmap(self, fd: int, size: int, *, offset: int, prot: int) -> _mmap.mmap:
        file = self.files.get(fd)
        if file is not None:
            with self.lock, _raised():
                self.failures.check("mmap", file.kind)
                file.check_mmap(size, offset, prot)
        memory = super().mmap(fd, size, offset=offset, prot=prot)
        if file is not None:
            file.mapped(memory, offset)
            if isinstance(file, DeviceFile):
                self._device_memory = [known for known in self._device_memory if known.memory() is not None]
                self._device_memory.append(DeviceMemory(file.device, ref(memory)))
        return memory

    def traps(self, fd: int, offset: int) -> bool:
        file = self.files.get(fd)
        return isinstance(file, DeviceFile) and file.traps(offset)

    def backing(self, address: int, size: int) -> tuple[Backing, ...]:
        return tuple(
            area._replace(path="anon_inode:[vfio-device]", size=None, free=None)
            if self.device_memory(area.start, area.last - area.start + 1)
            else area
            for area in super().backing(address, size)
        )

    def device_memory(self, address: int, size: int) -> Device | None:
        """The device whose region is mapped at some of these addresses of the caller's (VM_PFNMAP: the kernel has no pages for it).

        :param address: virtual, in this process
        :param size: bytes
        """
        for known in self._device_memory:
            memory = known.memory()
            if memory is not None and not memory.closed:
                start = address_of(memory)
                if start < address + size and address < start + len(memory):
                    return known.device
        return None

    def _part(self, call: str, file: File, size: int) -> int:
        """Return the bytes of a transfer that are to be moved."""
        return self.failures.check(call, file.kind, size=size) or 0

    def memory(self, size: int, *, huge: int | None = None) -> _mmap.mmap:
        # Its huge pages are its own: the process's real kernel need not have any.
        return super().memory(size)

    def _show_open(self, fd: int, file: File) -> None:
        if file.target is not None:
            root = f"/proc/{os.getpid()}"
            self.tree.add(f"{root}/comm", Text(f"{os.path.basename(sys.executable)}\n".encode()))
            self.tree.add(f"{root}/fd/{fd}", Link(file.target))
            self.tree.add(f"{root}/fdinfo/{fd}", Text(file.fdinfo))

    # Paths.

    def exists(self, path: str) -> bool:
        return self.tree.exists(path)

    def listdir(self, path: str) -> list[str]:
        with _raised(path):
            return self.tree.listdir(path)

    def readlink(self, path: str) -> str:
        with _raised(path):
            return self.tree.readlink(path)

    def realpath(self, path: str) -> str:
        with _raised(path):
            return self.tree.realpath(path)

    def read_file(self, path: str) -> bytes:
        with _raised(path):
            return self.tree.read(path)

    def owner(self, path: str) -> tuple[int, int, int]:
        """Root's, and for root alone; but who may open /dev/vfio/vfio gets no device by that.

        :param path: of the file
        """
        with _raised(path):
            self.tree.realpath(path)
        return 0, 0, 0o666 if path == "/dev/vfio/vfio" else 0o600

    @uninterrupted
    def write_file(self, path: str, data: bytes) -> None:
        with self.lock, _raised(path):
            self.tree.write(path, data)

    @uninterrupted
    def create(self, path: str) -> int:
        """A file in memory, kept in the tree while the kernel lives."""
        with _raised(path):
            if not self.tree.exists(path):
                memory = _Memory(path)
                self.tree.add(path, Special(memory.open, memory.content))
            return self.tree.special(path).open(os.O_RDWR)

    def is_at(self, fd: int, path: str) -> bool:
        if not self.tree.exists(path):
            return False
        at = self.tree.special(path).open(os.O_RDONLY)
        try:
            return os.path.samestat(os.fstat(fd), os.fstat(at))
        finally:
            os.close(at)

    @uninterrupted
    def chown(self, path: str, user: int, group: int) -> None:
        """Note the owner in :attr:`owners`; the mock's nodes can be opened whoever owns them."""
        with _raised(path):
            if not self.tree.exists(path):
                raise Errno(errno.ENOENT)
        self.owners[path] = user, group

    def unlink(self, path: str) -> None:
        self.tree.remove(path)

    def flock(self, fd: int, operation: int) -> None:
        fcntl.flock(fd, operation)

    # udev.

    def udev_devices(self, **match: str) -> Iterator[SysfsDevice]:
        return self.host.udev_devices(match)

    @uninterrupted
    def udev_monitor(self) -> UdevMonitor:
        with self.lock:
            return self.host.uevents.listen(self)


class DeviceMemory(NamedTuple):
    """A mapping of a device's region in the caller's memory."""

    device: Device
    memory: ref[_mmap.mmap]


class _Memory:
    """A regular file: each open is a descriptor of the same memory, with an offset and a lock of its own."""

    def __init__(self, name: str) -> None:
        self._fd = os.memfd_create(os.path.basename(name), os.MFD_CLOEXEC)

    def open(self, flags: int) -> int:
        return os.open(f"/proc/self/fd/{self._fd}", flags | os.O_CLOEXEC)

    def content(self) -> bytes:
        return os.pread(self._fd, os.fstat(self._fd).st_size, 0)

    def __del__(self) -> None:
        os.close(self._fd)


class _raised:
    """Errno as OSError."""

    def __init__(self, path: str | None = None) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Errno):
            if self._path is not None:
                raise os_error(error, self._path) from None
            raise OSError(error.number, os.strerror(error.number)) from None
