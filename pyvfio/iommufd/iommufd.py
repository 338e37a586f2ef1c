# SPDX-License-Identifier: MIT
"""An open `/dev/iommu`."""

from __future__ import annotations

import errno
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, Self

from pyvfio import host
from pyvfio import kernel as _kernel
from pyvfio._abi import ffi, lib
from pyvfio._buffer import Object
from pyvfio._core.arguments import boolean, instance, string
from pyvfio._core.fd import Fd
from pyvfio._core.node import open_node
from pyvfio._core.reasons import LOCKED, NOT_AWAKE, SEE_LOG
from pyvfio._core.request import Reason, Request
from pyvfio._core.resource import DescriptorResource
from pyvfio._core.vf_token import uuid_of
from pyvfio.device import Device
from pyvfio.errors import Unsupported
from pyvfio.host import causes, diagnosis
from pyvfio.host.diagnosis import Finding
from pyvfio.host.isolation import not_isolated
from pyvfio.host.nodes import Nodes, find
from pyvfio.iommufd.bound import BoundDevice
from pyvfio.iommufd.fault_queue import FaultQueue
from pyvfio.iommufd.ioas import Ioas
from pyvfio.iommufd.object import IOMMUFD, address
from pyvfio.iommufd.option import GET_RLIMIT_MODE, SET_RLIMIT_MODE
from pyvfio.kernel import Kernel
from pyvfio.spaces.no_iommu import admit

if TYPE_CHECKING:
    from uuid import UUID

    from pyvfio.spaces.container import Container

__all__ = ["Iommufd"]


VFIO_IOAS = Request(
    "IOMMU_VFIO_IOAS",
    "iommufd",
    "struct iommu_vfio_ioas",
    errnos={errno.ENODEV: "no compatibility address space is set; set one with Iommufd.set_vfio_ioas()"},
    otherwise=IOMMUFD,
)
CHANGE_PROCESS = Request(
    "IOMMU_IOAS_CHANGE_PROCESS",
    "iommufd",
    "struct iommu_ioas_change_process",
    errnos={
        errno.EINVAL: "a mapping does not come from Ioas.map_file(); only file mappings can be charged to another process"
    },
    otherwise=IOMMUFD,
)


class BindFacts(NamedTuple):
    """The facts about a device that could not be bound.

    :ivar device: its address
    :ivar token: whether a vf_token was given
    :ivar kernel: the kernel that refused it
    :ivar descriptor: the descriptor of the device
    """

    device: str
    token: bool
    kernel: Kernel
    descriptor: int

    @property
    def nodes(self) -> Nodes | None:
        """The device's group and nodes; None where they cannot be found out."""
        with suppress(OSError, ValueError):
            return find(self.device, self.kernel)
        return None

    @property
    def group(self) -> int | None:
        """The number of its group; None where it is not known."""
        return None if (nodes := self.nodes) is None else nodes.group


def _not_isolated(facts: BindFacts) -> Reason | Finding:
    return not_isolated(facts.kernel, facts.device, "iommufd.allow_unsafe_interrupts") or SEE_LOG


def _in_use(facts: BindFacts) -> Reason | Finding:
    path = None if (nodes := facts.nodes) is None else nodes.group_path
    held = None if path is None else causes.group_holder(facts.kernel, path)
    if held is not None:
        return held._replace(reason=f"its group is in use: {held.reason}")
    return causes.group_member(facts.kernel, facts.group) or Reason(
        "its group is in use: it is open through /dev/vfio/N, or a driver of the kernel uses it", SEE_LOG.advice
    )


def _bad_bind(facts: BindFacts) -> Reason | Finding:
    if (held := causes.device_holder(facts.kernel, facts.device, but=facts.descriptor)) is not None:
        return held
    if (unwanted := diagnosis.vf_token(facts.device, given=facts.token, wanted=False)) is not None:
        older = (
            "before Linux 6.18 a device that is opened by cdev neither needs nor accepts a vf_token; open it by group: "
        )
        return Reason.of(unwanted, f'{older}mode="type1v2"')
    return causes.direct_region(facts.kernel, facts.group) or Reason(
        "most likely the device is bound to an iommufd already, or its IOMMU does not keep it coherent with the processor's caches",
        SEE_LOG.advice,
    )


def _token_refused(facts: BindFacts) -> Finding | None:
    functions = causes.open_virtual_functions(facts.kernel, facts.device)
    return diagnosis.vf_token(facts.device, given=facts.token, wanted=True, functions=functions)


BIND = Request(
    "VFIO_DEVICE_BIND_IOMMUFD",
    "device",
    "struct vfio_device_bind_iommufd",
    errnos={
        errno.EINVAL: _bad_bind,
        errno.EACCES: _token_refused,
        errno.EBUSY: _in_use,
        errno.EPERM: _not_isolated,
    },
    otherwise={errno.EAGAIN: LOCKED, errno.EIO: NOT_AWAKE},
)


class Iommufd(DescriptorResource):
    """An open `/dev/iommu`, with its own set of objects. Closing it closes them all, devices first.

    :raises OSError: ENOENT when the kernel has no iommufd (before Linux 6.2, or without CONFIG_IOMMUFD); EACCES
    """

    def __init__(self, *, kernel: Kernel | str | None = None) -> None:
        super().__init__(None)
        self._container: Container | None = None
        self._fd = open_iommu(_kernel.resolve(kernel))

    @classmethod
    def _of(cls, container: Container, fd: Fd) -> Self:
        """Return the Iommufd behind a container in a compatibility mode; the container owns the descriptor."""
        self = cls.__new__(cls)
        super().__init__(self, container)
        self._fd = fd
        self._container = container
        self._register()
        return self

    @property
    def descriptor(self) -> Fd:
        """The descriptor, for requests of its objects. Not part of the API."""
        return self._fd

    def fileno(self) -> int:
        """Return the descriptor of /dev/iommu."""
        return self._fd.fileno()

    # Objects.

    def ioas(self) -> Ioas:
        """Allocate an empty address space. IOMMU_IOAS_ALLOC."""
        return Ioas(self)

    def fault_queue(self) -> FaultQueue:
        """Allocate a queue that page tables can report I/O page faults to. IOMMU_FAULT_QUEUE_ALLOC, since Linux 6.11."""
        return FaultQueue(self)

    def bind(self, where: str, *, vf_token: UUID | str | bytes | None = None, no_iommu: bool = False) -> Device:
        """Open a device by its cdev and bind it to this file. VFIO_DEVICE_BIND_IOMMUFD, since Linux 6.6.

        Until it is attached to an address space it can do no DMA; see :meth:`Device.attach`.

        :param where: the device's address, "0000:00:03.0", or its name on another bus
        :param vf_token: see :meth:`Device.set_vf_token`; since Linux 6.18
        :param no_iommu: open the device even if it has no IOMMU, so that its DMA reaches all memory; since Linux 7.3
        :raises InvalidRequest: the device has no IOMMU, and `no_iommu` is False
        :raises Unsupported: the device has no cdev: it is not bound to a VFIO driver, or the kernel has no cdevs
        :raises OSError: EINVAL if the device is bound already, here or elsewhere, or takes no vf_token; EACCES if the vf_token is wrong or
            missing; EBUSY if the device is open through its group's file; EPERM if another program or driver owns a device of its group,
            or the IOMMU cannot isolate interrupts and that has not been allowed
        """
        string(where, "where")
        boolean(no_iommu, "no_iommu")
        self._fd.check_open()
        uuid = None if vf_token is None else uuid_of(vf_token)
        found = find(where, self._fd.kernel)
        if found.cdev is None:
            raise Unsupported(
                host.device(where, self._fd.kernel).advice
                or f"{found.address} has no file under /dev/vfio/devices: this kernel opens devices by group only; use "
                'mode="type1v2"'
            )
        admit(found, allowed=no_iommu)
        fd = open_node(self._fd.kernel, found.cdev, "device", device=found.address)
        fd.name = found.address
        try:
            made = self._bind(fd, uuid)
            return Device(fd, found.address, None, bound=BoundDevice(self, made.id, found.address))
        except BaseException:
            fd.close()
            raise

    # Options of the iommufd.

    @property
    def rlimit_mode(self) -> bool:
        """Whether locked memory is accounted per process, as type1 does, rather than per user.

        IOMMU_OPTION with IOMMU_OPTION_RLIMIT_MODE.

        :raises OSError: when set: EBUSY once an object exists; EPERM without CAP_SYS_RESOURCE
        """
        return bool(self.option(GET_RLIMIT_MODE))

    @rlimit_mode.setter
    def rlimit_mode(self, by_process: bool) -> None:
        self.option(SET_RLIMIT_MODE, value=int(boolean(by_process, "rlimit_mode")))

    def option(self, operation: Request, object_id: int = 0, value: int = 0) -> int:
        """Read or set an option of the iommufd or of one of its objects. IOMMU_OPTION. Not part of the API.

        :param operation: one of the operations declared in :mod:`pyvfio.iommufd.option`
        :param object_id: the object; 0 for the iommufd itself
        :param value: the value to set
        :returns: the value of the option
        """
        op, option = operation.detail.split()
        native = operation.call(
            self._fd,
            option_id=getattr(lib, f"IOMMU_OPTION_{option}"),
            op=getattr(lib, f"IOMMU_OPTION_OP_{op}"),
            object_id=object_id,
            val64=value,
        )
        return int(native.val64)

    # The compatibility address space, which VFIO's container requests use on this file.

    @property
    def vfio_ioas_id(self) -> int:
        """The id of the compatibility address space. IOMMU_VFIO_IOAS with IOMMU_VFIO_IOAS_GET.

        :raises OSError: ENODEV when none is set
        """
        return int(VFIO_IOAS.call(self._fd, op=lib.IOMMU_VFIO_IOAS_GET).ioas_id)

    def set_vfio_ioas(self, ioas: Ioas) -> None:
        """Make `ioas` the compatibility address space. IOMMU_VFIO_IOAS with IOMMU_VFIO_IOAS_SET.

        :param ioas: an address space of this iommufd
        """
        instance(ioas, "ioas", Ioas, "a pyvfio.Ioas")
        VFIO_IOAS.call(self._fd, op=lib.IOMMU_VFIO_IOAS_SET, ioas_id=ioas._id_in(self))

    def clear_vfio_ioas(self) -> None:
        """Unset the compatibility address space, which continues to exist. IOMMU_VFIO_IOAS with IOMMU_VFIO_IOAS_CLEAR."""
        VFIO_IOAS.call(self._fd, op=lib.IOMMU_VFIO_IOAS_CLEAR)

    def change_process(self) -> None:
        """Charge the pinned memory to the calling process, which has received the iommufd from another.

        IOMMU_IOAS_CHANGE_PROCESS, since Linux 6.14.

        :raises OSError: EINVAL unless every mapping is a file mapping (:meth:`Ioas.map_file`)
        """
        CHANGE_PROCESS.call(self._fd)

    def _bind(self, fd: Fd, vf_token: UUID | None) -> Object:
        if vf_token is not None:
            given = ffi.new("uint8_t[16]", vf_token.bytes)
            flags = lib.VFIO_DEVICE_BIND_FLAG_TOKEN
            native = BIND.new(iommufd=self.fileno(), flags=flags, token_uuid_ptr=address(given))
        else:
            # Kernels before 6.18 do not know the token, and accept only the shorter struct.
            native = BIND.new(until="token_uuid_ptr", iommufd=self.fileno())
        made = Object()
        place = ffi.addressof(native[0], "out_devid")
        facts = BindFacts(fd.name, vf_token is not None, fd.kernel, fd.fileno())
        BIND.receive(fd, native, (place, made), arguments={"iommufd": self._fd.name}, facts=lambda _: facts)
        return made

    def _release(self) -> None:
        if self._container is None:
            self._fd.close()

    @property
    def _gone_as_a_whole(self) -> bool:
        """Whether closing the descriptor has already destroyed all objects, so that none needs IOMMU_DESTROY."""
        return self._fd.closed or (self._closed and self._container is None)

    def __repr__(self) -> str:
        kernel = self._fd.kernel.name
        return f"<Iommufd{'' if kernel == 'linux' else ' on ' + kernel}{' (closed)' if self.closed else ''}>"


def open_iommu(kernel: Kernel) -> Fd:
    """Open /dev/iommu.

    :raises OSError: see :class:`Iommufd`
    """
    return open_node(kernel, "/dev/iommu", "iommufd", absent=diagnosis.iommufd_missing)
