# SPDX-License-Identifier: MIT
"""A mapped BAR: accesses of exact width, and closing it while its memory is in use."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from pathlib import Path
from typing import Any

import numpy
import pytest

import pyvfio
from pyvfio import Device
from pyvfio._abi import ffi, lib
from pyvfio.kernel import LinuxKernel
from pyvfio.memory import address_of
from pyvfio.region import RegionMapping
from tests.overriding import Overriding

# This profile's device has a BAR with memory.
pytestmark = pytest.mark.vfio(profile="mlx5")
WIDTHS = [8, 16, 32, 64]


@pytest.fixture
def bar(device: Device) -> RegionMapping:
    return device.regions[0].mmap()


# --- accesses -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", WIDTHS)
def test_store_writes_its_width_only(bar: RegionMapping, width: int) -> None:
    size = width // 8
    bar.view[:64] = b"\xaa" * 64
    getattr(bar, f"write{width}")(16, 0x0123456789ABCDEF & (1 << width) - 1)
    assert bytes(bar.view[16 : 16 + size]) == 0x0123456789ABCDEF.to_bytes(8, "little")[:size]
    assert bytes(bar.view[:16]) == b"\xaa" * 16
    assert bytes(bar.view[16 + size : 64]) == b"\xaa" * (48 - size)
    assert getattr(bar, f"read{width}")(16) == 0x0123456789ABCDEF & (1 << width) - 1


@pytest.mark.parametrize("width", WIDTHS)
def test_access_past_the_end_fails(bar: RegionMapping, width: int) -> None:
    size = width // 8
    read, write = getattr(bar, f"read{width}"), getattr(bar, f"write{width}")
    write(bar.size - size, 1)
    assert read(bar.size - size) == 1
    for offset in (bar.size, bar.size + size, -size, 1 << 64):
        with pytest.raises(pyvfio.InvalidRequest, match="outside"):
            read(offset)
        with pytest.raises(pyvfio.InvalidRequest, match="outside"):
            write(offset, 0)


@pytest.mark.parametrize("width", WIDTHS[1:])
def test_unaligned_offset_fails(bar: RegionMapping, width: int) -> None:
    with pytest.raises(pyvfio.InvalidRequest, match=f"not a multiple of the width of {width // 8} bytes"):
        getattr(bar, f"read{width}")(width // 16)
    with pytest.raises(pyvfio.InvalidRequest, match=f"not a multiple of the width of {width // 8} bytes"):
        getattr(bar, f"write{width}")(width // 16, 0)


@pytest.mark.parametrize("width", WIDTHS)
def test_value_wider_than_the_register_fails(bar: RegionMapping, width: int) -> None:
    for value in (1 << width, -1):
        with pytest.raises(ValueError, match="value must be at "):
            getattr(bar, f"write{width}")(0, value)
    assert bar.read64(0) == 0


def test_offsets_and_values_are_integers_of_any_type(bar: RegionMapping) -> None:
    window: Any = bar  # Any: its type hints accept only int
    window.write64(0, numpy.uint64(2**64 - 1))
    assert window.read64(0) == 2**64 - 1
    window.write32(numpy.uint64(8), numpy.uint32(0xFFFF_FFFF))
    assert window.read64(numpy.int8(8)) == 0xFFFF_FFFF
    for offset, value in ((8.0, 1), (8, 1.0), ("8", 1), (8, None), (True, 1), (8, True)):
        with pytest.raises(
            TypeError, match="offset must be" if value == 1 and type(offset) is not int else "value must be"
        ):
            bar.write32(offset, value)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not 1 arguments"):
        bar.write32(8)  # type: ignore[call-arg]
    assert bar.read64(8) == 0xFFFF_FFFF


# --- closing ------------------------------------------------------------------------------------------------------------


def test_access_to_a_closed_mapping_fails(bar: RegionMapping) -> None:
    bar.close()
    for width in WIDTHS:
        with pytest.raises(pyvfio.Closed, match="is closed"):
            getattr(bar, f"read{width}")(0)
        with pytest.raises(pyvfio.Closed, match="is closed"):
            getattr(bar, f"write{width}")(0, 0)
    with pytest.raises(ValueError, match="released"):
        bar.view[0]
    bar.close()


@pytest.mark.parametrize(
    "export", [lambda view: view[:16], lambda view: numpy.frombuffer(view, "u4")], ids=["slice", "array"]
)
def test_close_with_memory_in_use_says_so(device: Device, bar: RegionMapping, export: object) -> None:
    held = export(bar.view)  # type: ignore[operator]
    with pytest.raises(BufferError, match="an array or a view of its memory is still in use"):
        bar.close()
    assert bar.closed
    with pytest.raises(pyvfio.Closed):
        bar.read32(0)
    held[0] = 7  # the memory exists as long as an object refers to it
    assert held[0] == 7
    del held
    bar.close()


def test_device_closes_with_memory_of_its_bar_in_use(kernel: Overriding, device: Device, bar: RegionMapping) -> None:
    held = bar.view[:16]
    number = device.fileno()
    with pytest.raises(BufferError, match="still in use"):
        device.close()
    assert device.closed
    assert number not in kernel.files
    held.release()


def test_memory_in_use_keeps_the_exception_of_a_with_body(bar: RegionMapping) -> None:
    held = bar.view[:16]
    with pytest.raises(KeyError) as caught, bar:
        raise KeyError("the body's own")
    assert any("still in use" in note for note in caught.value.__notes__)
    held.release()


# --- the memory itself --------------------------------------------------------------------------------------------------


def test_mmap_keeps_no_second_descriptor() -> None:
    fd = os.memfd_create("bar of one descriptor")
    os.truncate(fd, 3 * mmap.PAGESIZE)

    def descriptors() -> int:
        """Return the number of descriptors of this file only: threads of earlier tests may be closing others."""
        links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        return sum("bar of one descriptor" in os.readlink(link) for link in links if os.path.lexists(link))

    memory = LinuxKernel().mmap(fd, mmap.PAGESIZE, offset=mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    assert descriptors() == 1
    memory[:4] = b"here"
    assert os.pread(fd, 4, mmap.PAGESIZE) == b"here"
    os.close(fd)
    assert memory[:4] == b"here"
    memory.close()


@pytest.mark.parametrize(
    ("size", "offset", "error"),
    [
        (0, 0, errno.EINVAL),
        (-1, 0, errno.EINVAL),
        (mmap.PAGESIZE, 1, errno.EINVAL),
        (mmap.PAGESIZE, -mmap.PAGESIZE, errno.EOVERFLOW),
        (mmap.PAGESIZE, 2**63 - mmap.PAGESIZE, errno.EOVERFLOW),
        (mmap.PAGESIZE, 2**63, errno.EOVERFLOW),
        (2**62, 0, errno.ENOMEM),
        (2**63 - 1, 0, errno.ENOMEM),
        (2**63, 0, errno.ENOMEM),
        (2**64, 0, errno.ENOMEM),
    ],
)
def test_mmap_of_a_bad_size_or_offset_fails_with_its_errno(size: int, offset: int, error: int) -> None:
    fd = os.memfd_create("bar")
    os.truncate(fd, 2 * mmap.PAGESIZE)
    with pytest.raises(OSError) as caught:
        LinuxKernel().mmap(fd, size, offset=offset, prot=mmap.PROT_READ)
    os.close(fd)
    assert caught.value.errno == error
    assert "memfd:bar" not in Path("/proc/self/maps").read_text()


def test_mmap_of_a_closed_descriptor_fails_with_ebadf() -> None:
    with pytest.raises(OSError) as caught:
        LinuxKernel().mmap(-2, mmap.PAGESIZE, offset=0, prot=mmap.PROT_READ)
    assert caught.value.errno == errno.EBADF


def test_mmap_maps_a_file_past_its_end() -> None:
    """mmap(2) permits this. Python's mmap.mmap compares with the file's size first, and raises ValueError."""
    fd = os.memfd_create("bar")
    memory = LinuxKernel().mmap(fd, 2 * mmap.PAGESIZE, offset=0, prot=mmap.PROT_READ)
    os.truncate(fd, mmap.PAGESIZE)
    os.pwrite(fd, b"here", 0)
    os.close(fd)
    assert memory[:4] == b"here"
    memory.close()


def test_failed_mapping_over_memory_leaves_the_memory() -> None:
    fd = os.memfd_create("bar", os.MFD_ALLOW_SEALING)
    os.truncate(fd, mmap.PAGESIZE)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)
    memory = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:4] = b"here"
    there = ffi.cast("void *", address_of(memory))
    error = lib.pyvfio_map_over(there, mmap.PAGESIZE, mmap.PROT_READ | mmap.PROT_WRITE, fd, 0)
    os.close(fd)
    assert error == -errno.EPERM
    assert memory[:4] == b"here"


@pytest.mark.parametrize(("size", "error"), [(0, errno.EINVAL), (2**62, errno.ENOMEM), (2**64, errno.ENOMEM)])
def test_memory_of_a_bad_size_fails_with_its_errno(size: int, error: int) -> None:
    with pytest.raises(OSError) as caught:
        LinuxKernel().memory(size)
    assert caught.value.errno == error


def test_a_buffer_larger_than_the_address_space_is_enomem() -> None:
    with pytest.raises(OSError) as caught:
        pyvfio.DmaBuffer(1 << 64)
    assert caught.value.errno == errno.ENOMEM
