# SPDX-License-Identifier: MIT
"""Device nodes, and BARs in sysfs, that processes have open or mapped."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import NamedTuple

from pyvfio.host.consoles import terminal_hardware
from pyvfio.host.disks import hardware_of
from pyvfio.host.networks import adapters
from pyvfio.host.sysfs import attribute, entries
from pyvfio.host.use import Use
from pyvfio.kernel import Kernel

_BAR = re.compile(r"(/sys/devices/.+)/(resource[0-9]+(?:_wc)?)")
#: nodes that stand for no device, and are open everywhere
_ORDINARY = (
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/pts/",
    "/dev/ptmx",
    "/dev/shm/",
)
#: VFIO's nodes, which :mod:`pyvfio.host.holders` looks for
_VFIO = ("/dev/vfio/", "/dev/iommu")
_SHOWN = 3


class _Opened(NamedTuple):
    """A file that a process has open or mapped.

    :ivar path: the file's path, as /proc shows it
    :ivar link: its link under /proc/PID/fd, None if it is mapped
    """

    pid: int
    path: str
    link: str | None

    def __str__(self) -> str:
        return "" if self.link is None else f", descriptor {os.path.basename(self.link)}"


def nodes_in_use(kernel: Kernel) -> Iterator[Use]:
    """Yield the devices with a node, or a BAR in sysfs, that a process has open. Only root sees all processes."""
    return _uses(kernel, _opened)


def mapped_nodes(kernel: Kernel) -> Iterator[Use]:
    """Yield the devices with a node, or a BAR in sysfs, that a process has mapped. Slower than nodes_in_use(): /proc/PID/maps can be long."""
    return _uses(kernel, _mapped)


def _uses(kernel: Kernel, look: Callable[[Kernel, int], Iterator[_Opened]]) -> Iterator[Use]:
    # (name of the use, the file, its hardware) -> the processes
    holders: dict[tuple[str, str, str], dict[int, str]] = {}
    known: dict[str, list[tuple[str, str]]] = {}
    for opened in _everywhere(kernel, look):
        number = kernel.device_number(opened.link or opened.path)
        key = number or opened.path
        if key not in known:
            known[key] = list(_hardware(kernel, opened.path, number))
        for name, path in known[key]:
            holders.setdefault((name, opened.path, path), {}).setdefault(opened.pid, str(opened))
    for (name, file, path), processes in holders.items():
        doing = "mapped" if look is _mapped else "open"
        yield Use(name, f"{file} is {doing} in {_listed(kernel, processes)}", path)


def _listed(kernel: Kernel, processes: dict[int, str]) -> str:
    said = []
    for pid, how in list(processes.items())[:_SHOWN]:
        comm = attribute(kernel, f"/proc/{pid}/comm") or "?"
        said.append(f"{'this process' if pid == os.getpid() else f'process {pid} ({comm})'}{how}")
    more = len(processes) - len(said)
    return "; ".join([*said, f"and {more} more"] if more else said)


def _everywhere(kernel: Kernel, look: Callable[[Kernel, int], Iterator[_Opened]]) -> Iterator[_Opened]:
    for pid in sorted(int(name) for name in entries(kernel, "/proc") if name.isdecimal()):
        with suppress(PermissionError):  # another user's
            yield from look(kernel, pid)


def _opened(kernel: Kernel, pid: int) -> Iterator[_Opened]:
    for number in sorted(entries(kernel, f"/proc/{pid}/fd"), key=int):
        link = f"/proc/{pid}/fd/{number}"
        try:
            path = kernel.readlink(link)
        except (FileNotFoundError, ProcessLookupError):
            continue  # closed meanwhile
        if _concerns(path):
            yield _Opened(pid, path, link)


def _mapped(kernel: Kernel, pid: int) -> Iterator[_Opened]:
    maps = attribute(kernel, f"/proc/{pid}/maps") or ""
    if "/dev/" not in maps and "/resource" not in maps:
        return
    paths = (fields[5] for line in maps.splitlines() if len(fields := line.split(None, 5)) == 6)
    for path in dict.fromkeys(
        path for path in paths if path.startswith(("/dev/", "/sys/devices/")) and _concerns(path)
    ):
        yield _Opened(pid, path, None)


def _concerns(path: str) -> bool:
    if path.startswith("/sys/devices/"):
        return _BAR.fullmatch(path) is not None
    # In a container or a chroot the path of a node has other directories in front of /dev.
    at = path.find("/dev/")
    return path[:1] == "/" and at >= 0 and not path.startswith((*_ORDINARY, *_VFIO), at)


def _hardware(kernel: Kernel, path: str, number: str | None) -> Iterator[tuple[str, str]]:
    """Yield the names of the use and the paths of the devices behind an open file."""
    if (bar := _BAR.fullmatch(path)) is not None:
        yield f"registers:{os.path.basename(bar[1])}", bar[1]
        return
    name = path[path.find("/dev/") + 5 :]
    for device in _devices(kernel, name, number):
        yield f"node:{name}", device


def _devices(kernel: Kernel, name: str, number: str | None) -> set[str]:
    if (nvidia := re.fullmatch(r"nvidia([0-9]+)", name)) is not None:
        return _nvidia(kernel, nvidia[1])
    path = None if number is None else kernel.realpath(f"/sys/dev/{number}")
    if path is None or not kernel.exists(path):
        path = _by_name(kernel, name)
    if path is None or "/vfio-dev/" in path:
        return set()
    if kernel.exists(f"/sys/class/block/{os.path.basename(path)}"):
        return _real(hardware_of(kernel, path))
    if not path.startswith("/sys/devices/virtual/"):
        return {path}
    kind, _, rest = path.removeprefix("/sys/devices/virtual/").partition("/")
    if kind == "tty":
        return _real(terminal_hardware(kernel, rest))
    if kind == "net":  # a macvtap
        return _real(adapters(kernel, rest.partition("/")[0]))
    if kind == "nvme-subsystem":
        return _real(hardware_of(kernel, path))
    return set()


def _by_name(kernel: Kernel, name: str) -> str | None:
    """Return a node's device by the node's name, for kernels that do not give its number."""
    last = os.path.basename(name)
    for directory in entries(kernel, "/sys/class"):
        if kernel.exists(f"/sys/class/{directory}/{last}"):
            return kernel.realpath(f"/sys/class/{directory}/{last}")
    return None


def _nvidia(kernel: Kernel, minor: str) -> set[str]:
    """Return the device of a node of NVIDIA's own driver, which sysfs does not know."""
    root = "/proc/driver/nvidia/gpus"
    for address in entries(kernel, root):
        if re.search(rf"Device Minor:\s*{minor}\b", attribute(kernel, f"{root}/{address}/information") or ""):
            return {kernel.realpath(f"/sys/bus/pci/devices/{address}")}
    return set()


def _real(paths: Iterable[str]) -> set[str]:
    return {path for path in paths if not path.startswith("/sys/devices/virtual/")}
