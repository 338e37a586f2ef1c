# SPDX-License-Identifier: MIT
"""IOMMU_TEST_CMD, the ioctl of the iommufd selftest (CONFIG_IOMMUFD_TEST).

It creates devices behind the selftest's IOMMU, and checks the state of that IOMMU.
The operations for accesses and dma-bufs, which need no IOMMU, are not modelled.
"""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

from pyvfio._abi import lib
from pyvfio.mock.iommufd.area import LAST
from pyvfio.mock.iommufd.bound import BoundDevice
from pyvfio.mock.iommufd.command import REQUESTS, check_zero
from pyvfio.mock.iommufd.hwpt import Hwpt, PagingHwpt
from pyvfio.mock.iommufd.ioas import Ioas
from pyvfio.mock.iommufd.nested import NestedHwpt
from pyvfio.mock.iommufd.object import Object
from pyvfio.mock.iommufd.selftest_driver import EVENT, Selftest
from pyvfio.mock.machine import caller
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.vfio.device import Device
from pyvfio.mock.vfio.group import Group

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.context import Context
    from pyvfio.mock.machine.kernel import Kernel

IOMMU_TEST_CMD = lib.IOMMUFD_TYPE << 8 | lib.IOMMUFD_CMD_BASE + 32
#: struct iommu_test_cmd: size, op, id, reserved; a union; `last`
_SIZE, _LEAST, _UNION = 72, 68, 16
_NO_DIRTY, _PASID = 1 << 0, 1 << 2
_PAGE_SIZES = 2**52 - 2**11
_APERTURE = (1 << 24, (1 << 31) - 1)

_Operation = Callable[["Context", int, bytes], "bytes | None"]
_OPERATIONS: dict[int, _Operation] = {}


def operation(number: int) -> Callable[[_Operation], _Operation]:
    """Decorate an operation.

    It takes an object's id and the union of the struct, and returns the new union, or None to copy nothing back.
    """

    def mark(execute: _Operation) -> _Operation:
        _OPERATIONS[number] = execute
        return execute

    return mark


def _test(ctx: Context, address: int) -> None:
    user_size = int.from_bytes(caller.read(address, 4), "little")
    if user_size < _LEAST:
        raise Errno(errno.EINVAL)
    size = min(user_size, _SIZE)
    if user_size > _SIZE:
        check_zero(address + _SIZE, user_size - _SIZE)
    command = caller.read(address, size).ljust(_SIZE, b"\0")
    _, op, number, _ = struct.unpack_from("=4I", command)
    if op not in _OPERATIONS:
        raise Errno(errno.EOPNOTSUPP)
    answer = _OPERATIONS[op](ctx, number, bytes(command[_UNION:]))
    if answer is not None:
        command[_UNION : _UNION + len(answer)] = answer
        caller.write(address, bytes(command[:size]))


REQUESTS[IOMMU_TEST_CMD] = _test


# Devices.


class _SelftestDevice(Device):
    """A device that is not part of the host."""

    def __init__(self, kernel: Kernel, number: int) -> None:
        self.kernel = kernel
        self.name = f"iommufd_mock{number}"
        self.driver = None
        self.space = None
        # A group of its own, outside the host's groups.
        self.group = Group(-number)
        self.group.devices.append(self)


class SelftestObject(Object):
    """The owner of such a device (struct selftest_obj), which is attached until this object is destroyed."""

    def __init__(self, ctx: Context, ioas: int, flags: int) -> None:
        super().__init__(ctx)
        # Hidden from lookups until iommufd_object_finalize.
        ctx.objects[self.id] = None
        try:
            if flags & ~(_NO_DIRTY | _PASID):
                raise Errno(errno.EINVAL)
            driver = Selftest(ctx.kernel.profile)
            driver.page_sizes, driver.aperture = _PAGE_SIZES, _APERTURE
            driver.dirty_tracking = not flags & _NO_DIRTY
            driver.pasid_bits = 20 if flags & _PASID else 0
            # pasid-num-bits of a device without PASIDs is 0, of which dev_iommu_get_max_pasids makes 1: only PASID 0.
            driver.max_pasids = 1 << driver.pasid_bits
            self.device = BoundDevice(ctx, _SelftestDevice(ctx.kernel, self.id), driver)
            try:
                self.hwpt = self.device.attach(ioas)
            except Errno:
                self.device.unbind()
                raise
        except Errno:
            ctx.abort(self)
            raise
        ctx.objects[self.id] = self

    def destroyed(self) -> None:
        self.device.unbind()


@operation(2)
@operation(12)
def _mock_domain(ctx: Context, number: int, union: bytes) -> bytes:
    flags = struct.unpack_from("=4I", union)[3]
    made = SelftestObject(ctx, number, flags)
    return struct.pack("=3I", made.id, made.hwpt, made.device.id)


@operation(10)
def _replace(ctx: Context, number: int, union: bytes) -> bytes:
    made = ctx.get(number, SelftestObject)
    return struct.pack("=I", made.device.replace(struct.unpack_from("=I", union)[0]))


@operation(18)
def _pasid_attach(ctx: Context, number: int, union: bytes) -> bytes:
    pasid, page_table = struct.unpack_from("=2I", union)
    device = ctx.get(number, SelftestObject).device
    return struct.pack("=2I", pasid, device.attach_pasid(page_table, pasid, replace=False))


@operation(19)
def _pasid_replace(ctx: Context, number: int, union: bytes) -> bytes:
    pasid, page_table = struct.unpack_from("=2I", union)
    device = ctx.get(number, SelftestObject).device
    return struct.pack("=2I", pasid, device.attach_pasid(page_table, pasid, replace=True))


@operation(20)
def _pasid_detach(ctx: Context, number: int, union: bytes) -> None:
    ctx.get(number, SelftestObject).device.leave(struct.unpack_from("=I", union)[0])


@operation(21)
def _pasid_check(ctx: Context, number: int, union: bytes) -> None:
    pasid, page_table = struct.unpack_from("=2I", union)
    hwpt, _ = ctx.get(number, SelftestObject).device.group.attached.get(pasid, (None, []))
    if page_table:
        wanted = ctx.get(page_table)
        if not isinstance(wanted, Hwpt) or wanted is not hwpt:
            raise Errno(errno.EINVAL)
    elif hwpt is not None:
        raise Errno(errno.EINVAL)


# Actions of devices and of the IOMMU.


@operation(1)
def _add_reserved(ctx: Context, number: int, union: bytes) -> None:
    start, size = struct.unpack_from("=2Q", union)
    if not size:
        raise Errno(errno.EINVAL)
    if start + size - 1 > LAST:
        raise Errno(errno.EOVERFLOW)
    ctx.get(number, Ioas).table.reserve(start, start + size - 1, None)


@operation(13)
def _dirty(ctx: Context, number: int, union: bytes) -> bytes:
    iova, size, page_size, address = struct.unpack_from("=8x4Q", union)
    if not page_size or not size or iova % page_size or size % page_size or not address:
        raise Errno(errno.EINVAL)
    pages = size // page_size
    if pages > 16 << 23:
        raise Errno(errno.EOVERFLOW)
    domain = _page_table(ctx, number).domain
    if not domain.tracking:
        raise Errno(errno.EINVAL)
    bits: int = int.from_bytes(caller.read(address, (pages + 7) // 8), "little") & (1 << pages) - 1
    count = bits.bit_count()
    while bits:
        lowest = (bits & -bits).bit_length() - 1
        domain.mark(iova + lowest * page_size)
        bits &= bits - 1
    return union[:40] + count.to_bytes(8, "little")


@operation(15)
def _fault(ctx: Context, _: int, union: bytes) -> None:
    number, pasid, group, permissions, address = struct.unpack_from("=4IQ", union)
    with contextlib.suppress(LookupError):
        ctx.get(number, BoundDevice).report_fault(address, pasid=pasid or None, group=group, permissions=permissions)


@operation(17)
def _event(ctx: Context, _: int, union: bytes) -> None:
    device = ctx.get(struct.unpack_from("=I", union)[0], BoundDevice)
    if device.listener is None or not device.listener[1]:
        raise Errno(errno.ENOENT)
    viommu, number = device.listener
    if EVENT not in viommu.event_queues:
        raise Errno(errno.EOPNOTSUPP)
    device.report_event(EVENT, (number & 0xFFFFFFFF).to_bytes(4, "little"))


# Checks of the IOMMU's state.


def _page_table(ctx: Context, number: int) -> PagingHwpt:
    hwpt = ctx.get(number, PagingHwpt)
    if not isinstance(hwpt.driver, Selftest):
        raise Errno(errno.EINVAL)
    return hwpt


@operation(3)
def _check_map(ctx: Context, number: int, union: bytes) -> None:
    iova, size, address = struct.unpack_from("=3Q", union)
    domain = _page_table(ctx, number).domain
    table, unit = domain.table, domain.page_sizes & -domain.page_sizes
    if (iova | size | address) % unit or address + size > LAST:
        raise Errno(errno.EINVAL)
    end = iova
    for area, start, last in table.contiguous(iova, iova + size - 1):
        caller.read(address + start - iova, 1)
        if area.pages.is_file or area.pages.address + area.offset(start) != address + start - iova:
            raise Errno(errno.EINVAL)
        end = last + 1
    if end != iova + size:
        raise Errno(errno.EINVAL)


@operation(14)
def _check_iotlb(ctx: Context, number: int, union: bytes) -> None:
    _check(ctx.get(number, NestedHwpt).cache, union)


@operation(16)
def _check_cache(ctx: Context, number: int, union: bytes) -> None:
    _check(ctx.get(number, BoundDevice).cache, union)


def _check(cache: list[int], union: bytes) -> None:
    index, value = struct.unpack_from("=2I", union)
    if index >= len(cache) or cache[index] != value:
        raise Errno(errno.EINVAL)
