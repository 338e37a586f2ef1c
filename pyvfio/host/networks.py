# SPDX-License-Identifier: MIT
"""Network interfaces in use: routes, bridges and bonds, packet sockets, netconsole, and those of other network namespaces."""

from __future__ import annotations

import os
from collections.abc import Iterator

from pyvfio.host.sysfs import attribute, entries
from pyvfio.host.use import Use
from pyvfio.kernel import Kernel

_CLASS = "/sys/class/net"
_ZERO = "0" * 32
#: ETH_P_LLDP: daemons have such a socket for every interface, which does not mean that the interface is in use
_LLDP = 0x88CC


def networks_in_use(kernel: Kernel) -> Iterator[Use]:
    """Yield the network adapters that routes, bridges, bonds, packet sockets and netconsole use."""
    reasons: dict[str, list[str]] = {}
    for name, why in (*_routes(kernel), *_masters(kernel), *_sockets(kernel), *_netconsoles(kernel)):
        reasons.setdefault(name, []).append(why)
    for name, whys in sorted(reasons.items()):
        why = ", ".join(one for one in dict.fromkeys(whys) if one != "a route" or "the default route" not in whys)
        for path in sorted(adapters(kernel, name)):
            if kernel.exists(path) and not path.startswith("/sys/devices/virtual/"):
                yield Use(f"network:{name}", why, path)


def _routes(kernel: Kernel) -> Iterator[tuple[str, str]]:
    for line in (attribute(kernel, "/proc/net/route") or "").splitlines()[1:]:
        fields = line.split()
        if len(fields) > 7 and fields[0] != "lo":
            default = fields[1] == fields[7] == "00000000"
            yield fields[0], "the default route" if default else "a route"
    for line in (attribute(kernel, "/proc/net/ipv6_route") or "").splitlines():
        fields = line.split()
        if len(fields) < 10 or fields[9] == "lo":
            continue
        if fields[0] == _ZERO and fields[1] == "00":
            yield fields[9], "the default route"
        # Every interface that is up has routes for link-local addresses and multicast.
        elif not fields[0].startswith(("fe8", "ff")):
            yield fields[9], "a route"


def _masters(kernel: Kernel) -> Iterator[tuple[str, str]]:
    for name in entries(kernel, _CLASS):
        path = f"{_CLASS}/{name}"
        if kernel.exists(f"{path}/master"):
            yield name, f"a port of {os.path.basename(kernel.realpath(f'{path}/master'))}"


def _sockets(kernel: Kernel) -> Iterator[tuple[str, str]]:
    """Yield the interfaces that packet sockets are bound to, from /proc/net/packet."""
    names = {attribute(kernel, f"{_CLASS}/{name}/ifindex"): name for name in entries(kernel, _CLASS)}
    for line in (attribute(kernel, "/proc/net/packet") or "").splitlines()[1:]:
        fields = line.split()
        if len(fields) > 5 and fields[4] in names and int(fields[3], 16) != _LLDP:
            yield names[fields[4]], "a packet socket is bound to it"


def _netconsoles(kernel: Kernel) -> Iterator[tuple[str, str]]:
    root = "/sys/kernel/config/netconsole"
    for target in entries(kernel, root):
        name = attribute(kernel, f"{root}/{target}/dev_name")
        if name and attribute(kernel, f"{root}/{target}/enabled") == "1":
            yield name, f"netconsole {target}"


def adapters(kernel: Kernel, name: str) -> set[str]:
    """Return the paths of the hardware under a network interface, through bonds, bridges and VLANs."""
    path = kernel.realpath(f"{_CLASS}/{name}")
    lower = [entry[6:] for entry in entries(kernel, path) if entry.startswith("lower_")]
    if not lower:
        return {path}
    return set().union(*(adapters(kernel, one) for one in lower))


def elsewhere(kernel: Kernel, path: str) -> Iterator[Use]:
    """Yield the interfaces of a device that are in other network namespaces, such as a container's.

    sysfs shows an interface in its own namespace only, and the directory above it in all.
    """
    if kernel.exists(f"{path}/net") and not entries(kernel, f"{path}/net"):
        yield Use("network:elsewhere", f"{path}/net is empty: its interface is in another network namespace", path)
