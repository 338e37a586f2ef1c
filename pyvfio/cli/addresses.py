# SPDX-License-Identifier: MIT
"""Devices by the names that users type."""

from __future__ import annotations

import errno
import os
import re
from argparse import ArgumentParser
from typing import Any

from pyvfio import host
from pyvfio._core import arguments
from pyvfio.cli.call import NothingFound
from pyvfio.host import HostDevice
from pyvfio.kernel import Kernel

_SLOT = re.compile(r"([0-9a-fA-F]{1,2})\.([0-7])")
_BUS_SLOT = re.compile(r"(?:([0-9a-fA-F]{1,4}):)?([0-9a-fA-F]{1,2}):([0-9a-fA-F]{1,2})\.([0-7])")
_VFIO = re.compile(r"(?:/dev/vfio/devices/)?((?:noiommu-)?vfio[0-9]+)")


def add_address(parser: ArgumentParser, **more: Any) -> None:
    """Add the argument ADDRESS."""
    parser.add_argument(
        "address",
        metavar="ADDRESS",
        help="the device: 0000:41:10.1, 41:10.1, vfio0, ...",
        **more,
    )


def device(kernel: Kernel, text: str) -> HostDevice:
    """Return the device of a name that a user has typed.

    :raises NothingFound: there is no such device
    :raises ValueError: not a valid device name
    """
    name = arguments.string(text, "text")
    if slot := _SLOT.fullmatch(text):
        name = f"0000:00:{int(slot[1], 16):02x}.{slot[2]}"
    elif pci := _BUS_SLOT.fullmatch(text):
        domain, bus, number = (int(one or "0", 16) for one in pci.groups()[:3])
        name = f"{domain:04x}:{bus:02x}:{number:02x}.{pci[4]}"
    elif (vfio := _VFIO.fullmatch(text)) and kernel.exists(link := f"/sys/class/vfio-dev/{vfio[1]}/device"):
        name = os.path.basename(kernel.realpath(link))
    try:
        return host.device(name, kernel)
    except OSError as error:
        if error.errno == errno.ENODEV:
            raise NothingFound(errno.ENODEV, str(error.strerror)) from None
        raise
