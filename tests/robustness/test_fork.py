# SPDX-License-Identifier: MIT
"""In a forked child, the parent's objects neither reach a device nor free memory of the child."""

from __future__ import annotations

import gc
import mmap
import os
import threading
import traceback
from collections.abc import Callable

import pytest

import pyvfio
from pyvfio import Device, DmaBuffer, host, mock
from pyvfio._abi import ffi, lib
from pyvfio.kernel import LinuxKernel, _after_fork, _kept, _not_for_children
from pyvfio.memory import address_of


def in_child(program: Callable[[], object]) -> int:
    """Run a program in a forked child, and return its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            program()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def closed(call: Callable[[], object]) -> None:
    with pytest.raises(pyvfio.Closed, match="fork"):
        call()


def test_dropping_a_buffer_in_a_child_frees_nothing_of_its_own() -> None:
    """H2: the child's next allocation was at the address of the inherited buffer."""
    buffers = [DmaBuffer(1 << 20, kernel=LinuxKernel())]

    def program() -> None:
        own = [mmap.mmap(-1, 1 << 20) for _ in range(8)]
        buffers.clear()
        gc.collect()
        for one in own:
            one[0] = 7
            assert one[0] == 7

    assert in_child(program) == 0


def test_a_buffer_reads_as_zero_in_a_child() -> None:
    buffer = DmaBuffer(4096, kernel=LinuxKernel())
    buffer.view[0] = 7

    def program() -> None:
        assert buffer.view[0] == 0
        buffer.view[1] = 9

    assert in_child(program) == 0
    assert bytes(buffer.view[:2]) == b"\x07\x00"


def test_a_hole_in_the_childs_memory_is_filled_before_an_unmap() -> None:
    """This is the case of huge pages, which the test simulates because the host may have none."""
    memory = mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_DONTFORK)
    _not_for_children[memory] = address_of(memory), 1 << 20, True
    memory[0] = 7
    address, held = address_of(memory), [memory]
    del memory

    def program() -> None:
        assert held[0][0] == 0
        own = [mmap.mmap(-1, 1 << 20) for _ in range(8)]
        assert address not in map(address_of, own)
        held.clear()
        for one in own:
            one[0] = 7

    assert in_child(program) == 0


def test_memory_is_kept_where_something_else_lies_in_the_child() -> None:
    memory = mmap.mmap(-1, 4096)
    _not_for_children[memory] = address_of(memory), 4096, True

    def program() -> None:
        assert _kept == [memory]

    assert in_child(program) == 0
    assert lib.pyvfio_map_nothing(ffi.cast("void *", address_of(memory)), 4096, 1) == -17
    assert callable(_after_fork)


def test_mapped_registers_are_out_of_reach_in_a_child(device: Device) -> None:
    """M8."""
    region = next(region for region in device.regions if region.mmappable and region.writable)
    mapping = region.mmap(region.info.areas[0].offset)
    mapping.write32(0, 0x1234)

    def program() -> None:
        closed(lambda: mapping.write32(0, 0xDEAD))
        closed(lambda: mapping.read32(0))
        mapping.view[0:4] = b"\xff" * 4
        mapping.close()
        device.close()

    assert in_child(program) == 0
    assert mapping.read32(0) == 0x1234


def test_objects_raise_in_a_child_and_close_makes_no_request(kernel: mock.Kernel, device: Device) -> None:
    space = device.address_space
    mapping = space.alloc(4096)
    (vector,) = device.irqs[0].enable()
    log = device.dirty_log([mapping.range])
    changes = host.Changes(kernel)
    requests: list[int] = []

    def program() -> None:
        real = kernel.ioctl

        def ioctl(fd: int, request: int, argument: int) -> int:
            requests.append(request)
            return real(fd, request, argument)

        kernel.ioctl = ioctl  # type: ignore[method-assign]
        for call in (
            device.reset, device.fileno, mapping.unmap, log.read, vector.wait, vector.trigger, space.unmap_all,
            lambda: device.regions[0].read(0, 4), lambda: space.alloc(4096), lambda: changes.wait(0),
        ):  # fmt: skip
            closed(call)
        numbers = [device._fd.door, vector._fd.door]
        for one in (log, vector, device, space, changes):
            one.close()
        assert all(door.shut() for door in numbers)
        assert not requests

    assert in_child(program) == 0
    assert mapping.mapped
    assert not log.read()
    changes.close()


def test_a_lock_that_another_thread_holds_is_new_in_a_child(kernel: mock.Kernel, device: Device) -> None:
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        with kernel.lock:
            held.set()
            go.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    try:
        assert in_child(device.close) == 0
    finally:
        go.set()
        thread.join()
