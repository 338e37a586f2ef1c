# SPDX-License-Identifier: MIT
"""The mock's Kernel object: descriptors, paths, and the dispatch of system calls to files."""

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
#: numbers of the capabilities that ioctls check
_CAPABILITIES = {"CAP_SYS_RAWIO": 17, "CAP_SYS_RESOURCE": 24}

_live: WeakTable[Kernel, None] = WeakTable()


def _after_fork() -> None:
    # Another thread, which does not exist in the child, may have held the lock.
    for kernel in _live:
        kernel.lock._at_fork_reinit()  # type: ignore[attr-defined]  # typeshed leaves it out; threading itself calls it


os.register_at_fork(after_in_child=_after_fork)


class Kernel(PythonKernel):
    """A kernel in this process: no root, no hardware, no module.

    Pass it to everything that takes `kernel=`, or name it in the environment: `PYVFIO_KERNEL=mock:amd`.

    :param which: name of a profile: `intel-39`, `amd`, `mlx5`, ...; "Test your driver" lists them
    :param fields: fields of :class:`pyvfio.mock.Profile` to replace
    :ivar tree: the files, by path
    :ivar files: descriptor -> open file
    :ivar devices: name -> device of the host; `groups`: number -> IOMMU group
    :ivar host: groups, drivers and devices, and their bindings
    :ivar locked: the count of memory that type1 has pinned, with its limit; `locked_by_user`: that of iommufd, which
        counts separately
    :ivar pins: number of pages that iommufd has pinned, also without a limit; a page counts once for each pin
    :ivar watcher: runs callbacks when the caller's eventfds are signalled
    :ivar faults: DMA accesses of devices that the IOMMU blocked
    :ivar dma_without_bus_master: DMA accesses that devices did not issue, because their bus master bit was clear
    :ivar dma_entry_limit: maximum number of mappings of a type1 container; a change applies from the next
        VFIO_SET_IOMMU on
    :ivar unsafe_interrupts: module -> its parameter allow_unsafe_interrupts
    :ivar physical: the memory that devices reach on a host without an IOMMU; None on other hosts
    :ivar failures: the planned failures, a :class:`pyvfio.mock.Failures`
    :ivar capabilities: the caller's capabilities, of those that ioctls check
    :ivar owners: path -> user and group set by :meth:`chown`
    :ivar lock: held while an ioctl runs; a thread of a device holds it while it uses anything shared
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
        self.pins = 0
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
        """Set RLIMIT_MEMLOCK.

        :param size: bytes; None: give the caller CAP_IPC_LOCK, so that the limit does not apply
        """
        self.locked.limit = self.locked_by_user.limit = size

    def check_raw_io(self, group: Group) -> None:
        """Check that the caller may use a group: one without an IOMMU requires CAP_SYS_RAWIO.

        :param group: the IOMMU group
        :raises Errno: EPERM
        """
        if group.no_iommu and "CAP_SYS_RAWIO" not in self.capabilities:
            raise Errno(errno.EPERM)

    def check_isolated(self, module: str) -> None:
        """Check that the host remaps interrupts, or that the module's allow_unsafe_interrupts is set.

        :param module: `vfio_iommu_type1` or `iommufd`
        :raises Errno: EPERM
        """
        if not self.profile.isolated and not self.unsafe_interrupts[module].value:
            raise Errno(errno.EPERM)

    # Limits and status of the caller.

    def getrlimit(self, which: int) -> tuple[int, int]:
        """Return a limit of the profile, or that of the process if the profile has none.

        :param which: RLIMIT_* of the resource module
        """
        limit = {resource.RLIMIT_MEMLOCK: self.locked.limit, resource.RLIMIT_NOFILE: self.profile.descriptors}.get(
            which
        )
        if limit is None:
            return super().getrlimit(which)
        return limit, limit

    def _status(self) -> bytes:
        """Return the lines of /proc/self/status: VmLck is type1's count of locked memory, VmPin iommufd's."""
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
        """Return a descriptor for a new file; it takes over the file's first reference.

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
        """Return the file of a caller's descriptor; None if it is not of class `kind`.

        :param fd: the descriptor
        :param kind: the class of the file
        :raises Errno: EBADF, the descriptor is not open
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
        """Return the device whose region is mapped in a range of the caller's memory; None without one.

        The kernel has no struct page for such memory (VM_PFNMAP).

        :param address: virtual address in this process
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
        """Return the number of bytes that a transfer may move."""
        return self.failures.check(call, file.kind, size=size) or 0

    def memory(self, size: int, *, huge: int | None = None) -> _mmap.mmap:
        # Use normal pages even for `huge`: the real kernel may have no huge pages.
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
        """Return user, group and mode: root and 0600; 0666 for /dev/vfio/vfio, which alone gives access to no device.

        :param path: path of the file
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
        """Open a regular file in memory, and create it if needed; it exists as long as this kernel."""
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
        """Record the owner in :attr:`owners`. The mock does not check it at open."""
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
    """A region of a device, mapped in the caller's memory."""

    device: Device
    memory: ref[_mmap.mmap]


class _Memory:
    """A regular file: all opens share the memory, but each has its own offset and lock."""

    def __init__(self, name: str) -> None:
        self._fd = os.memfd_create(os.path.basename(name), os.MFD_CLOEXEC)

    def open(self, flags: int) -> int:
        return os.open(f"/proc/self/fd/{self._fd}", flags | os.O_CLOEXEC)

    def content(self) -> bytes:
        return os.pread(self._fd, os.fstat(self._fd).st_size, 0)

    def __del__(self) -> None:
        os.close(self._fd)


class _raised:
    """Convert Errno to OSError."""

    def __init__(self, path: str | None = None) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Errno):
            if self._path is not None:
                raise os_error(error, self._path) from None
            raise OSError(error.number, os.strerror(error.number)) from None
