# SPDX-License-Identifier: MIT
"""vfio-user: VFIO's messages over a UNIX socket. It plugs a device model of :mod:`pyvfio.mock` into a hypervisor, or another program's
device model into pyvfio.

A server, for QEMU 10.1 or later (`-device '{"driver": "vfio-user-pci", "socket": {"type": "unix", "path": "/tmp/adder"}}'`,
memory shared)::

    pyvfio.vfio_user.serve(Adder, "/tmp/adder")

A client: `pyvfio.open("vfio-user:/tmp/adder")`, or `PYVFIO_KERNEL=vfio-user:/tmp/adder` for a program that does not know of vfio-user.
"""

from __future__ import annotations

from pyvfio.vfio_user.client import Client
from pyvfio.vfio_user.protocol import Command, ProtocolError
from pyvfio.vfio_user.remote import RemoteDevice, RemoteKernel
from pyvfio.vfio_user.server import Model, Server, serve

__all__ = ["Client", "Command", "Model", "ProtocolError", "RemoteDevice", "RemoteKernel", "Server", "serve"]
