# SPDX-License-Identifier: MIT
"""Devices that the running system uses: those under its file systems, network and consoles, and those that processes have open."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import suppress

from pyvfio._core import arguments
from pyvfio.host import diagnosis
from pyvfio.host.consoles import consoles_in_use
from pyvfio.host.discovery import HostDevice, device
from pyvfio.host.disks import claimed_disks, disks_in_use, shared_file_systems_in_use
from pyvfio.host.holders import holders_of
from pyvfio.host.networks import elsewhere, networks_in_use
from pyvfio.host.nodes import find
from pyvfio.host.open_nodes import mapped_nodes, nodes_in_use
from pyvfio.host.sysfs import attribute, entries
from pyvfio.host.use import Use
from pyvfio.kernel import Kernel, resolve


def uses(kernel: Kernel | str | None = None) -> list[Use]:
    """Return every use of a device by the running system that the host shows.

    These are mounted disks and swap, active device mapper and md devices, routes, bridges and packet sockets, the kernel's consoles,
    DMA engines' channels, and every node under /dev, and every BAR in sysfs, that a process has open. Other users' processes are seen by
    root only.

    :param kernel: a kernel, or its name, as in `PYVFIO_KERNEL`; None for the default
    """
    kernel = resolve(kernel)
    return [
        *disks_in_use(kernel),
        *shared_file_systems_in_use(kernel),
        *networks_in_use(kernel),
        *consoles_in_use(kernel),
        *_dma_channels(kernel),
        *nodes_in_use(kernel),
    ]


def uses_of(found: HostDevice, kernel: Kernel) -> list[Use]:
    """Return every use by the running system that ends when a device loses its driver.

    It finds more than :func:`uses`, by checks that take longer or work for a single device only: nodes and BARs that are mapped, interfaces
    in other network namespaces, disks that are held exclusively, and devices below it and virtual functions that processes have open
    through VFIO. Virtual functions disappear with their physical function, so their uses count too.
    """
    everything = [*uses(kernel), *mapped_nodes(kernel)]
    carried = []
    for one in (found, *_functions(kernel, found)):
        mine = [use for use in everything if use.carried_by(one.path)]
        if not any(use.name.startswith("disk:") for use in mine):
            mine += claimed_disks(kernel, one.path)
        if one.vfio is None:
            mine += elsewhere(kernel, one.path)
        carried += mine
    return [*dict.fromkeys(carried), *_open_through_vfio(kernel, found)]


def _functions(kernel: Kernel, found: HostDevice) -> Iterator[HostDevice]:
    for name in found.virtual_functions:
        with suppress(OSError):  # removed meanwhile
            yield device(name, kernel)


def _open_through_vfio(kernel: Kernel, found: HostDevice) -> Iterator[Use]:
    """Yield the mediated devices below a device, and its virtual functions, that processes have open."""
    for name in entries(kernel, "/sys/class/vfio-dev"):
        path = kernel.realpath(f"/sys/class/vfio-dev/{name}/device")
        address = path.rpartition("/")[2]
        if not path.startswith(f"{found.path}/") and address not in found.virtual_functions:
            continue
        with suppress(OSError):  # removed meanwhile
            if holders := holders_of(find(address, kernel), kernel):
                yield Use(f"vfio:{address}", f"open in {'; '.join(map(str, holders))}", path)


def refuse_if_in_use(kernel: Kernel, found: HostDevice, allow_in_use: Collection[str]) -> None:
    """Refuse to take a device away from the system.

    :param allow_in_use: names of uses that may break
    :raises OSError: EBUSY, the system uses the device
    """
    allowed = _names(allow_in_use)
    if (finding := diagnosis.used_by_system(found.address, by_name(uses_of(found, kernel), but=allowed))) is not None:
        raise diagnosis.error(finding)


def by_name(found: Collection[Use], *, but: Collection[str] = ()) -> dict[str, str]:
    """Return name -> reasons of uses; the reasons of one name are joined."""
    whys: dict[str, list[str]] = {}
    for use in sorted(found):
        if use.name not in but:
            whys.setdefault(use.name, []).append(use.why)
    return {name: "; ".join(dict.fromkeys(why)) for name, why in whys.items()}


def _names(allow_in_use: object) -> Collection[str]:
    if isinstance(allow_in_use, str):
        return (allow_in_use,)
    if not isinstance(allow_in_use, Collection) or not all(isinstance(name, str) for name in allow_in_use):
        raise arguments.wrong_type(allow_in_use, "allow_in_use", "the names of uses")
    return allow_in_use


def _dma_channels(kernel: Kernel) -> Iterator[Use]:
    """Yield the channels of DMA engines that drivers have taken."""
    for name in entries(kernel, "/sys/class/dma"):
        path = kernel.realpath(f"/sys/class/dma/{name}")
        clients = attribute(kernel, f"{path}/in_use")
        if clients not in (None, "0") and not path.startswith("/sys/devices/virtual/"):
            yield Use(f"dma:{name}", f"clients of the DMA engine's channel: {clients}", path)
