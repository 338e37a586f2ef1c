# SPDX-License-Identifier: MIT
"""Bind devices to a driver. They stay bound; `restore` puts them back to the drivers that they had before.

Of several devices all are bound or none. A device that the system uses (a mounted disk, the default route, the console) is
refused. VFIO can be used when no member of the IOMMU group is bound to another driver that does DMA."""

from __future__ import annotations

import grp
import pwd
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import NamedTuple

from pyvfio import host
from pyvfio.cli import addresses, describe, exit_code
from pyvfio.cli.call import Call, UsageError
from pyvfio.host import HostDevice
from pyvfio.host.diagnosis import vfio_driver
from pyvfio.kernel import Kernel


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    addresses.add_address(parser, nargs="+")
    parser.add_argument("--driver", metavar="NAME", help="default: VFIO's general driver for the bus, such as vfio-pci")
    parser.add_argument(
        "--group", action="store_true", help="also those members of the IOMMU groups that keep VFIO from them"
    )
    parser.add_argument(
        "--user",
        metavar="USER[:GROUP]",
        help="give the nodes to this user, by a udev rule too: it grants the DMA of the whole IOMMU group",
    )
    parser.add_argument(
        "--at-boot",
        action="store_true",
        help="bind them at each boot too, by a file of driverctl's or a udev rule; `restore` ends that",
    )
    add_binding_options(parser)


def add_binding_options(parser: ArgumentParser) -> None:
    """Add the options that `bind` and `unbind` share."""
    parser.add_argument("--dry-run", action="store_true", help="check everything and list the writes; change nothing")
    parser.add_argument(
        "--allow-in-use", action="append", default=[], metavar="NAME", help="a use that may break, such as network:eth0"
    )
    parser.add_argument(
        "--timeout", type=float, default=10.0, metavar="SECONDS", help="to wait for a process to close it (%(default)s)"
    )


def execute(call: Call) -> int:
    """Bind the devices."""
    given = call.arguments
    found = [addresses.device(call.kernel, one) for one in given.address]
    if given.group:
        found += _in_the_way(call.kernel, found)
    drivers = {given.driver or vfio_driver(one.bus) for one in found}
    if len(drivers) > 1:
        raise UsageError(
            f"the devices are on buses with different VFIO drivers ({', '.join(sorted(drivers))}): name one by --driver"
        )
    owner = None if given.user is None else _owner(given.user)
    before = {one.address: one.driver for one in found}
    binding = host.bind(
        found,
        drivers.pop(),
        allow_in_use=given.allow_in_use,
        timeout=given.timeout,
        at_boot=given.at_boot,
        dry_run=given.dry_run,
        kernel=call.kernel,
    )
    files = [write.path for write in binding.writes if write.path.startswith("/etc/")]
    grants = [f"bound at each boot too, by {', '.join(files)}; `pyvfio restore` ends that"] if files else []
    if owner is not None and not given.dry_run:
        grants += [_grant(call.kernel, one, owner) for one in binding.devices]
    print_binding(call, binding, before, grants)
    return exit_code.DONE


class _Owner(NamedTuple):
    """A user and a group, by name and number."""

    names: tuple[str, str]
    user: int
    group: int


def _owner(text: str) -> _Owner:
    """Return the owner that USER[:GROUP] means, by name or number; without a group, the user's own."""
    user, _, group = text.partition(":")
    try:
        known = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
        of = (
            grp.getgrgid(int(group) if group.isdecimal() else known.pw_gid)
            if not group or group.isdecimal()
            else grp.getgrnam(group)
        )
    except KeyError as error:
        raise UsageError(f"--user {text}: {error.args[0]!s}") from None
    return _Owner((known.pw_name, of.gr_name), known.pw_uid, of.gr_gid)


def _grant(kernel: Kernel, found: HostDevice, owner: _Owner) -> str:
    given = host.grant(found, owner.user, owner.group, names=owner.names, kernel=kernel)
    name = ":".join(owner.names)
    rule = (
        f", by {given.rule} until the next boot" if given.rule else "; there is no udev, so not after the next binding"
    )
    return f"{', '.join(given.nodes)} belong to {name}{rule}. This grants the DMA of all of group {found.group}; /dev/iommu stays as it is"


def _in_the_way(kernel: Kernel, found: list[HostDevice]) -> list[HostDevice]:
    known = {one.address for one in found}
    numbers = sorted({one.group for one in found if one.group is not None})
    members = [address for number in numbers for address in host.group(number, kernel).in_the_way]
    return [host.device(address, kernel) for address in dict.fromkeys(members) if address not in known]


def print_binding(call: Call, binding: host.Binding, before: dict[str, str | None], notes: Sequence[str] = ()) -> None:
    """Print what was bound, or with `--dry-run` what would be written."""
    documents = [
        {
            "address": one.address,
            "previous_driver": before[one.address],
            "driver": one.driver
            if not binding.dry_run
            else None
            if binding.driver == host.NO_DRIVER
            else binding.driver,
            "changed": (before[one.address] or host.NO_DRIVER) != binding.driver,
            "group_node": one.group_path,
            "cdev": one.cdev,
        }
        for one in binding.devices
    ]
    if call.out.json:
        writes = [{"path": one.path, "text": one.text} for one in binding.writes]
        call.out.document({"dry_run": binding.dry_run, "devices": documents, "writes": writes})
        return
    if binding.dry_run:
        for write in binding.writes:
            call.out.raw(str(write))
        if not binding.writes:
            call.out.line("nothing to do")
        return
    for one, device in zip(documents, binding.devices, strict=True):
        was = one["previous_driver"] or "no driver"
        now = one["driver"] or "no driver"
        call.out.line(
            f"{one['address']}: {was} -> {now}" if one["changed"] else f"{one['address']}: is bound to {now} already"
        )
        if nodes := ", ".join(path for path in (device.group_path, device.cdev) if path):
            call.out.line(f"  nodes: {nodes}")
    for line in notes:
        call.out.line(f"  {line}")
    groups = sorted({one.group for one in binding.devices if one.group is not None and describe.state(one) == "vfio"})
    for number in groups:
        blocked = host.group(number, call.kernel).in_the_way
        if blocked:
            named = ", ".join(f"{address} ({driver})" for address, driver in blocked.items())
            call.out.line(
                f"group {number} cannot be used yet: {named} in it. Bind these too: pyvfio bind {' '.join(blocked)}"
            )
