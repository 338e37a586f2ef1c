# SPDX-License-Identifier: MIT
"""Print the argument, and stop the machine through QEMU's monitor, which is a virtio port.

Runs in a machine of scripts/vm.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

PORTS = Path("/sys/class/virtio-ports")


def main() -> None:
    """Stop the machine. This returns only if the machine is continued."""
    name = next(path for path in PORTS.glob("*/name") if path.read_text().strip() == "pyvfio.qmp")
    monitor = os.open(f"/dev/{name.parent.name}", os.O_RDWR | os.O_CLOEXEC)
    # Python takes seconds to start in a machine on a busy host; the stall begins here.
    print(sys.argv[1], flush=True)
    time.sleep(0.5)
    for command in ("qmp_capabilities", "stop"):
        os.write(monitor, json.dumps({"execute": command}).encode() + b"\n")
    time.sleep(600)


if __name__ == "__main__":
    main()
