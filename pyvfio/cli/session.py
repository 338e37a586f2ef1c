# SPDX-License-Identifier: MIT
"""Opening a device for a subcommand, and the options for that."""

from __future__ import annotations

import errno
from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pyvfio
from pyvfio import host
from pyvfio.cli import addresses
from pyvfio.cli.call import Call, NothingFound
from pyvfio.cli.describe import state
from pyvfio.host import HostDevice
from pyvfio.host.diagnosis import vfio_driver

if TYPE_CHECKING:
    from pyvfio import Device

OPENING = (
    "Opening the device resets the function where it can be reset, and turns bus master off; closing it does so again."
)


def add_options(parser: ArgumentParser) -> None:
    """Add the options that say how a device is opened."""
    options = parser.add_argument_group("how the device is opened", OPENING)
    options.add_argument(
        "--mode", help="iommufd (the default where the host has it), type1v2, type1, iommufd-type1v2, ..."
    )
    options.add_argument(
        "--bind",
        action="store_true",
        help="bind it to VFIO's general driver for the time of the command, if it is not bound to a VFIO driver",
    )
    options.add_argument("--bind-to", metavar="DRIVER", help="the same with another VFIO driver")
    options.add_argument("--vf-token", metavar="UUID", help="the token of a virtual function")
    options.add_argument(
        "--no-iommu", action="store_true", help="open a device without an IOMMU, which can reach all memory"
    )


@contextmanager
def opened(call: Call) -> Iterator[Device]:
    """Open the device that the arguments name, and close it at the end; with `--bind` bind and restore it around that."""
    given = call.arguments
    found = addresses.device(call.kernel, given.address)
    with ExitStack() as stack:
        if (given.bind or given.bind_to) and state(found) != "vfio":
            stack.enter_context(host.bind(found, given.bind_to or vfio_driver(found.bus), kernel=call.kernel))
        yield stack.enter_context(_open(call, found))


@contextmanager
def taken(call: Call, found: HostDevice) -> Iterator[Device]:
    """Take the device's descriptor out of the process that `--pid` names, and close the copy at the end.

    The other program continues undisturbed: the device is not reset, and its state does not change. It has no address space here.
    """
    holders = host.holders_of(found.nodes, call.kernel)
    number = next((holder.descriptor for holder in holders if holder.pid == call.arguments.pid), None)
    if number is None:
        others = "; ".join(map(str, holders)) or "nobody that can be seen from here"
        raise NothingFound(
            errno.ENODEV, f"process {call.arguments.pid} does not have {found.address} open; {others} has"
        )
    with pyvfio.Device.taken(found.address, call.arguments.pid, number, kernel=call.kernel) as device:
        yield device


def _open(call: Call, found: HostDevice) -> Device:
    """Open a device; the message of a refusal names the process that has it open."""
    given = call.arguments
    try:
        # pyvfio.open is imported by this access, so that subcommands that open no device start quickly.
        return pyvfio.open(
            found.address, mode=given.mode, vf_token=given.vf_token, no_iommu=given.no_iommu, kernel=call.kernel
        )
    except OSError as error:
        holders = host.holders_of(found.nodes, call.kernel)
        if holders and str(holders[0]) not in str(error):
            error.add_note(f"{found.address} is open in {'; '.join(map(str, holders))}")
        raise
