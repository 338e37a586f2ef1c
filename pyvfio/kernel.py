# SPDX-License-Identifier: MIT
"""Access to the operating system, which a mock can replace.

pyvfio makes every system call through a :class:`Kernel`. Its :meth:`~Kernel.door` is a C struct, `pyvfio_door`, with the function
that makes ioctls, which the native code calls too; its other methods open, read, write and so on. :class:`LinuxKernel` is the real
one. :class:`PythonKernel` answers ioctls in Python, and is the base class of mocks.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import mmap as _mmap
import os
import resource
import select
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Concatenate, Generic, NamedTuple, ParamSpec, TypeVar, overload

from pyvfio import _buffer
from pyvfio._abi import ffi, lib
from pyvfio._buffer import Door
from pyvfio._buffer import pinned as _pinned
from pyvfio._core.weak import WeakTable
from pyvfio.process_memory import Backing, backing

__all__ = ["Kernel", "LinuxKernel", "PythonKernel", "SysfsDevice", "UdevMonitor", "as_default", "default", "resolve"]

_P = ParamSpec("_P")
_T = TypeVar("_T")

_MAP_NORESERVE = 0x4000
_MADV_WIPEONFORK = 18

#: memory that a forked child must not share -> its address, its size, and whether MADV_DONTFORK leaves a hole in the child
_not_for_children: WeakTable[_mmap.mmap, tuple[int, int, bool]] = WeakTable()
#: in a forked child: memory objects that must never be unmapped, since other memory is at their addresses
_kept: list[_mmap.mmap] = []


#: the number of pidfd_getfd(2) on every machine
_PIDFD_GETFD = 438


def _check_length(size: int) -> None:
    """Raise the errno of mmap(2) for a size that mmap.mmap refuses with OverflowError or ValueError."""
    if size <= 0 or size > sys.maxsize:
        number = errno.EINVAL if size <= 0 else errno.ENOMEM
        raise OSError(number, os.strerror(number))


def _check_private(found: os.stat_result, path: str, is_kind: Callable[[int], bool]) -> None:
    """Refuse a file that another user could have made or could change."""
    if not is_kind(found.st_mode):
        raise PermissionError(errno.EPERM, "not a plain file or directory", path)
    if found.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, f"it belongs to user {found.st_uid}, not to user {os.geteuid()}", path)
    if found.st_mode & 0o022:
        raise PermissionError(errno.EPERM, f"others may write to it (mode {found.st_mode & 0o777:03o})", path)


class SysfsDevice(NamedTuple):
    """One device as sysfs shows it."""

    subsystem: str
    name: str
    path: str
    properties: Mapping[str, str]


class UdevMonitor:
    """A monitor of uevents: those of udev, or the kernel's where udevd does not run."""

    def __init__(self) -> None:
        import pyudev

        source = "udev" if os.path.exists("/run/udev/control") else "kernel"
        self._monitor = pyudev.Monitor.from_netlink(pyudev.Context(), source=source)
        self._monitor.start()

    def fileno(self) -> int:
        """Return the descriptor of the monitor, readable when there is an event."""
        return int(self._monitor.fileno())

    def poll(self, timeout: float | None) -> tuple[str, SysfsDevice] | None:
        """Return the next action and its device; None when `timeout` seconds have passed.

        :param timeout: seconds; None waits without limit
        """
        device = self._monitor.poll(timeout)
        if device is None:
            return None
        found = SysfsDevice(device.subsystem or "", device.sys_name, device.sys_path, dict(device.properties))
        return device.action or "", found

    def close(self) -> None:
        """Close the monitor."""
        del self._monitor  # libudev closes its descriptor


class Kernel:
    """The operating system that pyvfio runs on; the methods here are Linux's own."""

    #: the kernel's name, as in `PYVFIO_KERNEL`; shown in every repr unless it is `linux`
    name = "linux"
    #: the address of its device, for a kernel that exists for a single device (`vfio-user:PATH`); else None
    address: str | None = None

    def door(self, fd: int, kind: str) -> Any:
        """Return a new `pyvfio_door` for a descriptor; `kind` is one of the kinds of :mod:`pyvfio.abi`.

        :param fd: the descriptor
        :param kind: `container`, `group`, `device`, `iommufd`, ...: the keys of :mod:`pyvfio.abi`
        """
        raise NotImplementedError

    # Files.

    def open(self, path: str, flags: int = os.O_RDWR | os.O_CLOEXEC) -> int:
        """open(2).

        :param path: the path of the file
        :param flags: O_*
        """
        return os.open(path, flags)

    def close(self, fd: int) -> None:
        """close(2).

        :param fd: the descriptor
        """
        os.close(fd)

    def read(self, fd: int, size: int) -> bytes:
        """read(2).

        :param fd: the descriptor
        :param size: the most bytes to return
        """
        return os.read(fd, size)

    def write(self, fd: int, data: Any) -> int:
        """write(2).

        :param fd: the descriptor
        :param data: a buffer of bytes
        """
        return os.write(fd, data)

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """pread(2).

        :param fd: the descriptor
        :param size: the most bytes to return
        :param offset: bytes from the start of the file
        """
        return os.pread(fd, size, offset)

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        """pwrite(2).

        :param fd: the descriptor
        :param data: a buffer of bytes
        :param offset: bytes from the start of the file
        """
        return os.pwrite(fd, data, offset)

    def poll(self, fd: int, events: int, timeout: float | None) -> int:
        """Return the events that are ready, or 0 after `timeout` seconds; None waits without limit. poll(2).

        :param fd: the descriptor
        :param events: POLL* of the select module
        :param timeout: seconds, rounded to milliseconds
        """
        poll = select.poll()
        poll.register(fd, events)
        ready = poll.poll(None if timeout is None else max(0, timeout) * 1000)
        return ready[0][1] if ready else 0

    def poll_with_waker(self, fd: int, events: int, timeout: float | None, waker: int) -> int:
        """Wait as :meth:`poll` does, but return 0 as soon as the descriptor `waker` is readable.

        :param fd: the descriptor
        :param events: POLL* of the select module
        :param timeout: seconds; None waits without limit
        :param waker: the descriptor that ends the wait
        """
        if type(self).poll is not Kernel.poll:
            return self.poll(fd, events, timeout)
        poll = select.poll()
        poll.register(waker, select.POLLIN)
        poll.register(fd, events)
        ready = dict(poll.poll(None if timeout is None else max(0, timeout) * 1000))
        return 0 if waker in ready else ready.get(fd, 0)

    def eventfd(self, initial: int = 0, flags: int = 0) -> int:
        """eventfd(2), closed on exec.

        :param initial: the first count
        :param flags: EFD_* of the os module
        """
        return os.eventfd(initial, flags | os.EFD_CLOEXEC)

    def wait(self, eventfd: int, timeout: float | None) -> int:
        """Wait until an eventfd (EFD_NONBLOCK) is signalled, and return its count; 0 when `timeout` seconds passed. None waits for ever.

        :param eventfd: the descriptor of the eventfd
        :param timeout: seconds; 0 does not wait
        """
        count = lib.pyvfio_wait(eventfd, 0)
        if not count and timeout != 0:
            last = None if timeout is None else time.monotonic() + timeout
            while (count := lib.pyvfio_wait(eventfd, -1 if timeout is None else max(0, timeout))) == -errno.EINTR:
                if last is not None:
                    timeout = last - time.monotonic()
        if count < 0:
            raise OSError(-count, os.strerror(-count))
        return count

    # Memory.

    def mmap(self, fd: int, size: int, *, offset: int, prot: int) -> _mmap.mmap:
        """Map a descriptor's memory, shared. `close()` unmaps it, or the end of the last reference to it.

        :param fd: the descriptor
        :param size: bytes
        :param offset: bytes from the start of the file, a multiple of the page size
        :param prot: PROT_* of the mmap module
        :raises OSError: as mmap(2), whatever the size and the offset are: EINVAL for no size or an offset that is not a
            multiple of the page size, ENOMEM for more than the address space has, EOVERFLOW for an offset past 2^63
        """
        _check_length(size)
        if not 0 <= offset < 1 << 63:
            raise OSError(errno.EOVERFLOW, os.strerror(errno.EOVERFLOW))
        # mmap.mmap(fd, ...) cannot be used: before Python 3.13 it keeps a duplicate of the device's descriptor open; with
        # trackfd=False it keeps none, but compares the size with the file's and raises ValueError. So mmap.mmap first makes
        # anonymous memory, and pyvfio_map_over replaces it with the descriptor's.
        memory = _mmap.mmap(-1, size, flags=_mmap.MAP_PRIVATE | _mmap.MAP_ANONYMOUS | _MAP_NORESERVE, prot=prot)
        address = _pinned(memory, False)[0]
        if error := lib.pyvfio_map_over(ffi.cast("void *", address), size, prot, fd, offset):
            memory.close()
            raise OSError(-error, os.strerror(-error))
        _not_for_children[memory] = address, size, False
        return memory

    def traps(self, fd: int, offset: int) -> bool:
        """Whether accesses at an offset of a descriptor reach a model in this process, so that no memory can be mapped there.

        :param fd: the descriptor
        :param offset: bytes from the start of the file
        """
        return False

    def memory(self, size: int, *, huge: int | None = None) -> _mmap.mmap:
        """New private memory that a forked child does not see; `huge` asks for huge pages of that size.

        :param size: bytes
        :param huge: bytes of a huge page; None for ordinary pages
        :raises OSError: as mmap(2): ENOMEM for more than there is, or than the address space has
        """
        _check_length(size)
        flags = _mmap.MAP_PRIVATE | _mmap.MAP_ANONYMOUS
        if huge is not None:
            # MAP_HUGETLB, and log2 of the page size from bit 26 (MAP_HUGE_SHIFT) on.
            flags |= 0x40000 | (huge.bit_length() - 1) << 26
            flags -= flags >> 31 << 32  # Python's mmap takes a signed int
        memory = _mmap.mmap(-1, size, flags=flags)
        if huge is None:
            # A forked child gets new zeroed pages. The pages that devices access stay with the parent, and are never copied on write.
            memory.madvise(_MADV_WIPEONFORK)
        else:
            # MADV_WIPEONFORK fails with EINVAL for huge pages. MADV_DONTFORK leaves a hole in the child, which _after_fork() fills.
            memory.madvise(_mmap.MADV_DONTFORK)
            _not_for_children[memory] = _pinned(memory, False)[0], size, True
        return memory

    def backing(self, address: int, size: int) -> tuple[Backing, ...]:
        """Return the areas that are mapped at addresses of this process: see :func:`pyvfio.process_memory.backing`.

        :param address: virtual, in this process
        :param size: bytes
        """
        return backing(address, size)

    def take_descriptor(self, pid: int, number: int) -> int:
        """Return a descriptor of this process for a file that another process has open. pidfd_getfd(2), since Linux 5.6.

        :param pid: the other process
        :param number: the descriptor there
        :raises OSError: EPERM, this process may not trace that one; EBADF, it has no such descriptor; ESRCH, there is no such process
        """
        import ctypes

        process = os.pidfd_open(pid)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            taken = int(libc.syscall(_PIDFD_GETFD, process, number, 0))
            error = ctypes.get_errno()
        finally:
            os.close(process)
        if taken < 0:
            raise OSError(error, f"pidfd_getfd of descriptor {number} of process {pid}: {os.strerror(error)}")
        return taken

    # sysfs and procfs.

    def exists(self, path: str) -> bool:
        """Whether a file exists, with links followed.

        :param path: absolute
        """
        return os.path.exists(path)

    def listdir(self, path: str) -> list[str]:
        """Return the names in a directory, in any order.

        :param path: the path of the directory
        """
        return os.listdir(path)

    def readlink(self, path: str) -> str:
        """Return the target of a link, as it is written.

        :param path: the path of the link
        """
        return os.readlink(path)

    def realpath(self, path: str) -> str:
        """Return the path with all links followed.

        :param path: absolute
        """
        return os.path.realpath(path)

    def read_file(self, path: str) -> bytes:
        """Return the content of a file.

        :param path: the path of the file
        """
        with open(path, "rb", buffering=0) as file:
            return file.read()

    def owner(self, path: str) -> tuple[int, int, int]:
        """Return the user, the group and the permission bits of a file.

        :param path: the path of the file
        """
        found = os.stat(path)
        return found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)

    def device_number(self, path: str) -> str | None:
        """Return the number of a device node, as under /sys/dev: `char/4:64`, `block/8:0`; None for other files, or if it is unknown.

        :param path: the path of the node
        """
        return None

    def claimed(self, path: str) -> bool:
        """Whether a block device is held exclusively, by the kernel or a process: open(2) with O_EXCL would be refused. False if unknown.

        :param path: the path of the node
        """
        return False

    def write_file(self, path: str, data: bytes) -> None:
        """Write a file of sysfs, by one write(2).

        :param path: the path of the file
        :param data: the whole content of the file
        :raises OSError: EIO: only a part was taken
        """
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            # sysfs takes each write(2) as a complete command.
            written = os.write(fd, data)
        finally:
            os.close(fd)
        if written != len(data):
            raise OSError(errno.EIO, f"wrote {written} of {len(data)} bytes", path)

    # Limits.

    def getrlimit(self, which: int) -> tuple[int, int]:
        """Return the soft and the hard limit of this process, as getrlimit(2) does; `which` is one of the resource module's RLIMIT_*.

        :param which: RLIMIT_* of the resource module
        """
        return resource.getrlimit(which)

    # Files that programs share: pyvfio's journal of changed bindings.

    def create(self, path: str) -> int:
        """Open a file for reading and writing; create it and its directory if they are missing, with access for this user only.

        :param path: the path of the file
        :raises OSError: EPERM, the directory or the file is a link or of the wrong kind, belongs to another user, or others may write
            to it
        """
        directory, name = os.path.split(path)
        os.makedirs(directory, mode=0o700, exist_ok=True)
        above = os.open(directory, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_DIRECTORY)
        try:
            _check_private(os.fstat(above), directory, stat.S_ISDIR)
            # O_NONBLOCK: if the path is a FIFO, do not wait for another process to open it.
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            fd = os.open(name, flags, 0o600, dir_fd=above)
        finally:
            os.close(above)
        try:
            _check_private(os.fstat(fd), path, stat.S_ISREG)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def is_at(self, fd: int, path: str) -> bool:
        """Whether a path still names the file that a descriptor has open.

        :param fd: the descriptor
        :param path: a path that may name another file by now
        """
        try:
            return os.path.samestat(os.fstat(fd), os.lstat(path))
        except FileNotFoundError:
            return False

    def chown(self, path: str, user: int, group: int) -> None:
        """chown(2).

        :param path: the path of the file
        :param user: a user's number
        :param group: a group's number
        """
        os.chown(path, user, group)

    def unlink(self, path: str) -> None:
        """unlink(2).

        :param path: the path of the file
        """
        os.unlink(path)

    def flock(self, fd: int, operation: int) -> None:
        """flock(2); `operation` of the fcntl module's LOCK_*.

        :param fd: the descriptor
        :param operation: LOCK_* of the fcntl module
        """
        import fcntl

        fcntl.flock(fd, operation)

    def truncate(self, fd: int, size: int) -> None:
        """ftruncate(2).

        :param fd: the descriptor
        :param size: bytes that the file has afterwards
        """
        os.truncate(fd, size)

    # udev.

    def udev_devices(self, **match: str) -> Iterator[SysfsDevice]:
        """Yield the devices that udev enumerates.

        :param match: the properties that devices must have, as for pyudev: `subsystem="pci"`
        """
        for device in _udev().list_devices(**match):
            yield SysfsDevice(device.subsystem or "", device.sys_name, device.sys_path, device.properties)

    def udev_monitor(self) -> UdevMonitor:
        """Return a monitor of the changes to devices from now on."""
        return UdevMonitor()


_thread = threading.local()


def _udev() -> Any:
    """Return the libudev context of this thread. Threads cannot share one, and creating one starts a process that looks for libudev."""
    import pyudev

    if not hasattr(_thread, "context"):
        _thread.context = pyudev.Context()
    return _thread.context


# A pointer, since cffi before 1.17 does not accept the function itself as the value of a struct's field.
_linux_ioctl = ffi.addressof(lib, "pyvfio_linux_ioctl")
#: the C function that makes ioctls in the doors of a PythonKernel
python_ioctl = ffi.cast("int (*)(void *, int, unsigned long, void *)", _buffer.PYTHON_IOCTL)


class LinuxKernel(Kernel):
    """The real kernel."""

    def door(self, fd: int, kind: str) -> Any:
        """Return a door whose ioctls are ioctl(2).

        :param fd: the descriptor
        :param kind: not used: all descriptors have the same door
        """
        return ffi.new("pyvfio_door *", (_linux_ioctl, ffi.NULL, fd))

    def device_number(self, path: str) -> str | None:
        """stat(2).

        :param path: the path of the node
        """
        try:
            found = os.stat(path)
        except OSError:
            return None
        kinds = {stat.S_IFCHR: "char", stat.S_IFBLK: "block"}
        kind = kinds.get(stat.S_IFMT(found.st_mode))
        return None if kind is None else f"{kind}/{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"

    def claimed(self, path: str) -> bool:
        """open(2) for reading with O_EXCL, and close(2).

        :param path: the path of the node
        """
        if not (self.device_number(path) or "").startswith("block/"):
            return False
        try:
            # O_NONBLOCK: opening an optical drive does not close its tray.
            os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError as error:
            return error.errno == errno.EBUSY
        return False

    def __repr__(self) -> str:
        return "LinuxKernel()"


class PythonKernel(Kernel):
    """A kernel whose ioctls are answered by a method; the base class of mocks."""

    def door(self, fd: int, kind: str) -> Any:
        """Return a door whose ioctls call :meth:`ioctl`.

        :param fd: the descriptor
        :param kind: not used: :meth:`ioctl` gets the descriptor
        """
        return ffi.new("pyvfio_door *", (python_ioctl, ffi.cast("void *", id(self)), fd))

    def ioctl(self, fd: int, request: int, argument: int) -> int:
        """Answer one ioctl; `argument` is the caller's address or number. Return the result of ioctl(2), or -errno.

        An exception reaches the caller. Requests of the main thread are answered in another thread: the program's signal handlers run
        in the main thread, and so do not interrupt a kernel.

        :param fd: the descriptor
        :param request: the number of the request
        :param argument: an address of the caller's memory, or a number
        """
        raise NotImplementedError


class uninterrupted(Generic[_P, _T]):
    """Decorator for a method of a PythonKernel that no signal handler interrupts; see :meth:`PythonKernel.ioctl`."""

    def __init__(self, method: Callable[Concatenate[Any, _P], _T]) -> None:
        self.__wrapped__ = method
        self.__doc__ = method.__doc__

    @overload
    def __get__(self, kernel: None, owner: type) -> Callable[Concatenate[Any, _P], _T]: ...
    @overload
    def __get__(self, kernel: object, owner: type) -> Callable[_P, _T]: ...
    def __get__(self, kernel: object, owner: type) -> Callable[..., _T]:
        # A partial, not a Python function: a signal handler that raises in a Python function would lose the result of the native
        # call, such as a new descriptor.
        return partial(_buffer.uninterrupted, self.__wrapped__, *(() if kernel is None else (kernel,)))


def new_door(kernel: Kernel) -> Door:
    """Return the owner of a descriptor that a kernel is about to return.

    For a LinuxKernel the owner calls close(2) in C, so that closing runs no Python code; for any other kernel it calls `kernel.close`.

    :param kernel: the kernel
    """
    return Door(None if type(kernel) is LinuxKernel else kernel)


def _after_fork() -> None:
    """In a forked child: replace the memory that the parent shares with devices by private memory."""
    for memory, (address, size, hole) in _not_for_children.items():
        if lib.pyvfio_map_nothing(ffi.cast("void *", address), size, hole):
            # Other memory is at the address by now. Keep the object for ever: unmapping it would unmap that memory.
            _kept.append(memory)


os.register_at_fork(before=_buffer.before_fork, after_in_child=_after_fork)
# When the interpreter ends, no other thread runs any more: the main thread itself then calls kernels made of Python.
atexit.register(_buffer.at_end)


def _resolve_linux(name: str) -> Kernel:
    if name != LinuxKernel.name:
        raise ValueError(f"no kernel is named {name!r}")
    return LinuxKernel()


#: returns the kernel of a name. pyvfio/__init__.py replaces it by :func:`pyvfio.kernels.named`, which also knows the mock: this module
#: cannot import the mock, since the mock imports this module
resolver: Callable[[str], Kernel] = _resolve_linux
_default: Kernel | None = None


def default() -> Kernel:
    """Return the kernel that objects use when they are given none: the real one, or the one that `PYVFIO_KERNEL` names."""
    global _default
    if _default is None:
        name = os.environ.get("PYVFIO_KERNEL")
        try:
            _default = resolver(name) if name else LinuxKernel()
        except ValueError as error:
            raise ValueError(f"PYVFIO_KERNEL: {error}") from None
    return _default


@contextlib.contextmanager
def as_default(kernel: Kernel | str) -> Iterator[Kernel]:
    """Make a kernel the default while the block runs, in all threads. Code that passes no `kernel=` then uses it, such as code under test.

    ::

        with pyvfio.kernel.as_default(pyvfio.mock.Kernel("amd")):
            program.main()  # its pyvfio.open("0000:00:03.0") opens the mock's device

    :param kernel: a kernel, or its name, as in `PYVFIO_KERNEL`
    """
    global _default
    before, _default = _default, resolve(kernel)
    try:
        yield _default
    finally:
        _default = before


def resolve(kernel: Kernel | str | None) -> Kernel:
    """Return the kernel that an argument `kernel=` means: a Kernel as it is, the kernel of a name, the default for None.

    :param kernel: a kernel, its name, or None
    """
    if kernel is None:
        return default()
    if isinstance(kernel, str):
        return resolver(kernel)
    if not hasattr(kernel, "door"):  # a proxy in front of a kernel will do
        raise TypeError(f"kernel must be a pyvfio.Kernel, its name or None, not {type(kernel).__name__}")
    return kernel
