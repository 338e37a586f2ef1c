# SPDX-License-Identifier: MIT
"""A group: the devices that an IOMMU cannot tell apart, as `/dev/vfio/N`."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from pyvfio import host
from pyvfio import kernel as _kernel
from pyvfio._abi import ffi, lib
from pyvfio._buffer import Object
from pyvfio._core import arguments
from pyvfio._core.fd import Fd
from pyvfio._core.node import open_node
from pyvfio._core.reasons import LOCKED, NOT_AWAKE, SEE_LOG
from pyvfio._core.request import Reason, Request
from pyvfio._core.resource import DescriptorResource, Resource
from pyvfio.errors import NotViable
from pyvfio.host import causes, diagnosis
from pyvfio.host.diagnosis import Finding
from pyvfio.host.isolation import not_isolated
from pyvfio.kernel import Kernel

if TYPE_CHECKING:
    from pyvfio.spaces.container import Container

__all__ = ["Group"]


class Members(NamedTuple):
    """The facts about a group that a request failed on.

    :ivar number: the number of the group
    :ivar drivers: address -> driver of its devices; empty if they cannot be found out
    :ivar container: whether it is in a container
    :ivar device: the device that was asked for
    :ivar token: whether that came with a vf_token
    :ivar cause: the cause of this errno, if sysfs or /proc shows it; None if not
    """

    number: int
    drivers: dict[str, str | None]
    container: bool = True
    device: str = ""
    token: bool = False
    cause: Finding | None = None

    @property
    def shown(self) -> str:
        """The devices of the group and their drivers, as text."""
        return f"the group's devices and their drivers: {_listed(self.drivers)}"


def _no_node(number: int, kernel: Kernel, path: str) -> Reason | Finding:
    """Return the reason why a group has no node."""
    vfio = kernel.exists("/dev/vfio/vfio") or kernel.exists("/dev/vfio")
    if not vfio and (missing := diagnosis.vfio_missing()) is not None:
        return missing
    in_sysfs = kernel.exists(f"/sys/class/vfio/{os.path.basename(path)}")
    if (absent := diagnosis.node_missing(path, in_sysfs=in_sysfs)) is not None:
        return absent
    facts = _members(number, kernel)
    bind = tuple(f"pyvfio.host.bind({address!r}, 'vfio-pci')" for address in facts.drivers)
    return Reason(f"no device of group {number} is bound to a VFIO driver such as vfio-pci", (facts.shown, *bind[:1]))


def _open_elsewhere(number: int, kernel: Kernel, path: str) -> Finding:
    """Return the finding for EBUSY of a group: the process that has the group's node, or the node of one of its devices, open."""
    found = causes.group_holder(kernel, path) or causes.neighbour_holder(kernel, number, "")
    if found is None:
        return diagnosis.held(f"group {number}", [], group=True)
    return found._replace(reason=f"{found.reason}; a group can be opened only once")


GET_STATUS = Request("VFIO_GROUP_GET_STATUS", "group", "struct vfio_group_status")


def _cause(facts: Members) -> Reason | Finding:
    return facts.cause or SEE_LOG


def _not_set(facts: Members) -> Reason | Finding:
    if facts.cause is not None:
        return facts.cause
    if facts.container:
        return Reason("the group is in a container already: a group has one container at a time")
    return Reason(
        "the group is in another container, or the container has groups behind another kind of IOMMU",
        ("use a new container for it",),
    )


SET_CONTAINER = Request(
    "VFIO_GROUP_SET_CONTAINER", "group", errnos={errno.EINVAL: _not_set}, otherwise={errno.EPERM: _cause}
)
UNSET_CONTAINER = Request(
    "VFIO_GROUP_UNSET_CONTAINER",
    "group",
    errnos={
        errno.EBUSY: "a device of the group is still open: close it first",
        errno.EINVAL: "the group is in no container",
    },
)


def _no_device(facts: Members) -> Reason:
    return Reason(f"{facts.device} is not in group {facts.number}, or not bound to a VFIO driver", (facts.shown,))


def _device_refused(facts: Members) -> Reason | Finding | None:
    if facts.cause is not None:
        return facts.cause
    if not facts.container:
        return Reason("the group is in no container: Container.add_group() puts it there")
    if facts.token:
        return diagnosis.vf_token(facts.device, given=True, wanted=False)
    return Reason("no IOMMU type is set for the group's container")


GET_DEVICE_FD = Request(
    "VFIO_GROUP_GET_DEVICE_FD",
    "group",
    errnos={
        errno.ENODEV: _no_device,
        errno.EINVAL: _device_refused,
        errno.EACCES: lambda facts: facts.cause or diagnosis.vf_token(facts.device, given=facts.token, wanted=True),
    },
    otherwise={errno.EPERM: _cause, errno.EAGAIN: LOCKED, errno.EIO: NOT_AWAKE},
)


class Group(DescriptorResource):
    """An open group, `/dev/vfio/N`. The kernel lets only one process open it, once.

    :param number: the number of the IOMMU group
    :param no_iommu: open the group that VFIO made for a device without an IOMMU, `/dev/vfio/noiommu-N`
    :param kernel: a kernel, or its name, as in `PYVFIO_KERNEL`; None for the default
    :param parent: the resource that closes the group before itself; None if there is none
    :raises OSError: ENOENT if no device of the group is bound to a VFIO driver; EBUSY if the group is already open; EACCES or
        EPERM without permission

    :ivar number: the number of the IOMMU group
    """

    def __init__(
        self, number: int, *, no_iommu: bool = False, kernel: Kernel | str | None = None, parent: Resource | None = None
    ) -> None:
        super().__init__(parent)
        self.number = number = arguments.u32(number, "number")
        kernel = _kernel.resolve(kernel)
        path = f"/dev/vfio/{'noiommu-' if no_iommu else ''}{number}"
        self._container: Container | None = None
        absent, busy = partial(_no_node, number, kernel, path), partial(_open_elsewhere, number, kernel, path)
        self._fd = open_node(kernel, path, "group", absent=absent, busy=busy)

    @property
    def flags(self) -> int:
        """The VFIO_GROUP_FLAGS_* of the group. VFIO_GROUP_GET_STATUS, `struct vfio_group_status`."""
        return int(GET_STATUS.call(self._fd).flags)

    @property
    def viable(self) -> bool:
        """Whether the kernel reports every device of the group as usable by VFIO (VFIO_GROUP_FLAGS_VIABLE)."""
        return bool(self.flags & lib.VFIO_GROUP_FLAGS_VIABLE)

    @property
    def members(self) -> dict[str, str | None]:
        """The devices of the group: address -> driver, or None without a driver."""
        return host.group_members(self.number, self._fd.kernel)

    def fileno(self) -> int:
        """The descriptor of /dev/vfio/N."""
        return self._fd.fileno()

    def set_container(self, container: Container) -> None:
        """Put the group into a container. VFIO_GROUP_SET_CONTAINER.

        :param container: the container to put it into
        :raises NotViable: a member is bound to a driver that is not VFIO's
        :raises OSError: EINVAL when it has a container already; EINVAL or EPERM when the IOMMUs do not agree
        """
        if not self.viable:
            members = self.members
            finding = diagnosis.group_not_viable(self.number, members)
            why = finding.reason if finding is not None else f"its devices and their drivers: {_listed(members)}"
            error = NotViable(f"group {self.number} is not viable: {why}", self.number, members)
            if finding is not None and finding.cure is not None:
                error.add_note(finding.cure)
            raise error
        number = ffi.new("int32_t *", container.fileno())
        made = Object()
        try:
            arguments = {"container": container}
            SET_CONTAINER.receive(self._fd, number, (ffi.NULL, made), arguments=arguments, facts=self._facts)
        finally:
            if made.present:
                self._container = container

    def unset_container(self) -> None:
        """Remove the group from its container. VFIO_GROUP_UNSET_CONTAINER.

        The container loses its IOMMU type and all mappings with its last group.

        :raises OSError: EBUSY while a device of the group is open, EINVAL without a container
        """
        container, made = self._container, Object()
        try:
            UNSET_CONTAINER.receive(self._fd, ffi.NULL, (ffi.NULL, made))
        finally:
            if made.present:
                self._container = None
                if container is not None:
                    try:
                        container._left_by(self)
                    except BaseException:
                        container._left_by(self)
                        raise

    def device_fd(self, name: str) -> Fd:
        """Open a device of the group by its name. VFIO_GROUP_GET_DEVICE_FD.

        :param name: the device's address, with ` vf_token=UUID` behind it where its driver wants one
        :raises OSError: ENODEV when it is not in the group or not bound to a VFIO driver; EINVAL without a container;
            EACCES for a token that is wrong or missing, EINVAL for a token that the device does not take
        """
        if "\0" in arguments.string(name, "name"):
            # The kernel would read the name up to the NUL, and open another device.
            raise ValueError(f"name must not have a NUL character: {name!r}")
        text = ffi.new("char[]", os.fsencode(name))
        token = "vf_token=" in name
        fd = Fd.unopened(self._fd.kernel, "device", name)
        GET_DEVICE_FD.receive(
            self._fd,
            text,
            (ffi.NULL, fd),
            arguments={"device": name},
            facts=lambda error: self._opening(error, name.partition(" ")[0], token),
        )
        return fd

    def _opening(self, error: int, address: str, token: bool) -> Members:
        """Collect the facts about a device that could not be opened."""
        kernel, cause = self._fd.kernel, None
        if error == errno.EACCES:
            functions = causes.open_virtual_functions(kernel, address)
            cause = diagnosis.vf_token(address, given=token, wanted=True, functions=functions)
        elif self._container is not None and not token:
            # If the container is an iommufd, the kernel claims the group only at this request, not at VFIO_GROUP_SET_CONTAINER.
            if error == errno.EINVAL:
                cause = causes.direct_region(kernel, self.number)
            elif error == errno.EPERM:
                cause = not_isolated(kernel, address, "iommufd.allow_unsafe_interrupts")
        return self._facts(0)._replace(device=address, token=token, cause=cause)

    def _facts(self, error: int) -> Members:
        """Collect the facts about a request; for EINVAL and EPERM of VFIO_GROUP_SET_CONTAINER the likely cause too."""
        kernel, cause = self._fd.kernel, None
        if error == errno.EINVAL and self._container is None:
            cause = causes.direct_region(kernel, self.number)
        elif error == errno.EPERM:
            cause = causes.group_member(kernel, self.number) or causes.neighbour_holder(kernel, self.number, "")
            # From Linux 5.19 to 6.5 the Intel IOMMU driver refuses to attach another domain to a device with a direct-mapped region.
            cause = cause or causes.direct_region(kernel, self.number)
        return _members(self.number, kernel)._replace(container=self._container is not None, cause=cause)

    def _release(self) -> None:
        try:
            self._fd.close()
        finally:
            if self._fd.closed and self._container is not None:
                self._container._left_by(self)

    def __repr__(self) -> str:
        return f"<Group {self.number}{' (closed)' if self.closed else ''}>"


def _members(number: int, kernel: Kernel) -> Members:
    drivers: dict[str, str | None] = {}
    with suppress(OSError):
        drivers = host.group_members(number, kernel)
    return Members(number, drivers)


def _listed(members: dict[str, str | None]) -> str:
    return ", ".join(f"{name} ({driver or 'no driver'})" for name, driver in members.items()) or "none found"
