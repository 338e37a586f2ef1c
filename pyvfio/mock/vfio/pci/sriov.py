# SPDX-License-Identifier: MIT
"""SR-IOV: virtual functions, created and removed by writes to `sriov_numvfs` of the physical function."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from pyvfio.mock.fs.sysfs import shown, text
from pyvfio.mock.fs.tree import Link, Text
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.parameter import number, truth
from pyvfio.mock.vfio.pci.function import Function

if TYPE_CHECKING:
    from pyvfio.mock.vfio.pci.device import PciDevice


#: the last devfn of a bus
_LAST_OF_BUS = 0xFF


class VirtualFunctions:
    """The virtual functions of one physical function, and the VF token.

    :ivar functions: the virtual functions, in order
    """

    def __init__(self, physical: PciDevice) -> None:
        self._physical = physical
        self.functions: list[PciDevice] = []
        self._probe = True
        self._token = os.urandom(16)

    def attributes(self) -> dict[str, Text]:
        return {
            "sriov_totalvfs": text(self._physical.function.virtual),
            "sriov_numvfs": shown(lambda: len(self.functions), self._set_number),
            "sriov_drivers_autoprobe": shown(lambda: int(self._probe), self._set_probe),
            "sriov_offset": text(self._physical.function.virtual_at[0]),
            "sriov_stride": text(self._physical.function.virtual_at[1]),
        }

    def _set_probe(self, data: bytes) -> None:
        self._probe = truth(data)

    def _set_number(self, data: bytes) -> None:
        physical = self._physical
        try:
            count = number(data, 16)
        except Errno:
            raise Errno(errno.EINVAL) from None
        if count > physical.function.virtual:
            raise Errno(errno.ERANGE)
        if count == len(self.functions):
            return
        driver = physical.kernel.host.driver_of(physical)
        may = driver is not None and (driver.virtual or (driver.vfio and physical.kernel.host.enable_sriov.value))
        if not may:
            raise Errno(errno.ENOENT)
        if count and self.functions:
            raise Errno(errno.EBUSY)
        if count:
            self._make(count)
        else:
            self.remove()

    def _make(self, count: int) -> None:
        physical = self._physical
        segment_and_bus, _, slot_and_function = physical.name.rpartition(":")
        slot, _, number = slot_and_function.partition(".")
        offset, stride = physical.function.virtual_at
        first = (int(slot, 16) << 3 | int(number)) + offset
        if first + (count - 1) * stride > _LAST_OF_BUS or count > physical.function.virtual_room:
            # sriov_enable: the bridge has no further bus number, or the firmware left too little address space for the
            # VF BARs.
            raise Errno(errno.ENOMEM)
        function = Function(
            (physical.ids[0], physical.function.virtual_device), physical.function.class_code, bars=dict(physical.function.bars),
            msix=3, msix_table=physical.function.msix_table, express=True, resets=True,
        )  # fmt: skip
        for index in range(count):
            at = first + index * stride
            name = f"{segment_and_bus}:{at >> 3:02x}.{at & 7}"
            one = physical.virtual_function(name, function, index)
            self.adopt(one)
            physical.kernel.host.uevents.tell("change", one.bus, one.path, **one.properties())
            if physical.vfio:
                # vfio_pci_bus_notifier sets driver_override of the virtual functions.
                one.override = physical.driver
            if self._probe or one.override is not None:
                physical.kernel.host.probe_driver(one)
        physical.kernel.host.uevents.tell("change", physical.bus, physical.path, **physical.properties())

    def adopt(self, one: PciDevice) -> None:
        """Add a virtual function as the next one, with its links in sysfs."""
        physical, tree = self._physical, self._physical.kernel.tree
        tree.add(f"{one.path}/physfn", Link(f"../{physical.name}"))
        tree.add(f"{physical.path}/virtfn{len(self.functions)}", Link(f"../{one.name}"))
        one.physical = self
        self.functions.append(one)

    def remove(self) -> None:
        """Unplug all virtual functions; a program that has one open is asked to release it."""
        physical = self._physical
        for index in range(len(self.functions)):
            physical.kernel.tree.remove(f"{physical.path}/virtfn{index}")
            physical.kernel.host.unplug(self.functions[0])
            self.functions.pop(0)

    # The VF token (vfio_pci_core_match_token_uuid).

    def set_token(self, token: bytes) -> None:
        self._token = token

    def check_physical(self, token: bytes | None) -> None:
        """Check the token that opens the physical function; it becomes the VF token while no virtual function is open.

        :raises Errno: EACCES, a virtual function is open, and `token` is not the VF token
        """
        if any(one.files for one in self.functions):
            if token != self._token:
                raise Errno(errno.EACCES)
        elif token is not None:
            self._token = token

    def check_virtual(self, token: bytes | None) -> None:
        """Check the token that opens a virtual function.

        :raises Errno: EINVAL, a token was given but the physical function is not bound to vfio-pci; EACCES, it is not
            the VF token
        """
        if not self._physical.vfio:
            if token is not None:
                raise Errno(errno.EINVAL)
        elif token != self._token:
            raise Errno(errno.EACCES)
