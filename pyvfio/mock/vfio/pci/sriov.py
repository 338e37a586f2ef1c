# SPDX-License-Identifier: MIT
"""Virtual functions: made and removed through files of the physical function's."""

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


#: the last slot and function of a bus
_LAST_OF_BUS = 0xFF


class VirtualFunctions:
    """The virtual functions of one physical function, and the token that opening any of them needs.

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
            # The bridge above has no further bus, or the firmware left no room for their BARs (sriov_enable).
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
                # Those of a function that VFIO has are VFIO's too.
                one.override = physical.driver
            if self._probe or one.override is not None:
                physical.kernel.host.probe_driver(one)
        physical.kernel.host.uevents.tell("change", physical.bus, physical.path, **physical.properties())

    def adopt(self, one: PciDevice) -> None:
        """It is the next of them."""
        physical, tree = self._physical, self._physical.kernel.tree
        tree.add(f"{one.path}/physfn", Link(f"../{physical.name}"))
        tree.add(f"{physical.path}/virtfn{len(self.functions)}", Link(f"../{one.name}"))
        one.physical = self
        self.functions.append(one)

    def remove(self) -> None:
        """Away with all; who has one open is asked for it."""
        physical = self._physical
        for index in range(len(self.functions)):
            physical.kernel.tree.remove(f"{physical.path}/virtfn{index}")
            physical.kernel.host.unplug(self.functions[0])
            self.functions.pop(0)

    # The token, by vfio-pci's rules.

    def set_token(self, token: bytes) -> None:
        self._token = token

    def check_physical(self, token: bytes | None) -> None:
        """
        :raises Errno: EACCES, virtual functions are open, and it is not theirs
        """
        if any(one.files for one in self.functions):
            if token != self._token:
                raise Errno(errno.EACCES)
        elif token is not None:
            self._token = token

    def check_virtual(self, token: bytes | None) -> None:
        """
        :raises Errno: EINVAL, the physical function is not vfio-pci's, and nobody has a token; EACCES, another is needed
        """
        if not self._physical.vfio:
            if token is not None:
                raise Errno(errno.EINVAL)
        elif token != self._token:
            raise Errno(errno.EACCES)
