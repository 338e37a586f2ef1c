# SPDX-License-Identifier: MIT
"""Programs that reproduce faults that were found once, each run in its own process: `python tests/robustness/reproducers.py H1`.

They run on the package in PYTHONPATH, which may also be an old version that still has the faults. So they use only
names that both versions have, and call `either` for names that have changed. If the fault is absent, a program ends
with exit code 0; if it shows, with `FAULT` and a line that describes it. Any other exit code means that the program
itself failed, which proves nothing.

There are no programs for L10 to L12, which were about scripts/vm and scripts/build_kernel, for L15, which is a
documented limit (no free-threaded Python, no isolated subinterpreters), and for L16, a check that the kernel makes too,
so that the fault had no effect.
"""

from __future__ import annotations

import asyncio
import copy
import errno
import gc
import json
import math
import mmap
import os
import pickle
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pyvfio
from pyvfio import DmaBuffer, IovaRange, IovaSet, mock
from pyvfio._abi import lib
from pyvfio.kernel import LinuxKernel

FAULT = 3
PAGE = 4096
MOCK, EDU, NVME = "vfio-mock.0", "0000:00:03.0", "0000:00:04.0"

PROGRAMS: dict[str, Callable[[], object]] = {}
#: Programs whose fault ends the process by a signal.
CRASHES: set[str] = set()
#: Programs that measure time, and so do not run as tests.
TIMED: set[str] = set()


class Fault(Exception):
    """The fault shows."""


def program(
    id: str, *, crashes: bool = False, timed: bool = False
) -> Callable[[Callable[[], object]], Callable[[], object]]:
    """Register a program under the id of its finding."""

    def enter(function: Callable[[], object]) -> Callable[[], object]:
        PROGRAMS[id] = function
        if crashes:
            CRASHES.add(id)
        if timed:
            TIMED.add(id)
        return function

    return enter


def check(good: bool, text: str) -> None:
    """Raise Fault unless `good`."""
    if not good:
        raise Fault(text)


def either(of: Any, *names: str) -> Any:
    """Return the attribute that has the first existing one of several names."""
    return next(getattr(of, name) for name in names if hasattr(of, name))


def opened(mode: str = "type1v2", address: str = MOCK, profile: str = "intel-39", **fields: Any) -> Any:
    """Return an open device of a new mock, and the mock."""
    kernel = mock.Kernel(profile, **fields)
    return pyvfio.open(address, mode=mode, kernel=kernel), kernel  # type: ignore[arg-type]


def mapped_region(device: Any) -> Any:
    """Map registers of a device, and return the mapping."""
    region = next(one for one in device.regions if one.mmappable and one.writable)
    return either(region, "mmap", "map")(region.info.areas[0].offset)


def ends(function: Callable[[], object], seconds: float = 30) -> tuple[bool, object]:
    """Run a function in a thread. Return whether it ends in time, and its result or exception."""
    result: list[object] = []

    def run() -> None:
        try:
            result.append(function())
        except Exception as error:
            result.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive(), result[0] if result else None


def vector_of(device: Any) -> Any:
    """Return an enabled vector of vfio-mock."""
    return device.irqs[2].enable([0])[0]


# --- severe ---------------------------------------------------------------------------------------------------------


@program("H1", crashes=True)
def _() -> None:
    """A register store computed its address before the value's __index__ ran."""
    device, _ = opened()
    registers = mapped_region(device)
    size = 1 << 20
    other: list[mmap.mmap] = []

    class Closing:
        def __index__(self) -> int:
            registers.close()
            other.append(mmap.mmap(-1, size))
            return 0xDEADBEEF

    try:
        registers.write32(0, Closing())
    except pyvfio.Closed:
        return
    check(other[0][:4] == bytes(4), "the store went into another mapping")


@program("H2", crashes=True)
def _() -> None:
    """A child that dropped an inherited buffer unmapped memory of its own."""
    buffer = DmaBuffer(1 << 20, kernel=LinuxKernel())
    child = os.fork()
    if child == 0:
        new = mmap.mmap(-1, 1 << 20)
        new[0] = 7
        del buffer
        gc.collect()
        os._exit(0 if new[0] == 7 else 1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    check(status == 0, f"the child ended with {status}")


@program("H2 view", crashes=True)
def _() -> None:
    """The memory of a buffer was a hole in a child."""
    buffer = DmaBuffer(1 << 20, kernel=LinuxKernel())
    child = os.fork()
    if child == 0:
        os._exit(buffer.view[0])
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    check(status == 0, f"the child ended with {status}")


@program("H3")
def _() -> None:
    """A mapping that another thread made at an IOVA just unmapped was forgotten."""
    device, kernel = opened("iommufd")
    space = device.address_space
    first = space.alloc(PAGE)
    real = kernel.ioctl
    got: list[Any] = []

    def ioctl(fd: int, request: int, argument: int) -> int:
        result = real(fd, request, argument)
        if request & 0xFFFFFFFF == lib.IOMMU_IOAS_UNMAP and not got:
            got.append(None)
            got[0] = space.alloc(PAGE)
        return int(result)

    kernel.ioctl = ioctl
    first.unmap()
    (second,) = got
    check(second.mapped and len(space.mappings) == 1, "the kernel has the mapping, the library does not")


@program("H4 wait")
def _() -> None:
    """A wait for a vector that another thread closed never ended."""
    device, _ = opened()
    vector = vector_of(device)
    threading.Timer(0.3, vector.close).start()
    ended, result = ends(vector.wait)
    check(ended, "wait() goes on after close()")
    check(isinstance(result, pyvfio.Closed), f"wait() ended with {result!r}")


@program("H4 number")
def _() -> None:
    """A wait that a signal interrupted went on with a number that was another file's by then."""
    device, _ = opened()
    vector = vector_of(device)
    pipes: list[tuple[int, int]] = []
    number = either(vector, "fileno")()

    def reuse() -> None:
        time.sleep(0.3)
        vector.close()
        while not pipes or number not in pipes[-1]:
            pipes.append(os.pipe())
            if len(pipes) > 64:
                break
        os.write(pipes[-1][1], b"interrupt")
        os.kill(os.getpid(), signal.SIGALRM)

    signal.signal(signal.SIGALRM, lambda *_: None)
    threading.Thread(target=reuse, daemon=True).start()
    try:
        count = vector.wait(2)
    except (pyvfio.Closed, TimeoutError, OSError):
        count = 0
    check(not count, f"wait() read {count} out of another file")


@program("H4 changes")
def _() -> None:
    """A wait for changes of the host never ended after close()."""
    kernel = mock.Kernel("intel-39")
    changes = pyvfio.host.Changes(kernel=kernel)
    threading.Timer(0.3, changes.close).start()
    ended, _ = ends(changes.wait)
    check(ended, "wait() goes on after close()")


@program("H4 pieces")
def _() -> None:
    """A transfer in pieces went on into another file after close()."""
    device, kernel = opened()
    region = device.regions[1]
    number = device.fileno()
    real = kernel.pwrite
    victim: list[tuple[Any, bytes]] = []

    def pwrite(fd: int, data: Any, offset: int) -> int:
        if victim:
            victim.append((fd, bytes(data)))
            return len(data)
        done = real(fd, bytes(data)[:4], offset)
        threading.Thread(target=device.close).start()
        time.sleep(0.3)
        victim.append((None, b""))
        if number not in kernel.files:
            # Another file may have the descriptor's number now.
            return int(done)
        victim.clear()
        return int(done)

    kernel.pwrite = pwrite
    try:
        region.write(0, b"0123456789abcdef")
    except (pyvfio.Error, OSError):
        pass
    check(len(victim) < 2, "the rest was written to a number that was closed")


@program("H5")
def _() -> None:
    """A handler that raised right after a map left a mapping that nobody knew."""

    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    signal.signal(signal.SIGALRM, stop)
    device, kernel = opened()
    space = device.address_space
    buffer = DmaBuffer(PAGE)
    real = kernel.ioctl

    def ioctl(fd: int, request: int, argument: int) -> int:
        result = real(fd, request, argument)
        if request & 0xFFFFFFFF == lib.VFIO_IOMMU_MAP_DMA:
            # Python runs the handler when the native call has returned.
            signal.setitimer(signal.ITIMER_REAL, 1e-6)
            end = time.monotonic() + 0.05
            while time.monotonic() < end:
                pass
        return int(result)

    kernel.ioctl = ioctl
    for number in range(50):
        try:
            space.map(buffer, 0x100000 + number * PAGE)
        except Stop:
            pass
        except OSError:  # the old mock turned an exception into EIO
            pass
    signal.setitimer(signal.ITIMER_REAL, 0)
    kernel.ioctl = real
    known = space.mapped_ranges.total
    there = device.address_space.unmap_all()
    check(there in (None, known), f"the kernel had {there} bytes mapped, the library knew of {known}")


@program("H6 tracker")
def _() -> None:
    """A parent closed an object whose constructor had failed."""
    kernel = mock.Kernel("intel-39")
    try:
        with pyvfio.address_space(kernel=kernel) as space:
            device = space.attach(MOCK)
            kept = None
            try:
                space.track_dirty([IovaRange(1, 5)])
            except Exception as error:
                kept = error
            assert kept is not None
            assert device is not None
    except AttributeError as error:
        raise Fault(f"close() raised {error!r}") from None


@program("H6 vectors")
def _() -> None:
    """Vectors without descriptors were closed by their device."""
    device, kernel = opened()

    def eventfd(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    kernel.eventfd = eventfd
    kept = None
    try:
        vector_of(device)
    except OSError as error:
        kept = error
    assert kept is not None
    try:
        device.close()
    except AttributeError as error:
        raise Fault(f"close() raised {error!r}") from None


@program("H7 destroy")
def _() -> None:
    """A destroy that failed left the iommufd open for good."""
    device, kernel = opened("iommufd")
    space = device.address_space
    kernel.failures.fail(errno.EIO, call="IOMMU_DESTROY")
    for closing in (device, device, space):
        try:
            closing.close()
        except OSError:
            pass
    left = [file.kind for file in kernel.files.values()]
    check(left == [], f"still open: {left}")


@program("H7 closers")
def _() -> None:
    """A second closer destroyed what the first was still using, or left it open."""
    for nth in range(6):
        device, kernel = opened("iommufd")
        close_within(device, device.address_space, kernel, nth)
        device, kernel = opened("iommufd")
        close_within(device.address_space, device, kernel, nth)


def close_within(first: Any, second: Any, kernel: Any, nth: int) -> None:
    """Close an object, and close another one in another thread just before the first's n-th request or close(2)."""
    request, close_file = kernel.ioctl, kernel.close
    errors: list[Exception] = []
    threads: list[threading.Thread] = []
    count = 0

    def close(what: Any) -> None:
        try:
            what.close()
        except Exception as error:
            errors.append(error)

    def step() -> None:
        nonlocal count
        count += 1
        if count == nth + 1 and not threads:
            threads.append(threading.Thread(target=close, args=(second,)))
            threads[0].start()
            threads[0].join(0.2)

    def ioctl(fd: int, number: int, argument: int) -> int:
        step()
        return int(request(fd, number, argument))

    def closing(fd: int) -> None:
        step()
        close_file(fd)

    kernel.ioctl, kernel.close = ioctl, closing
    close(first)
    for thread in threads:
        thread.join()
    left = [file.kind for file in kernel.files.values()]
    check(not errors and not left, f"errors {errors}, still open {left}")


@program("H7 interrupted")
def _() -> None:
    """A close that was interrupted half way could not be finished."""
    device, kernel = opened()
    vector = vector_of(device)
    real = kernel.close
    stopped: list[int] = []

    def close(fd: int) -> None:
        real(fd)
        if not stopped:
            stopped.append(fd)
            raise KeyboardInterrupt

    kernel.close = close
    for _ in range(2):
        try:
            device.close()
        except KeyboardInterrupt:
            pass
    left = [file.kind for file in kernel.files.values()]
    check(left == [], f"still open after a second close(): {left}, {vector!r}")


# --- of medium weight -----------------------------------------------------------------------------------------------


@program("M1 close")
def _() -> None:
    """close() in another thread did not wake wait_async()."""
    device, _ = opened()
    vector = vector_of(device)

    async def wait() -> float:
        begun = time.monotonic()
        threading.Timer(0.3, vector.close).start()
        try:
            await asyncio.wait_for(vector.wait_async(), 30)
        except (TimeoutError, pyvfio.Error):
            pass
        return time.monotonic() - begun

    took = asyncio.run(wait())
    check(took < 25, f"it was woken after {took:.1f} s")


@program("M1 loops")
def _() -> None:
    """The second of two loops that waited for a vector was not woken."""
    device, _ = opened()
    vector = vector_of(device)
    took: list[float] = []

    async def wait() -> None:
        begun = time.monotonic()
        try:
            await asyncio.wait_for(vector.wait_async(), 30)
        except TimeoutError:
            pass
        took.append(time.monotonic() - begun)

    threads = [threading.Thread(target=lambda: asyncio.run(wait())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(4):
        time.sleep(0.3)
        vector.trigger()
    for thread in threads:
        thread.join()
    check(max(took) < 25, f"they were woken after {took} s")


@program("M1 number")
def _() -> None:
    """A vector that had the number of a closed one was not watched."""
    device, _ = opened()

    async def again() -> None:
        vector = vector_of(device)
        task = asyncio.create_task(vector.wait_async())
        await asyncio.sleep(0.1)
        vector.close()
        second = device.irqs[2].enable([0])[0]
        threading.Timer(0.3, second.trigger).start()
        try:
            async with asyncio.timeout(30):
                await second.wait_async()
        except TimeoutError:
            raise Fault("the second vector fired and nobody was woken") from None
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(again())


@program("M2 nothing now")
def _() -> None:
    """Migration.load() took "nothing now" for the end."""
    device, _ = opened()
    source = SimpleNamespace(read=lambda size=-1: None)
    try:
        device.migration.load(source)
    except BlockingIOError:
        return
    except OSError as error:
        raise Fault(f"the stream was ended: {error}") from None


@program("M2 wrong source")
def _() -> None:
    """load() looked at its argument when the device was in RESUMING already."""
    device, _ = opened()
    try:
        device.migration.load("x")
    except (TypeError, AttributeError):
        pass
    check(device.migration.state.name == "RUNNING", f"the device is {device.migration.state!r}")


@program("M2 sink")
def _() -> None:
    """save() called a sink that takes nothing for ever."""
    device, _ = opened()
    calls = 0

    class Endless(Exception):
        pass

    def write(data: Any) -> int:
        nonlocal calls
        calls += 1
        if calls > 1000:
            raise Endless
        return 0

    try:
        device.migration.save(SimpleNamespace(write=write))
    except Endless:
        raise Fault("the sink was called a thousand times") from None
    except OSError:
        pass


@program("M3")
def _() -> None:
    """A batch could not be interrupted between its rows."""
    import ctypes
    from array import array

    from pyvfio._abi import ffi

    class Stop(Exception):
        pass

    def stop(*_: object) -> None:
        raise Stop

    device, _ = opened()
    space = device.address_space
    door = space._fd.door
    native = getattr(door, "native", door)
    # Replace the request's function by usleep(), which ignores further arguments: every request takes 5 ms and
    # succeeds.
    address = ctypes.cast(ctypes.CDLL(None).usleep, ctypes.c_void_p).value
    native.ioctl = ffi.cast("int (*)(void *, int, unsigned long, void *)", address)
    native.context = ffi.cast("void *", 5000)
    buffer = DmaBuffer(PAGE)
    rows = array("Q", [number for n in range(4000) for number in (buffer.address, n * PAGE, PAGE)])
    signal.signal(signal.SIGALRM, stop)
    # Let another thread receive the signal, because it would interrupt usleep(). The handler still runs in the main
    # thread.
    threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    begun = time.monotonic()
    try:
        space.map_many(rows, keep=buffer)
    except (Stop, OSError):
        pass
    took = time.monotonic() - begun
    check(took < 15, f"the handler ran after {took:.1f} s")


@program("M4")
def _() -> None:
    """The mock made EIO of an exception in a device's model."""

    class Bug(Exception):
        pass

    device, kernel = opened()

    def reset(*_: object) -> None:
        raise Bug

    kernel.devices[MOCK].reset = reset
    try:
        device.reset()
    except Bug:
        return
    except OSError as error:
        raise Fault(f"the exception became {error!r}") from None


@program("M5 garbage")
def _() -> None:
    """One damaged file of the journal stopped restore() for every device."""
    from pyvfio.host import journal

    folder = tempfile.mkdtemp()
    journal.DIRECTORY = folder
    entry = {
        "bus": "pci",
        "address": EDU,
        "driver": "vfio-pci",
        "previous_driver": None,
        "previous_override": None,
        "pid": 1,
    }
    for name, content in ((f"pci:{EDU}", json.dumps(entry)), ("pci:0000:00:09.0", "garbage")):
        with open(os.path.join(folder, name), "w") as file:
            file.write(content + "\n")

    class Host(LinuxKernel):
        """The files of this host."""

    try:
        either(pyvfio.host, "bindings")(Host())
    except (pyvfio.Error, OSError):
        return
    except Exception as error:
        raise Fault(f"bindings() raised {error!r}") from None


@program("M6")
def _() -> None:
    """Numbers beyond 64 bits were OverflowErrors."""
    device, _ = opened()
    space = device.address_space
    buffer = DmaBuffer(PAGE)
    calls: dict[str, Callable[[], object]] = {
        "dirty_log": lambda: device.dirty_log([IovaRange(0, 2**64 - 1)]),
        "unmap": lambda: space.unmap(0, 2**64),
        "unmap negative": lambda: space.unmap(-1, PAGE),
        "map": lambda: space.map(buffer, 2**64),
        "map negative": lambda: space.map(buffer, -PAGE),
        "probe": lambda: device.features.probe(-1),
        "poll": lambda: vector_of(device).wait(math.nan),
    }
    wrong = []
    for name, call in calls.items():
        try:
            call()
        except OverflowError as error:
            wrong.append(f"{name}: {error}")
        except (ValueError, OSError):
            pass
    check(not wrong, "; ".join(wrong))


@program("M7")
def _() -> None:
    """Wrong types were errors of something inside."""
    device, kernel = opened()
    region = device.regions[1]
    import numpy

    calls: dict[str, Callable[[], object]] = {
        "open(None)": lambda: pyvfio.open(None, kernel=kernel),  # type: ignore[arg-type]
        "read32('0')": lambda: region.read32("0"),
        "read32(1.5)": lambda: region.read32(1.5),
        "copy(None)": lambda: device.attach(None),
    }
    wrong = []
    try:
        region.write32(0, numpy.uint32(3))
    except AttributeError as error:
        wrong.append(f"write32(numpy.uint32): {error}")
    for name, call in calls.items():
        try:
            call()
        except pyvfio.Error:
            pass
        except TypeError as error:
            if "must be" not in str(error) and "needs" not in str(error):
                wrong.append(f"{name}: {error}")
        except Exception as error:
            wrong.append(f"{name}: {error!r}")
    check(not wrong, "; ".join(wrong))


@program("M8")
def _() -> None:
    """A child stored into the parent's device by mapped registers."""
    device, _ = opened()
    registers = mapped_region(device)
    registers.write32(16, 1)
    child = os.fork()
    if child == 0:
        try:
            registers.write32(16, 0xDEAD)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    check(registers.read32(16) == 1, "the child's store reached the device")


@program("M9 copy")
def _() -> None:
    """Handles could be copied, and each copy closed the number."""
    device, _ = opened()
    for what in (device, device.address_space, vector_of(device), DmaBuffer(PAGE)):
        try:
            copy.copy(what)
        except (TypeError, pyvfio.Error):
            continue
        raise Fault(f"{type(what).__name__} was copied")


@program("M9 bitmap")
def _() -> None:
    """A copy of a bitmap changed with the original, and it could not be pickled."""
    bitmap = pyvfio.DirtyBitmap([IovaRange.of(0, 64 * PAGE)], PAGE)
    again = copy.copy(bitmap)
    bitmap.segments[0].bits[0] = 1
    check(again.count() == 0, "the copy has the original's pages")
    try:
        check(pickle.loads(pickle.dumps(bitmap)) == bitmap, "it came back from a pickle with other pages")
    except TypeError as error:
        raise Fault(str(error)) from None


@program("M10")
def _() -> None:
    """A set took malformed pairs and made other ranges of them."""
    for pairs in ([(1, 2, 3), (4,)], [(1,)], [(1, 2), (3,)], [b"ab"]):
        try:
            made = IovaSet(pairs)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
        raise Fault(f"{pairs} became {list(made)}")


@program("M11 log", timed=True)
def _() -> None:
    """A long word in a log took time by the square of its length."""
    from pyvfio.guest.qemu import read_start

    def seconds(length: int) -> float:
        text = f"nr_ranges 1 {'a' * length} 32:[0x0 - 0xfff]"
        begun = time.process_time()
        try:
            read_start(text)
        except ValueError:
            pass
        return time.process_time() - begun

    few, many = seconds(10_000), seconds(100_000)
    check(many < 0.1 + 30 * few, f"10 kB took {few:.3f} s, 100 kB {many:.3f} s")


@program("M11 unmap", timed=True)
def _() -> None:
    """An unmap of rows that cover several mappings each looked at all mappings for each row."""
    from array import array

    def seconds(count: int) -> float:
        device, _ = opened()
        space = device.address_space
        buffer = DmaBuffer(PAGE)
        for number in range(count):
            space.map(buffer, number * PAGE)
        rows = array("Q", [value for n in range(0, count, 2) for value in (n * PAGE, 2 * PAGE)])
        begun = time.process_time()
        space.unmap_many(rows)
        took = time.process_time() - begun
        device.close()
        return took

    few, many = seconds(1000), seconds(8000)
    check(many < 20 * few, f"{few:.2f} s for 1000 mappings, {many:.2f} s for 8000")


@program("M12")
def _() -> None:
    """A mapping that the library did not know made alloc() fail although there was room."""
    from pyvfio._abi import ffi

    device, kernel = opened()
    buffer = DmaBuffer(PAGE)
    native = ffi.new(
        "struct vfio_iommu_type1_dma_map *", {"argsz": 32, "flags": 3, "vaddr": buffer.address, "size": PAGE}
    )
    container = next(fd for fd, file in kernel.files.items() if file.kind == "container")
    first = device.address_space.alloc(PAGE)
    at = first.iova
    first.unmap()
    native.iova = at + PAGE
    assert kernel.ioctl(container, lib.VFIO_IOMMU_MAP_DMA, int(ffi.cast("uintptr_t", native))) == 0
    native.iova = at
    assert kernel.ioctl(container, lib.VFIO_IOMMU_MAP_DMA, int(ffi.cast("uintptr_t", native))) == 0
    try:
        for _ in range(4):
            device.address_space.alloc(PAGE)
    except FileExistsError as error:
        raise Fault(str(error)) from None


# --- small ----------------------------------------------------------------------------------------------------------


@program("L2")
def _() -> None:
    """Pages of 2^64 bytes shifted by 64 bits."""
    try:
        bitmap = pyvfio.DirtyBitmap([IovaRange(0, 2**64 - 1)], 2**64)
    except ValueError:
        return
    raise Fault(f"{bitmap!r} was made: its addresses are shifted by 64 bits, which C leaves undefined")


@program("L4")
def _() -> None:
    """Garbage in a file of sysfs was a ValueError without its path."""
    from pyvfio.host import sysfs

    class Files(LinuxKernel):
        def read_file(self, path: str) -> bytes:
            return b"08x\n"

    try:
        sysfs.number(Files(), "/sys/x")
    except ValueError as error:
        check("/sys/x" in str(error), f"the path is missing: {error}")
    except OSError as error:
        check("/sys/x" in str(error), f"the path is missing: {error}")


@program("L5")
def _() -> None:
    """A section that ended before its start had a negative size."""
    from pyvfio.guest.qemu import read_sections

    try:
        found = read_sections("section 0x5000 - 0x4ffa -> update [0x0 - 0x0]")
    except ValueError:
        return
    check(all(one.size >= 0 for one in found), f"{found}")


@program("L8")
def _() -> None:
    """A group's number was part of a path unchecked."""
    kernel = mock.Kernel("intel-39")
    seen: list[str] = []
    real = kernel.open

    def note(path: str, *more: Any) -> int:
        seen.append(path)
        return real(path, *more)

    kernel.open = note  # type: ignore[assignment]
    try:
        pyvfio.Group("../null", kernel=kernel)  # type: ignore[arg-type]
    except Exception:
        pass
    check(not any(".." in path for path in seen), f"it opened {seen}")


@program("H8")
def _() -> None:
    """A region that cannot be mapped was a ValueError without errno by Python 3.13, whose mmap looks at the size of the file."""
    # Simulate Python 3.13's parameter `trackfd`, which the old code used. (Older releases compare the size too.)
    real = mmap.mmap
    sys.version_info = (3, 13, 0, "final", 0)  # type: ignore[assignment]

    def map_(*arguments: Any, trackfd: bool = True, **more: Any) -> mmap.mmap:
        return real(*arguments, **more)

    mmap.mmap = map_  # type: ignore[assignment, misc]
    kernel = LinuxKernel()
    with tempfile.TemporaryFile() as file:
        file.write(bytes(PAGE))
        file.flush()
        for size, offset in ((PAGE, 1 << 62), (2 * PAGE, 3 * PAGE)):
            try:
                kernel.mmap(file.fileno(), size, offset=offset, prot=mmap.PROT_READ)
            except OSError:
                continue
            except ValueError as error:
                raise Fault(f"it is {error!r}") from None


@program("L1", crashes=True)
def _() -> None:
    """The number of devices of an answer was not compared with the room that the answer had."""
    from pyvfio._abi import ffi

    device, kernel = opened()
    real = kernel.ioctl

    def ioctl(fd: int, request: int, argument: int) -> int:
        if request & 0xFFFFFFFF == lib.VFIO_DEVICE_GET_PCI_HOT_RESET_INFO:
            answer = ffi.cast("struct vfio_pci_hot_reset_info *", argument)
            answer.count = 100_000
            return 0
        return int(real(fd, request, argument))

    kernel.ioctl = ioctl
    try:
        found = device.hot_reset_info.devices
    except (pyvfio.Error, OSError):
        return
    raise Fault(f"{len(found)} devices were read from an answer that has no room for them")


@program("L3")
def _() -> None:
    """Mappings stayed although their IOMMU had gone with the last group of a container."""
    space: Any = pyvfio.address_space("type1v2", kernel=mock.Kernel("intel-39"))
    device: Any = space.attach(MOCK)
    group = device.group
    mapping = space.map(DmaBuffer(PAGE), 0x100000)
    device.close()
    group.unset_container()
    check(not space.groups, f"the container still lists {space.groups}")
    check(not mapping.mapped and not space.mappings, "a mapping is there without an IOMMU")


@program("L6")
def _() -> None:
    """A time limit that is no number was accepted until it was used, and half a virtual function was written to sysfs."""
    kernel = mock.Kernel("intel-39")
    wrong = []
    for timeout in ("10", math.nan, -1):
        try:
            with pyvfio.host.bind(EDU, "vfio-pci", timeout=timeout, kernel=kernel):  # type: ignore[arg-type]
                pass
        except (TypeError, ValueError):
            continue
        wrong.append(f"bind() took timeout={timeout!r}")
    written: list[tuple[str, bytes]] = []
    real = kernel.write_file

    def write_file(path: str, data: bytes) -> None:
        written.append((path, data))
        real(path, data)

    kernel.write_file = write_file
    try:
        pyvfio.host.create_vfs(NVME, 1.5, kernel=kernel)  # type: ignore[arg-type]
    except (TypeError, ValueError, OSError):
        pass
    wrong += [f"{data!r} was written to {path}" for path, data in written if b"." in data]
    check(not wrong, "; ".join(wrong))


@program("L7")
def _() -> None:
    """A process that changed its user while it was looked at ended the search for holders."""
    from pyvfio.host.holders import holders_of

    device, kernel = opened()
    real = kernel.read_file

    def read_file(path: str) -> bytes:
        if "/fdinfo/" in path:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return bytes(real(path))

    kernel.read_file = read_file
    try:
        holders_of(device.address, kernel)
    except PermissionError as error:
        raise Fault(f"holders() raised {error!r}") from None


@program("L9")
def _() -> None:
    """The plugin's option --vectors was in the way of every project's own."""
    import subprocess

    folder = tempfile.mkdtemp()
    with open(os.path.join(folder, "own_plugin.py"), "w") as file:
        file.write("def pytest_addoption(parser):\n    parser.addoption('--vectors')\n")
    with open(os.path.join(folder, "test_it.py"), "w") as file:
        file.write("def test_it():\n    pass\n")
    path = os.pathsep.join((os.environ.get("PYTHONPATH", os.getcwd()), folder))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "pyvfio.pytest_plugin",
            "-p",
            "own_plugin",
            "-p",
            "no:cacheprovider",
            folder,
        ],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = (done.stdout + done.stderr).strip().splitlines()
    assert done.returncode == 0 or "already" in "".join(said), said
    check(done.returncode == 0, f"pytest ended with {done.returncode}: {said[-1]}")


@program("L13")
def _() -> None:
    """The mock kept something of each mapping of registers for the life of the kernel."""
    import weakref

    device, _ = opened()

    def alive() -> int:
        gc.collect()
        return sum(type(one) is weakref.ref for one in gc.get_objects())

    mapped_region(device).close()
    before = alive()
    for _ in range(200):
        mapped_region(device).close()
    check(alive() < before + 100, f"{alive() - before} references more after 200 mappings")


@program("L14")
def _() -> None:
    """A context of libudev outlived its thread."""
    from pyvfio import kernel

    made: list[Any] = []

    class Context:
        """A context that can be counted."""

        def __init__(self) -> None:
            made.append(weakref.ref(self))

    import weakref

    import pyudev

    pyudev.Context = Context
    threads = [threading.Thread(target=kernel._udev) for _ in range(8)]
    for thread in threads:
        thread.start()
        thread.join()
    threads.clear()
    del thread
    gc.collect()
    left = sum(one() is not None for one in made)
    check(left == 0, f"{left} contexts of {len(made)} threads that have ended")


@program("L17")
def _() -> None:
    """One log took devices of two kernels."""
    devices = [opened()[0] for _ in range(2)]
    log = either(pyvfio, "dirty_log")
    try:
        log(devices, [IovaRange.of(0x100000, PAGE)])
    except (ValueError, TypeError, pyvfio.Error):
        return
    raise Fault("devices of two kernels are in one log")


@program("L18")
def _() -> None:
    """Memory that could not be mapped over was unmapped a second time, though it may have been another's by then."""
    kernel = LinuxKernel()
    # Mapping a socket fails after the memory at the place has been unmapped, as with VFIO.
    number = socket.socketpair()[0].detach()
    real = mmap.mmap
    places: list[int] = []

    class Noting(real):  # type: ignore[misc, valid-type]
        """An mmap that records the free space at its address when it is closed."""

        def close(self) -> None:
            places.append(hole_of(self))
            super().close()

    mmap.mmap = Noting  # type: ignore[misc]
    try:
        kernel.mmap(number, PAGE, offset=0, prot=mmap.PROT_READ)
    except OSError:
        pass
    assert places, "the memory was not closed"
    check(places[0] != 0, "the place is free before its memory is closed")


def hole_of(memory: Any) -> int:
    """Return the number of bytes that the process has mapped from an mmap's address on."""
    from pyvfio._abi import ffi

    address = int(ffi.cast("uintptr_t", ffi.from_buffer(memory)))
    for line in open("/proc/self/maps"):  # noqa: SIM115
        first, last = (int(part, 16) for part in line.split()[0].split("-"))
        if first <= address < last:
            return last - address
    return 0


@program("L19")
def _() -> None:
    """A vector without a descriptor did not say what to do."""
    device, kernel = opened()

    def eventfd(*_: object) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    kernel.eventfd = eventfd
    try:
        vector_of(device)
    except OSError as error:
        text = "\n".join([str(error), *getattr(error, "__notes__", ())])
        check("ulimit -n" in text, f"it says: {text}")


def main() -> int:
    (which,) = sys.argv[1:]
    try:
        PROGRAMS[which]()
    except Fault as fault:
        print(f"{which}: {fault}")
        sys.stdout.flush()
        os._exit(FAULT)
    # End without closing what is still open.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
