# SPDX-License-Identifier: MIT
"""Requests to /dev/iommu that the library's objects never make: with other sizes, unknown flags, or ids of no object."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

import pytest

from pyvfio import Container, DmaBuffer, Iommufd, abi
from pyvfio._abi import ffi, lib
from pyvfio._core.request import DECLARED
from pyvfio.iommufd import FaultQueue, Ioas, Viommu
from pyvfio.iommufd.object import address
from tests.contract import marks, mock_domain
from tests.contract.mock_domain import MockDevice
from tests.contract.process import held

pytestmark = marks.one_cell

PAGE = 4096
BASE = mock_domain.APERTURE_START
#: The structs of requests whose names do not follow from the request's name.
_STRUCTS = {"IOMMU_GET_HW_INFO": "iommu_hw_info", "IOMMU_FAULT_QUEUE_ALLOC": "iommu_fault_alloc"}
REQUESTS = {
    name: f"struct {_STRUCTS.get(name, name.lower())}" for name in abi.NAMES["iommufd"] if name.startswith("IOMMU_")
}
#: Reserved fields that the kernel does not check.
IGNORED = {
    ("IOMMU_HWPT_ALLOC", "__reserved2"),
    ("IOMMU_HWPT_SET_DIRTY_TRACKING", "__reserved"),
    ("IOMMU_VIOMMU_ALLOC", "__reserved"),
}
#: Fields with the id or descriptor of an object that a request has created and that must be destroyed again.
_MADE = (
    "out_ioas_id",
    "out_hwpt_id",
    "out_viommu_id",
    "out_vdevice_id",
    "out_hw_queue_id",
    "out_fault_id",
    "out_veventq_id",
)
_OPENED = ("out_fault_fd", "out_veventq_fd")


def fields(struct: str) -> dict[str, Any]:
    """Return the C type of each field of a struct, by name."""
    return {name: field.type for name, field in ffi.typeof(struct).fields or ()}


class Good:
    """Valid values for each request."""

    def __init__(self, ioas: Ioas) -> None:
        self._iommufd = ioas.iommufd
        self._fd = os.memfd_create("good")
        os.truncate(self._fd, PAGE)
        self._buffer = DmaBuffer(2 * PAGE)
        mock = MockDevice(ioas)
        ioas.map(self._buffer.view[:PAGE], BASE)
        parent = ioas.hwpt(mock.bound, flags=lib.IOMMU_HWPT_ALLOC_NEST_PARENT)
        tracking = ioas.hwpt(mock.bound, flags=lib.IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
        tracking.set_dirty_tracking(True)
        nested = parent.nested(mock.bound, mock_domain.HWPT_DATA, mock_domain.NESTED)
        viommu = Viommu(parent, mock.bound, mock_domain.VIOMMU_TYPE)
        self.queue: FaultQueue = self._iommufd.fault_queue()
        self._empty = self._iommufd.ioas()
        address = self._buffer.address + PAGE
        readable = lib.IOMMU_IOAS_MAP_READABLE
        self.values: dict[str, dict[str, int]] = {
            "IOMMU_DESTROY": {"id": self._empty.id},
            "IOMMU_IOAS_ALLOC": {},
            "IOMMU_IOAS_ALLOW_IOVAS": {"ioas_id": ioas.id},
            "IOMMU_IOAS_COPY": {
                "flags": readable, "dst_ioas_id": ioas.id, "src_ioas_id": ioas.id, "length": PAGE, "src_iova": BASE,
            },
            "IOMMU_IOAS_IOVA_RANGES": {"ioas_id": ioas.id, "num_iovas": 1, "allowed_iovas": address},
            "IOMMU_IOAS_MAP": {"flags": readable, "ioas_id": ioas.id, "user_va": address, "length": PAGE},
            "IOMMU_IOAS_UNMAP": {"ioas_id": self._empty.id, "length": 2**64 - 1},
            "IOMMU_OPTION": {
                "option_id": lib.IOMMU_OPTION_HUGE_PAGES, "op": lib.IOMMU_OPTION_OP_GET, "object_id": ioas.id,
            },
            "IOMMU_VFIO_IOAS": {"op": lib.IOMMU_VFIO_IOAS_SET, "ioas_id": ioas.id},
            "IOMMU_HWPT_ALLOC": {"dev_id": mock.bound.id, "pt_id": ioas.id},
            "IOMMU_GET_HW_INFO": {"dev_id": mock.bound.id},
            "IOMMU_HWPT_SET_DIRTY_TRACKING": {"hwpt_id": tracking.id, "flags": lib.IOMMU_HWPT_DIRTY_TRACKING_ENABLE},
            "IOMMU_HWPT_GET_DIRTY_BITMAP": {
                "hwpt_id": tracking.id, "iova": BASE, "length": PAGE, "page_size": PAGE, "data": address,
            },
            "IOMMU_HWPT_INVALIDATE": {
                "hwpt_id": nested.id, "data_type": mock_domain.HWPT_INVALIDATE, "entry_len": 8, "data_uptr": address,
            },
            "IOMMU_FAULT_QUEUE_ALLOC": {},
            "IOMMU_IOAS_MAP_FILE": {"flags": readable, "ioas_id": ioas.id, "fd": self._fd, "length": PAGE},
            "IOMMU_VIOMMU_ALLOC": {"type": mock_domain.VIOMMU_TYPE, "dev_id": mock.bound.id, "hwpt_id": parent.id},
            "IOMMU_VDEVICE_ALLOC": {"viommu_id": viommu.id, "dev_id": mock.bound.id, "virt_id": 7},
            "IOMMU_IOAS_CHANGE_PROCESS": {},
            "IOMMU_VEVENTQ_ALLOC": {"viommu_id": viommu.id, "type": mock_domain.VEVENTQ_TYPE, "veventq_depth": 2},
            "IOMMU_HW_QUEUE_ALLOC": {
                "viommu_id": viommu.id, "type": mock_domain.HW_QUEUE_TYPE, "nesting_parent_iova": BASE, "length": PAGE,
            },
            "IOMMU_IOAS_NOIOMMU_GET_PA": {"ioas_id": ioas.id, "iova": BASE, "length": PAGE},
        }  # fmt: skip

    def ask(self, request: str, size: int | None = None, rest: bytes = b"", /, **instead: int) -> int:
        """Make a request, destroy the object that it created, and return 0 or -errno.

        :param request: the request's name
        :param size: value for the struct's `size` field; None for the struct's size
        :param rest: bytes behind the struct
        :param instead: values that replace the valid ones
        """
        struct = REQUESTS[request]
        known, types = ffi.sizeof(struct), fields(struct)
        memory = bytearray(known + 64)
        memory[known : known + len(rest)] = rest
        native = ffi.from_buffer(f"{struct} *", memory)
        native.size = known if size is None else size
        for name, value in {**self.values[request], **instead}.items():
            if types[name].kind == "array":
                getattr(native, name)[0] = value
            else:
                setattr(native, name, value)
        result = self._iommufd._fd.ioctl(getattr(lib, request), native)
        if result == 0:
            self._end(request, native, types)
        return result

    def _end(self, request: str, native: Any, types: dict[str, Any]) -> None:
        for name in _OPENED:
            if name in types:
                os.close(getattr(native, name))
        for name in _MADE:
            if name in types:
                end = ffi.new("struct iommu_destroy *", (ffi.sizeof("struct iommu_destroy"), getattr(native, name)))
                assert self._iommufd._fd.ioctl(lib.IOMMU_DESTROY, end) == 0
        for field in ("dst_iova", "iova"):
            if field in types and request in ("IOMMU_IOAS_MAP", "IOMMU_IOAS_MAP_FILE", "IOMMU_IOAS_COPY"):
                ioas = self.values["IOMMU_IOAS_MAP"]["ioas_id"]
                kind = "struct iommu_ioas_unmap"
                end = ffi.new(f"{kind} *", (ffi.sizeof(kind), ioas, getattr(native, field), PAGE))
                assert self._iommufd._fd.ioctl(lib.IOMMU_IOAS_UNMAP, end) == 0
        if request == "IOMMU_DESTROY":
            self._empty._mark_destroyed()
            self._empty = self._iommufd.ioas()
            self.values[request]["id"] = self._empty.id

    def close(self) -> None:
        os.close(self._fd)


#: Results of requests that work for no device of this machine, even with valid values.
RESULTS = {"IOMMU_IOAS_NOIOMMU_GET_PA": -errno.EOPNOTSUPP, "IOMMU_IOAS_CHANGE_PROCESS": -errno.EINVAL}
each_request = pytest.mark.parametrize("request_", REQUESTS)


@pytest.fixture
def good(ioas: Ioas) -> Iterator[Good]:
    good = Good(ioas)
    yield good
    good.close()


@each_request
def test_a_longer_struct_is_accepted_if_the_rest_is_zero(good: Good, request_: str) -> None:
    known = ffi.sizeof(REQUESTS[request_])
    works = RESULTS.get(request_, 0)
    before = held()
    assert good.ask(request_, 4) == -errno.EINVAL
    assert good.ask(request_, known + 1, b"\xff") == -errno.E2BIG
    assert good.ask(request_, known + 8, bytes(7) + b"\x01") == -errno.E2BIG
    for size in (known, known + 1, known + 64):
        assert good.ask(request_, size) == works
    assert held() == before


@each_request
def test_what_is_reserved_or_unknown_must_be_zero(good: Good, request_: str) -> None:
    types = fields(REQUESTS[request_])
    before = held()
    for name in ("flags", "__reserved", "__reserved1", "__reserved2"):
        if name in types:
            top = 0 if types[name].kind == "array" else 8 * ffi.sizeof(types[name]) - 1
            value = good.values[request_].get(name, 0) | 1 << top
            expected = 0 if (request_, name) in IGNORED else -errno.EOPNOTSUPP
            assert good.ask(request_, **{name: value}) == expected, name
    assert good.ask(request_) == RESULTS.get(request_, 0)
    assert held() == before


@each_request
def test_numbers_of_nothing_and_of_other_kinds_are_refused(good: Good, request_: str) -> None:
    """Each id field gets the id of no object, and that of a fault queue, which none of these requests accepts."""
    before = held()
    for name in good.values[request_]:
        if name == "id" or (name.endswith("_id") and name not in ("option_id", "virt_id")):
            assert good.ask(request_, **{name: 0xFFFF}) == (-errno.EINVAL if name == "pt_id" else -errno.ENOENT), name
            # IOMMU_DESTROY accepts all kinds of objects, but the queue's own descriptor keeps it busy: EBUSY. Fields
            # that accept several kinds fail with EINVAL for another kind.
            other = {"id": errno.EBUSY, "pt_id": errno.EINVAL}.get(name, errno.ENOENT)
            if request_ == "IOMMU_HWPT_INVALIDATE":
                other = errno.EINVAL
            assert good.ask(request_, **{name: good.queue.id}) == -other, name
    assert good.ask(request_) == RESULTS.get(request_, 0)
    assert held() == before


@pytest.mark.parametrize(
    ("request_", "instead", "number"),
    [
        ("IOMMU_HWPT_ALLOC", {"data_type": mock_domain.HWPT_DATA, "data_len": len(mock_domain.NESTED)}, errno.EFAULT),
        ("IOMMU_VIOMMU_ALLOC", {"data_len": 24}, errno.EFAULT),
        ("IOMMU_GET_HW_INFO", {"data_len": len(mock_domain.HW_INFO)}, errno.EFAULT),
        ("IOMMU_IOAS_IOVA_RANGES", {"allowed_iovas": 0}, errno.EFAULT),
        ("IOMMU_IOAS_ALLOW_IOVAS", {"num_iovas": 1}, errno.EFAULT),
        # A number of entries without an array, or with entries of size 0.
        ("IOMMU_HWPT_INVALIDATE", {"entry_num": 1, "data_uptr": 0}, errno.EINVAL),
        ("IOMMU_HWPT_INVALIDATE", {"entry_num": 1, "entry_len": 0}, errno.EINVAL),
    ],
    ids=["nested-data", "viommu-data", "hw-info", "ranges", "allowed", "entries", "entries-of-nothing"],
)
def test_data_that_is_said_to_be_there_and_is_not(
    good: Good, request_: str, instead: dict[str, int], number: int
) -> None:
    if request_ == "IOMMU_HWPT_ALLOC":
        instead = {**instead, "pt_id": good.values["IOMMU_VIOMMU_ALLOC"]["hwpt_id"]}
    assert good.ask(request_, **instead) == -number
    if request_ == "IOMMU_HWPT_INVALIDATE":
        # The same for an invalidation through a virtual IOMMU.
        instead = {**instead, "hwpt_id": good.values["IOMMU_VDEVICE_ALLOC"]["viommu_id"]}
        assert good.ask(request_, **instead, data_type=mock_domain.VIOMMU_INVALIDATE) == -number


@pytest.mark.parametrize("room", [0, 4, 8, 16])
def test_hardware_info_fills_the_room_that_there_is_and_no_more(ioas: Ioas, mock: MockDevice, room: int) -> None:
    memory = ffi.new("uint8_t[32]", b"\xaa" * 32)
    answer = DECLARED["IOMMU_GET_HW_INFO"].call(
        ioas.iommufd._fd,
        dev_id=mock.bound.id,
        data_len=room,
        data_uptr=address(memory) if room else 0,
    )
    assert answer.data_len == len(mock_domain.HW_INFO)
    assert bytes(ffi.buffer(memory)) == mock_domain.HW_INFO.ljust(room, b"\0")[:room].ljust(32, b"\xaa")


def test_a_bad_pointer_and_a_request_that_is_none(iommufd: Iommufd) -> None:
    fd = iommufd._fd
    assert fd.ioctl(lib.IOMMU_DESTROY, ffi.NULL) == -errno.EFAULT
    native = ffi.new("struct iommu_destroy *", {"size": ffi.sizeof("struct iommu_destroy")})
    assert fd.ioctl(lib.IOMMU_DESTROY, native) == -errno.ENOENT
    assert fd.ioctl(lib.IOMMU_DESTROY - 1, native) == -errno.ENOTTY


def test_old_requests_need_an_address_space_to_work_on(kernel: Any) -> None:
    with Container("iommufd-type1v2", kernel=kernel) as container:
        assert container.api_version == lib.VFIO_API_VERSION
        for extension in (lib.VFIO_TYPE1v2_IOMMU, lib.VFIO_TYPE1_IOMMU, lib.VFIO_UNMAP_ALL):
            assert container.has_extension(extension)
        for request, struct, flags in (
            ("VFIO_IOMMU_MAP_DMA", "struct vfio_iommu_type1_dma_map", lib.VFIO_DMA_MAP_FLAG_READ),
            ("VFIO_IOMMU_UNMAP_DMA", "struct vfio_iommu_type1_dma_unmap", 0),
            ("VFIO_IOMMU_GET_INFO", "struct vfio_iommu_type1_info", 0),
        ):
            native = ffi.new(f"{struct} *", {"argsz": 1, "flags": flags})
            assert container._fd.ioctl(getattr(lib, request), native) == -errno.EINVAL
            native.argsz = ffi.sizeof(struct)
            assert container._fd.ioctl(getattr(lib, request), native) == -errno.ENODEV
            if request != "VFIO_IOMMU_GET_INFO":
                native.flags = 1 << 31
                assert container._fd.ioctl(getattr(lib, request), native) == -errno.EINVAL
        for kind in (lib.VFIO_TYPE1v2_IOMMU, lib.VFIO_TYPE1_IOMMU):
            assert container._fd.ioctl(lib.VFIO_SET_IOMMU, ffi.cast("void *", kind)) == -errno.ENODEV
