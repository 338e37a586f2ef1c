# SPDX-License-Identifier: MIT
"""Replay traces on a kernel, by raw calls: `python -m tests.differential.replay TRACE ANSWERS` inside scripts/vm.

Values that differ between two runs on the same kernel are removed from the answers: addresses, descriptors, and fields
that a trace masks.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import mmap
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pyvfio import abi, host
from pyvfio._abi import ffi, lib
from pyvfio.kernel import Kernel, LinuxKernel
from tests.differential.steps import PAGE, READ_ONLY, WRITABLE, Answer, Episode, Step, load, save

#: Expected warnings of the kernel. It warns about calls that it allows: a mapping without permissions, and the end of a
#: selftest device whose dependent objects still exist (which no real device can have). It also warns about late timers
#: of emulated processors that get no processor time. The pattern has only file names: on a busy host the serial line
#: loses some characters of the functions' names.
WARNINGS = (
    r"WARNING: (drivers/iommu/(iommu\.c|generic_pt/.*/iommu_pt\.h|iommufd/(main\.c|hw_pagetable\.c|iommufd_private\.h))"
    r"|kernel/time/hrtimer\.c)"
)
#: Configuration spaces of the machine's devices, read from sysfs before they are bound. `stored` has registers (of PCI
#: Express and of error reporting) of which the devices store fewer bits than PCI requires: QEMU 7.2 has no masks of
#: uncorrectable errors.
SPACES = Path(__file__).parent / "spaces.json"
#: Name of the file beside the answers with :attr:`Replayer.left`.
LEFT = "left.json"
#: A number that is never an open descriptor.
CLOSED = 0x7FFF_0000
CAP_IPC_LOCK = 14
#: Capabilities that a trace can drop.
CAPABILITIES = {"CAP_SYS_RAWIO": 17, "CAP_SYS_RESOURCE": 24}
MAP_NORESERVE = 0x4000
#: Size of the address space that is reserved for the arena.
RESERVED = 1 << 45
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_MAP_FAILED = 2**64 - 1


class Arena:
    """The memory that a trace maps, and that contains its bitmaps."""

    def __init__(self) -> None:
        # Reserve the address space behind the arena, as far as a trace's mappings and transfers can reach: they must
        # not touch the process's other memory. Align the arena, so that decisions of the kernel that depend on
        # alignment are the same in every run.
        align = 1 << 21
        self._reserved = _libc.mmap(None, RESERVED, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if self._reserved == _MAP_FAILED:
            raise OSError(ctypes.get_errno(), "no room for an arena: is an earlier one still there?")
        self.address = -(-self._reserved // align) * align
        _libc.mprotect(self.address, WRITABLE + READ_ONLY, mmap.PROT_READ | mmap.PROT_WRITE)
        self.memory = ffi.buffer(ffi.cast("char *", self.address), WRITABLE + READ_ONLY)
        self.reset()
        # At the end of the arena, write a value that looks like the size of a struct, which would continue in
        # unreadable memory.
        self.memory[-4:] = (16).to_bytes(4, "little")
        _libc.mprotect(self.address + WRITABLE, READ_ONLY, mmap.PROT_READ)
        # A read-only page; it is written through another mapping of the same file.
        fd = os.memfd_create("read-only", os.MFD_CLOEXEC)
        os.truncate(fd, PAGE)
        self.scratch = mmap.mmap(fd, PAGE)
        self.read_only = _libc.mmap(None, PAGE, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        os.close(fd)

    def reset(self) -> None:
        self.memory[0:WRITABLE] = _PATTERN

    def close(self) -> None:
        """Release the memory.

        It must be released, because the address space of a process has room for four arenas only.
        """
        del self.memory
        _libc.munmap(self._reserved, RESERVED)
        _libc.munmap(self.read_only, PAGE)
        self.scratch.close()


# The arena's initial contents: every 8-byte word is different.
_PATTERN = b"".join((word * 0x9E3779B97F4A7C15 & 2**64 - 1).to_bytes(8, "little") for word in range(WRITABLE // 8))


class Replayer:
    """Replays episodes on a kernel, and keeps the descriptors and variables of the current episode.

    :param kernel: the kernel
    :param memlock: a function that sets the limit on locked memory in bytes; None removes it
    :param pinned: a function that returns the number of pages that the kernel has pinned
    :ivar left: the number of pages that stayed pinned, for each episode that left some
    """

    def __init__(self, kernel: Kernel, memlock: Callable[[int | None], None], pinned: Callable[[], int]) -> None:
        self.kernel = kernel
        self._set_memlock = memlock
        self._pinned = pinned
        self._episodes = 0
        self.left: dict[int, int] = {}
        self._arena = Arena()
        self._fds: dict[str, int] = {}
        self._kinds: dict[str, str] = {}
        self._doors: dict[str, Any] = {}
        self._variables: dict[str, int] = {}
        self._undo: list[Callable[[], None]] = []
        self._paths: dict[str, str] = {}
        self._keep: list[Any] = []

    def close(self) -> None:
        self._arena.close()

    def episode(self, steps: Episode) -> list[Answer]:
        """Execute the steps and return the answer to each. At the end, everything is closed and restored."""
        before = self._pinned()
        try:
            return [self.step(step) for step in steps]
        finally:
            for slot in reversed(list(self._fds)):
                self._close(slot)
            for undo in reversed(self._undo):
                undo()
            self._undo.clear()
            self._variables.clear()
            self._keep.clear()
            self._arena.reset()
            if pages := self._pinned() - before:
                self.left[self._episodes] = pages
            self._episodes += 1

    def step(self, step: Step) -> Answer:
        try:
            return getattr(self, f"_do_{step['do']}")(step)  # type: ignore[no-any-return]
        except OSError as error:
            return {"r": -(error.errno or errno.EIO)}

    # Descriptors.

    def _new(self, slot: str, fd: int, kind: str) -> None:
        self._close(slot)
        self._fds[slot] = fd
        self._kinds[slot] = kind
        self._doors[slot] = self.kernel.door(fd, kind)

    def _close(self, slot: str) -> None:
        fd = self._fds.pop(slot, None)
        self._doors.pop(slot, None)
        if fd is not None:
            self.kernel.close(fd)

    def _fd(self, slot: str) -> int:
        return self._fds.get(slot, CLOSED)

    def _do_open(self, step: Step) -> Answer:
        kind, _, name = step["what"].partition(":")
        path = {"container": "/dev/vfio/vfio", "iommufd": "/dev/iommu", "path": name}.get(kind) or self._path(
            kind, name
        )
        self._new(step["as"], self.kernel.open(path), "device" if kind == "cdev" else kind)
        return {"r": 0}

    def _path(self, kind: str, name: str) -> str:
        found = self._paths.get(f"{kind}:{name}")
        if found is None:
            root = f"/sys/bus/{'platform' if name.startswith('vfio-mock') else 'pci'}/devices/{name}"
            if kind == "group":
                number = self.kernel.readlink(f"{root}/iommu_group").rpartition("/")[2]
                found = next(
                    path for path in (f"/dev/vfio/{number}", f"/dev/vfio/noiommu-{number}") if self.kernel.exists(path)
                )
            else:
                found = "/dev/vfio/devices/" + self.kernel.listdir(f"{root}/vfio-dev")[0]
            self._paths[f"{kind}:{name}"] = found
        return found

    def _do_close(self, step: Step) -> Answer:
        self._close(step["slot"])
        return {"r": 0}

    # ioctls.

    def _do_ioctl(self, step: Step) -> Answer:
        slot = step["slot"]
        door = self._doors.get(slot)
        if door is None:
            door = self.kernel.door(CLOSED, self._kinds.get(slot, "container"))
        request = step["request"]
        number = request if isinstance(request, int) else abi.number(request)
        if "value" in step or "at" in step:
            value = step["value"] if "value" in step else self._arena.address + step["at"]
            result = lib.pyvfio_ioctl(door, number, ffi.cast("void *", value))
            return self._result(step, result, {})
        data = bytearray.fromhex(step["arg"])
        for offset, size, ref in step.get("put", ()):
            data[offset : offset + size] = (self._refer(ref) & (1 << 8 * size) - 1).to_bytes(size, "little")
        if step.get("readonly"):
            self._arena.scratch[: len(data)] = bytes(data)
            argument = ffi.cast("void *", self._arena.read_only)
        else:
            argument = ffi.from_buffer(data)
        result = lib.pyvfio_ioctl(door, number, argument)
        answer = self._result(step, result, {})
        for name, (offset, size) in step.get("keep", {}).items():
            if result >= 0:
                self._variables[name] = int.from_bytes(data[offset : offset + size], "little")
        for slot, (offset, size) in step.get("take", {}).items():
            fd = int.from_bytes(data[offset : offset + size], "little", signed=True)
            if result >= 0 and fd >= 0:
                self._new(slot, fd, step.get("kind", "iommufd"))
                data[offset : offset + size] = bytes(size)
        for offset, size, _ in step.get("put", ()):
            data[offset : offset + size] = bytes(size)
        for offset, size in step.get("mask", ()):
            data[offset : offset + size] = bytes(size)
        answer["out"] = data.hex()
        if looks := step.get("look"):
            answer["look"] = [self._look(at, size) for at, size in looks]
        return answer

    def _result(self, step: Step, result: int, answer: Answer) -> Answer:
        answer["r"] = result
        if "as" in step and result >= 0:
            self._new(step["as"], result, step.get("kind", "device"))
            answer["r"] = 0
        return answer

    def _refer(self, ref: list[Any]) -> int:
        kind, name, *more = ref
        if kind == "arena":
            return int(self._arena.address) + int(name)
        if kind == "fd":
            return self._fd(name)
        return self._variables.get(name, 0) + (int(more[0]) if more else 0)

    # Other calls on descriptors.

    def _do_pread(self, step: Step) -> Answer:
        data = bytearray(self.kernel.pread(self._fd(step["slot"]), step["size"], step["offset"]))
        for offset, size in step.get("mask", ()):
            data[offset : offset + size] = bytes(len(data[offset : offset + size]))
        return {"r": len(data), "out": _brief(bytes(data))}

    def _do_pwrite(self, step: Step) -> Answer:
        return {"r": self.kernel.pwrite(self._fd(step["slot"]), bytes.fromhex(step["data"]), step["offset"])}

    def _do_until(self, step: Step) -> Answer:
        limit = time.monotonic() + 60
        while True:
            data = self.kernel.pread(self._fd(step["slot"]), step["size"], step["offset"])
            if int.from_bytes(data, "little") & step["mask"] == step["value"]:
                return {"r": 0}
            if time.monotonic() > limit:
                return {"r": -errno.ETIMEDOUT}
            time.sleep(0.002)

    def _do_eventfd(self, step: Step) -> Answer:
        self._new(step["as"], self.kernel.eventfd(0, os.EFD_NONBLOCK), "eventfd")
        return {"r": 0}

    def _do_memfd(self, step: Step) -> Answer:
        fd = os.memfd_create("trace", os.MFD_CLOEXEC)
        os.write(fd, _PATTERN[: step["size"]])
        self._new(step["as"], fd, "memfd")
        return {"r": 0}

    def _do_read(self, step: Step) -> Answer:
        data = self.kernel.read(self._fd(step["slot"]), step["size"])
        return {"r": len(data), "out": _brief(data)}

    def _do_write(self, step: Step) -> Answer:
        return {"r": self.kernel.write(self._fd(step["slot"]), bytes.fromhex(step["data"]))}

    def _do_mmap(self, step: Step) -> Answer:
        self.kernel.mmap(self._fd(step["slot"]), step["size"], offset=step["offset"], prot=step["prot"]).close()
        return {"r": 0}

    def _do_pipe(self, step: Step) -> Answer:
        """Copy data from one descriptor to another, up to a limit."""
        moved, digest = 0, hashlib.blake2s(digest_size=10)
        while moved < step["limit"]:
            data = self.kernel.read(self._fd(step["from"]), min(1 << 16, step["limit"] - moved))
            if not data:
                break
            digest.update(data)
            moved += len(data)
            while data:
                data = data[self.kernel.write(self._fd(step["to"]), data) :]
        return {"r": moved, "out": digest.hexdigest()}

    def _do_settle(self, step: Step) -> Answer:
        # Wait for the effects of real hardware, such as an interrupt.
        if isinstance(self.kernel, LinuxKernel):
            time.sleep(step.get("seconds", 0.02))
        return {"r": 0}

    # Memory.

    def _do_fill(self, step: Step) -> Answer:
        data = bytes.fromhex(step["data"]) * step.get("times", 1)
        self._arena.memory[step["at"] : step["at"] + len(data)] = data
        return {"r": 0}

    def _do_look(self, step: Step) -> Answer:
        return {"r": 0, "out": self._look(step["at"], step["size"])}

    def _look(self, at: int, size: int) -> str:
        return _brief(bytes(self._arena.memory[at : at + size]))

    # The system.

    def _do_write_file(self, step: Step) -> Answer:
        path, kernel = step["path"], self.kernel
        before = kernel.read_file(path)
        kernel.write_file(path, step["text"].encode())
        self._undo.append(lambda: kernel.write_file(path, before))
        return {"r": 0}

    def _do_descriptors(self, step: Step) -> Answer:
        """Limit the number of new descriptors that the process can get."""
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = os.dup(0)
        os.close(lowest)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + step["room"], before[1]))
        self._undo.append(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, before))
        return {"r": 0}

    def _do_tell(self, step: Step) -> Answer:
        self.kernel.write_file(step["path"], bytes.fromhex(step["data"]))
        return {"r": 0}

    def _do_file(self, step: Step) -> Answer:
        """Call a method of the kernel (`how`) with a path."""
        found = getattr(self.kernel, step["how"])(step["path"])
        return {"r": 0} if step.get("blind") else {"r": 0, "out": found.decode() if isinstance(found, bytes) else found}

    def _do_listen(self, step: Step) -> Answer:
        self._monitor = self.kernel.udev_monitor()
        self._undo.append(self._monitor.close)
        return {"r": 0}

    def _do_heard(self, step: Step) -> Answer:
        """Return the uevents since the last call, without the numbers that VFIO assigned."""
        heard = []
        while (event := self._monitor.poll(0.05)) is not None:
            action, device = event
            if device.subsystem in ("pci", "platform", "vfio", "vfio-dev"):
                name = device.name if device.subsystem in ("pci", "platform") else device.name.rstrip("0123456789")
                heard.append([action, device.subsystem, name, device.properties.get("DRIVER")])
        return {"r": len(heard), "out": heard}

    def _do_without(self, step: Step) -> Answer:
        self._set_capability(step["capability"], have=False)
        self._undo.append(lambda: self._set_capability(step["capability"], have=True))
        return {"r": 0}

    def _set_capability(self, name: str, *, have: bool) -> None:
        if isinstance(self.kernel, LinuxKernel):
            set_effective(CAPABILITIES[name], have=have)
        elif have:
            self.kernel.capabilities.add(name)  # type: ignore[attr-defined]  # the mock's
        else:
            self.kernel.capabilities.discard(name)  # type: ignore[attr-defined]  # the mock's

    def _do_memlock(self, step: Step) -> Answer:
        self._set_memlock(step["bytes"])
        self._undo.append(lambda: self._set_memlock(None))
        return {"r": 0}


def _brief(data: bytes) -> str:
    """Return bytes in the form in which answers are compared: in hex if they are few or mostly zeros, otherwise as a digest."""
    stripped = data.rstrip(b"\0")
    if len(stripped) <= 64:
        return f"{len(data)}:{stripped.hex()}"
    return f"{len(data)}#{hashlib.blake2s(data, digest_size=10).hexdigest()}"


def set_effective(capability: int, *, have: bool) -> None:
    """Add a capability to the effective set, or remove it. It stays in the permitted set."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    assert _libc.capget(header, data) == 0
    data[0] = data[0] | 1 << capability if have else data[0] & ~(1 << capability)
    assert _libc.capset(header, data) == 0


def linux_memlock(size: int | None) -> None:
    """Set the limit on locked memory and drop CAP_IPC_LOCK, without which the limit applies; None restores CAP_IPC_LOCK."""
    set_effective(CAP_IPC_LOCK, have=size is None)
    if size is not None:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (size, resource.getrlimit(resource.RLIMIT_MEMLOCK)[1]))


def linux_pins() -> int:
    """Return the number of pages that are pinned for devices: pin_user_pages and memfd_pin_folios less unpin_user_pages."""
    Path("/proc/sys/vm/stat_refresh").read_text()
    counts = dict(line.split() for line in Path("/proc/vmstat").read_text().splitlines())
    return int(counts["nr_foll_pin_acquired"]) - int(counts["nr_foll_pin_released"])


@contextlib.contextmanager
def bound(devices: list[str], kernel: Kernel) -> Iterator[None]:
    """Bind these devices to vfio-pci during the block. vfio-mock is always bound to its own VFIO driver."""
    with contextlib.ExitStack() as stack:
        for address in devices:
            if not address.startswith("vfio-mock"):
                stack.enter_context(host.bind(address, "vfio-pci", kernel=kernel))
        yield


@contextlib.contextmanager
def on_linux(devices: list[str]) -> Iterator[Replayer]:
    """Yield a replayer for the real kernel in a machine of scripts/vm, with these devices bound to VFIO drivers."""
    from tests.contract.guest import MOCK, load_driver

    load_driver(MOCK)
    Path("/dev/kmsg").write_text(f"pyvfio-vm: expect {WARNINGS}\n")
    kernel = LinuxKernel()
    with bound(devices, kernel), contextlib.closing(Replayer(kernel, linux_memlock, linux_pins)) as replayer:
        yield replayer


@contextlib.contextmanager
def on_mock(devices: list[str], profile: str, spaces: Sequence[str] = ()) -> Iterator[Replayer]:
    """Yield a replayer for a mock, with these devices bound.

    :param devices: the devices to bind
    :param profile: the mock's profile
    :param spaces: devices that get the machine's saved configuration space and registers without a model
    """
    from pyvfio import mock

    kernel = mock.Kernel(profile)
    for name in spaces:
        saved = load(SPACES)[name]
        config = bytes.fromhex(saved["config"]).ljust(saved["size"], b"\0")
        kernel.host.unplug(kernel.devices[name])
        stored = {int(offset): bits for offset, bits in saved["stored"].items()}
        function = mock.Function.of(config, resource="\n".join(saved["resource"]), stored=stored)
        mock.Device(kernel, name, function=function)
    with (
        bound(devices, kernel),
        contextlib.closing(
            Replayer(kernel, kernel.limit_memlock, lambda: kernel.pins + kernel.locked.pages)
        ) as replayer,
    ):
        yield replayer


def main() -> None:
    source, target = map(Path, sys.argv[1:])
    trace = load(source)
    begun = time.monotonic()
    answers: list[list[Answer]] = []
    with on_linux(trace["devices"]) as replayer:
        try:
            answers.extend(map(replayer.episode, trace["episodes"]))
        finally:
            # Save partial answers too: they help to find the error.
            save(target, answers)
            save(target.with_name(LEFT), replayer.left)
    print(f"{sum(map(len, answers))} steps in {time.monotonic() - begun:.1f} s")


if __name__ == "__main__":
    main()
