# SPDX-License-Identifier: MIT
"""Serve device models by vfio-user, each at a UNIX socket, until the command is interrupted. No VFIO and no kernel is needed.

QEMU 10.1 or later plugs such a device into its guest; `pyvfio.open("vfio-user:PATH")` opens it in another process. A MODEL is
adder, e1000e, edu, igb or nvme; or MODULE:CLASS, a subclass of pyvfio.mock.Device; or MODULE:FUNCTION, which takes a
pyvfio.mock.Kernel and an address and returns a device. Modules of the current directory are found."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import shlex
import sys
import threading
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from typing import IO, Any

from pyvfio import mock
from pyvfio.cli import exit_code
from pyvfio.cli.call import Call, UsageError
from pyvfio.mock import devices
from pyvfio.vfio_user import Server, models
from pyvfio.vfio_user.recording import Recorder

#: the PCI slot of the first model; the slots below have the mock's own devices
_FIRST_SLOT = 0x0A


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("model", metavar="MODEL", help=f"{', '.join(models.NAMES)}, or MODULE:CLASS")
    parser.add_argument("path", metavar="PATH", help="of the socket; one that nobody serves any more is replaced")
    parser.add_argument("more", metavar="MODEL PATH", nargs="*", help="further models, in the same process")
    parser.add_argument(
        "--no-shared-memory",
        action="store_true",
        help="ask the client for each DMA access by a message, so that its IOMMU sees each and logs each fault",
    )
    parser.add_argument("--once", action="store_true", help="end when each model's first client has gone")
    parser.add_argument("--wire", action="store_true", help="connect the network cards by a wire")
    parser.add_argument("--storage", metavar="FILE", help="the blocks of nvme; default: 64 MiB of zeros in memory")
    parser.add_argument("--record", metavar="FILE", help="write all messages there, as lines of JSON")


def execute(call: Call) -> int:
    """Serve."""
    given = call.arguments
    if len(given.more) % 2:
        raise UsageError(f"{given.more[-1]}: the path of its socket is missing")
    names, paths = [given.model, *given.more[::2]], [given.path, *given.more[1::2]]
    with contextlib.ExitStack() as stack:
        made = stack.enter_context(_devices(names, given.storage))
        if given.wire:
            _connect(made)
        threads: list[threading.Thread] = []
        stack.callback(_join, threads)  # after the servers are closed, and before the resources of the devices are
        recorder = Recorder(stack.enter_context(_file(given.record))) if given.record else None
        servers = [
            stack.enter_context(Server(device, path, share_memory=not given.no_shared_memory, observe=recorder))
            for device, path in zip(made, paths, strict=True)
        ]
        threads += [
            threading.Thread(target=_serve, args=(call, name, server, given.once), daemon=True)
            for name, server in zip(names, servers, strict=True)
        ]
        for name, server in zip(names, servers, strict=True):
            _announce(call, name, server)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return exit_code.DONE


def _join(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        if thread.ident is not None:
            thread.join()


@contextlib.contextmanager
def _devices(names: Sequence[str], storage: str | None) -> Iterator[list[Any]]:
    """Make the devices, on one host."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    kernel = mock.Kernel("intel-57")
    if storage is not None and "nvme" not in names:
        raise UsageError("--storage: none of the models is nvme")
    with contextlib.ExitStack() as stack:
        made = []
        for slot, name in enumerate(names, _FIRST_SLOT):
            factory, address = models.named(name), f"0000:00:{slot:02x}.0"
            if name == "nvme" and storage is not None:
                blocks = stack.enter_context(_mapped(storage))
                made.append(devices.Nvme(kernel, address, storage=blocks))
            else:
                made.append(models.make(factory, kernel, address))
        yield made


@contextlib.contextmanager
def _mapped(path: str) -> Iterator[mmap.mmap]:
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0) as blocks:
        yield blocks
        blocks.flush()


def _file(path: str) -> IO[str]:
    return open(path, "w", encoding="ascii", buffering=1)  # the caller closes it


def _connect(made: Sequence[Any]) -> None:
    cards = [device for device in made if hasattr(device, "wire")]
    if len(cards) < 2:
        raise UsageError("--wire: it takes two models of network cards, such as igb")
    devices.Wire(*cards)


def _announce(call: Call, name: str, server: Server) -> None:
    path = os.path.abspath(server.path)
    socket = {"type": "unix", "path": path}
    option = json.dumps({"driver": "vfio-user-pci", "socket": socket}, separators=(",", ":"))
    if call.out.json:
        call.out.event({"event": "serving", "model": name, "path": path, "qemu": ["-device", option]})
    else:
        call.out.live(f"{name}: vfio-user:{path}; in QEMU: -device {shlex.quote(option)}")


def _serve(call: Call, name: str, server: Server, once: bool) -> None:
    """Serve one client after the other."""
    with contextlib.suppress(OSError):  # the server was closed
        while True:
            refused = server.refused
            server.serve_one()
            refused = server.refused - refused
            if call.out.json:
                call.out.event(
                    {"event": "gone", "model": name, "path": os.path.abspath(server.path), "refused": refused}
                )
            else:
                call.out.live(f"{name}: the client has gone; {refused} of its messages were refused")
            if once:
                return
