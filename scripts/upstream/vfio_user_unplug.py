# SPDX-License-Identifier: MIT
"""QEMU aborts when a vfio-user device with MSI-X is unplugged. With MSI alone it does not.

It needs no virtual machine, no root and no guest, only QEMU 10.1 or later, whose command is the argument.

    python scripts/upstream/vfio_user_unplug.py QEMU [ARGUMENT...]
"""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from pyvfio import mock, vfio_user


class WithMsi(mock.Device):
    """A device with MSI."""

    function = mock.Function((0x1234, 0xC0DE), bars={0: mock.Bar(4096)}, msi=1)


class WithMsix(mock.Device):
    """A device with MSI-X."""

    function = mock.Function((0x1234, 0xC0DE), bars={0: mock.Bar(4096)}, msix=1)


def connect(path: Path, process: subprocess.Popen[str]) -> socket.socket:
    """Connect to QEMU's monitor once it listens."""
    for _ in range(600):
        monitor = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):
            monitor.connect(str(path))
            return monitor
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise SystemExit(f"QEMU did not start: {process.communicate()[1]}")


def unplug(command: list[str], model: type[mock.Device]) -> str:
    """Plug a model in, unplug it, and return a description of how QEMU ended."""
    with tempfile.TemporaryDirectory() as place:
        server = vfio_user.Server(model, f"{place}/device")
        threading.Thread(target=server.serve_one, daemon=True).start()
        device = {"driver": "vfio-user-pci", "id": "device", "socket": {"type": "unix", "path": f"{place}/device"}}
        process = subprocess.Popen(
            [*command, "-machine", "pc,memory-backend=ram", "-m", "64M", "-nodefaults", "-display", "none", "-S",
             "-object", "memory-backend-memfd,id=ram,size=64M,share=on", "-device", json.dumps(device),
             "-qmp", f"unix:{place}/monitor,server=on,wait=off"],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        with connect(Path(place, "monitor"), process) as monitor:
            # No guest runs that could acknowledge the removal: a reset completes it.
            for each in ("qmp_capabilities", "device_del", "system_reset", "query-pci", "quit"):
                arguments = {"id": "device"} if each == "device_del" else {}
                with contextlib.suppress(OSError):
                    monitor.sendall(json.dumps({"execute": each, "arguments": arguments}).encode() + b"\n")
                    time.sleep(0.5)
                    monitor.recv(1 << 16)
        _, errors = process.communicate(timeout=60)
        code = process.returncode
        return (
            f"{signal.Signals(-code).name}: {errors.strip().splitlines()[-1]}" if code < 0 else f"exit {code} {errors}"
        )


for kind in (WithMsi, WithMsix):
    print(f"{kind.__name__}: {unplug(sys.argv[1:], kind)}")
