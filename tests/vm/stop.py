# SPDX-License-Identifier: MIT
"""Runs in a machine of scripts/vm: stop the machine by QEMU's monitor, which is a port of the guest."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

PORTS = Path("/sys/class/virtio-ports")


def main() -> None:
    """Stop the machine. This does not return, unless somebody lets the machine go on."""
    name = next(path for path in PORTS.glob("*/name") if path.read_text().strip() == "pyvfio.qmp")
    monitor = os.open(f"/dev/{name.parent.name}", os.O_RDWR | os.O_CLOEXEC)
    for command in ("qmp_capabilities", "stop"):
        os.write(monitor, json.dumps({"execute": command}).encode() + b"\n")
    time.sleep(600)


if __name__ == "__main__":
    main()
