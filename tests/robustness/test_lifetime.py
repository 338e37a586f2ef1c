# SPDX-License-Identifier: MIT
"""Constructors that fail, closes that fail or are interrupted, and objects that two threads close."""

from __future__ import annotations

import copy
import errno
import pickle
import threading
from collections.abc import Callable

import pytest

import pyvfio
from pyvfio import DirtyBitmap, IovaRange, mock
from pyvfio._core.resource import Resource
from pyvfio.spaces.opening import Mode
from tests.robustness.conftest import MODES

RANGE = IovaRange.of(0x100000, 0x10000)


class Node(Resource):
    """A resource that counts its releases, and fails on demand."""

    def __init__(self, parent: Resource | None, fail: BaseException | None = None) -> None:
        super().__init__(parent)
        self.fail = fail
        self.released = 0

    def _release(self) -> None:
        self.released += 1
        if self.fail is not None:
            raise self.fail


# --- constructors -------------------------------------------------------------------------------------------------------


def test_a_tracker_that_fails_is_not_closed_by_its_space(kernel: mock.Kernel) -> None:
    with pyvfio.address_space(kernel=kernel) as space:
        device = space.attach("vfio-mock.0")
        with pytest.raises(pyvfio.InvalidRequest) as caught:
            space.track_dirty([IovaRange(1, 5)])
    assert caught.value.__traceback__ is not None
    assert device.closed


def test_a_device_does_not_close_vectors_without_descriptors(kernel: mock.Kernel) -> None:
    device = pyvfio.open("vfio-mock.0", kernel=kernel)

    def eventfd(initial: int = 0, flags: int = 0) -> int:
        raise OSError(errno.EMFILE, "too many")

    kernel.eventfd = eventfd  # type: ignore[method-assign]
    with pytest.raises(OSError, match="too many") as caught:
        device.irqs[0].enable()
    assert caught.value.errno == errno.EMFILE
    device.close()


def test_a_constructor_that_fails_leaves_no_child() -> None:
    class Half(Node):
        def __init__(self, parent: Resource) -> None:
            super().__init__(parent)
            raise KeyError("half")

    parent = Node(None)
    with pytest.raises(KeyError):
        Half(parent)
    assert not parent._children.items()
    parent.close()


def test_what_is_made_while_its_parent_closes_is_closed_too() -> None:
    parent = Node(None)
    parent._closed = True
    with pytest.raises(pyvfio.Closed):
        Node(parent)


# --- closes that fail ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 1, 2])
def test_every_child_is_closed_though_one_fails(first: int) -> None:
    parent = Node(None)
    children = [Node(parent), Node(parent), Node(parent)]
    children[first].fail = OSError(errno.EIO, "child")
    with pytest.raises(OSError, match="child"):
        parent.close()
    assert [child.released for child in children] == [1, 1, 1]
    assert parent.released == 1


def test_what_failed_to_close_can_be_closed_again() -> None:
    node = Node(None, OSError(errno.EBUSY, "busy"))
    with pytest.raises(OSError, match="busy"):
        node.close()
    assert not node.closed
    node.fail = None
    node.close()
    assert node.closed
    assert node.released == 2


def test_an_interrupted_close_finishes_and_raises_the_interrupt() -> None:
    parent = Node(None, OSError(errno.EIO, "parent"))
    child = Node(parent, KeyboardInterrupt())
    other = Node(parent)
    with pytest.raises(KeyboardInterrupt) as caught:
        parent.close()
    # An interrupt may come before a release has done anything, so an interrupted release is tried again, but only once
    # at any depth.
    assert (parent.released, child.released, other.released) == (1, 2, 1)
    assert any("parent" in note for note in caught.value.__notes__)
    child.fail = parent.fail = None
    parent.close()
    assert parent.closed
    assert child.closed


@pytest.mark.parametrize("number", [errno.EIO, errno.EBUSY, errno.ENOMEM])
def test_a_failing_destroy_leaves_nothing_open(kernel: mock.Kernel, left: Callable[[], list[str]], number: int) -> None:
    device = pyvfio.open("vfio-mock.0", mode="iommufd", kernel=kernel)
    device.address_space.alloc(4096)
    kernel.failures.fail(number, call="IOMMU_DESTROY")
    with pytest.raises(OSError, match="IOMMU_DESTROY"):
        device.close()
    assert left() == []
    device.close()


def test_a_second_close_destroys_an_ioas_of_a_shared_iommufd(kernel: mock.Kernel) -> None:
    with pyvfio.Iommufd(kernel=kernel) as iommufd:
        ioas = iommufd.ioas()
        mapping = ioas.alloc(4096)
        kernel.failures.fail(errno.EIO, call="IOMMU_DESTROY")
        with pytest.raises(OSError, match="IOMMU_DESTROY"):
            ioas.close()
        assert not ioas.closed
        assert mapping.mapped
        ioas.close()
        assert ioas.closed
        assert not mapping.mapped


def test_tracking_that_fails_to_end_can_be_stopped_again() -> None:
    kernel = mock.Kernel("selftest")
    names = ("0000:00:03.0", "0000:00:04.0")
    with (
        pyvfio.host.bind(names[0], "vfio-pci", kernel=kernel),
        pyvfio.host.bind(names[1], "vfio-pci", kernel=kernel),
        pyvfio.address_space("iommufd", kernel=kernel) as space,
    ):
        devices = [space.attach(name) for name in names]
        tracker = space.track_dirty([RANGE])
        assert tracker.source == "iommu"
        kernel.failures.fail(errno.EIO, call="VFIO_DEVICE_ATTACH_IOMMUFD_PT")
        with pytest.raises(OSError, match="VFIO_DEVICE_ATTACH_IOMMUFD_PT"):
            tracker.stop()
        assert not tracker.closed
        assert [device._attached[None] is space for device in devices].count(True) == 1
        tracker.stop()
        assert tracker.closed
        assert all(device._attached[None] is space for device in devices)


# --- two closers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("what", ["device twice", "device and space"])
def test_two_closers_leave_nothing_open(
    mode: Mode, what: str, left: Callable[[], list[str]], kernel: mock.Kernel
) -> None:
    for _ in range(10):
        device = pyvfio.open("vfio-mock.0", mode=mode, kernel=kernel)
        space = device.address_space
        space.alloc(4096)
        failures: list[BaseException] = []
        ready = threading.Barrier(2)

        def close(one: Resource, ready: threading.Barrier = ready, failures: list[BaseException] = failures) -> None:
            ready.wait()
            try:
                one.close()
            except BaseException as failure:
                failures.append(failure)

        others = [device, device if what == "device twice" else space]
        threads = [threading.Thread(target=close, args=(one,)) for one in others]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert failures == []
        assert left() == []


def test_the_second_closer_waits_for_the_first() -> None:
    entered, go = threading.Event(), threading.Event()

    class Slow(Node):
        def _release(self) -> None:
            super()._release()
            entered.set()
            go.wait(60)

    node = Slow(None)
    first = threading.Thread(target=node.close)
    first.start()
    entered.wait(60)
    second = threading.Thread(target=node.close)
    second.start()
    second.join(0.05)
    assert second.is_alive()
    go.set()
    second.join(60)
    first.join(60)
    assert node.closed
    assert node.released == 1


def test_a_close_within_its_own_close_returns() -> None:
    class Again(Node):
        def _release(self) -> None:
            super()._release()
            self.close()

    node = Again(None)
    node.close()
    assert node.closed
    assert node.released == 1


async def _closed_by_async_with() -> Node:
    async with Node(None) as node:
        assert not node.closed
    return node


def test_async_with_closes() -> None:
    import asyncio

    assert asyncio.run(_closed_by_async_with()).closed


# --- copies -------------------------------------------------------------------------------------------------------------


def test_handles_refuse_copy_and_pickle(kernel: mock.Kernel) -> None:
    with pyvfio.open("vfio-mock.0", kernel=kernel) as device:
        space = device.address_space
        mapping = space.alloc(4096)
        for handle in (device, space, device._fd, mapping, mapping.buffer):
            for attempt in (copy.copy, copy.deepcopy, pickle.dumps):
                with pytest.raises(TypeError, match=f"cannot .* {type(handle).__name__}: it stands for"):
                    attempt(handle)


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_bitmaps_copy_and_pickle(again: Callable[[DirtyBitmap], DirtyBitmap]) -> None:
    bitmap = DirtyBitmap([RANGE, IovaRange.of(1 << 40, 1 << 20)])
    bitmap.segments[0].words[0] = 0b101
    other = again(bitmap)
    assert other == bitmap
    bitmap.segments[0].words[0] = 0
    assert other.count() == 2
    assert other.ranges == bitmap.ranges


def test_a_bitmap_of_pages_of_64_bits_is_refused() -> None:
    with pytest.raises(ValueError, match="page"):
        DirtyBitmap([IovaRange(0, 2**64 - 1)], 2**64)


@pytest.mark.parametrize("mode", ["type1v2", "iommufd-type1v2", "iommufd-type1"])
def test_mappings_outlive_the_last_group_if_the_kernel_keeps_them(mode: Mode) -> None:
    kernel = mock.Kernel("amd")
    with pyvfio.address_space(mode, kernel=kernel) as space:
        assert isinstance(space, pyvfio.Container)
        device = space.attach("vfio-mock.0")
        mapping = space.alloc(4096, 0x100000)
        device.close()
        space.groups[0].close()
        known = [each.range for each in space.mappings]
        assert known == ([] if mode == "type1v2" else [mapping.range])
        # The kernel unmaps exactly the mappings that the library knows, as Linux 7.3 does.
        with space.attach("vfio-mock.0"):
            assert space.unmap(0x100000, 4096) == sum(each.size for each in known)
