# SPDX-License-Identifier: MIT
"""QEMU maps the dma-buf of a BAR at the wrong offset when the BAR can be mapped only from an offset on.

edu-vfio-pci (tests/edu_vfio_pci) lets programs map the BAR of an edu from its second page on: a sparse area at 0x1000.
QEMU makes a dma-buf of that area alone. Offsets in this dma-buf begin at 0, but QEMU tells iommufd to map it at offset
0x1000, beyond its end. iommufd returns EINVAL, QEMU prints a warning, and the BAR stays unmapped. vfio-pci lets
programs map the whole of the same BAR, and there QEMU maps it. Needs kernel 6.19 or later and QEMU 11.

    scripts/vm -- .venv/bin/python scripts/upstream/sparse_dma_buf.py QEMU [ARGUMENT...]
"""

import contextlib
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pyvfio import host

#: The address at which the guest's firmware would place the BAR, and the slot of the device.
BAR, SLOT = 0xE0000000, 4
CONFIG = 0x80000000 | SLOT << 11


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


def place_bar(command: list[str], address: str) -> str:
    """Start QEMU with the device, enable decoding of its BAR, and return QEMU's messages."""
    with tempfile.TemporaryDirectory() as place:
        process = subprocess.Popen(
            [*command, "-machine", "pc", "-m", "64M", "-nodefaults", "-display", "none", "-S", "-object", "iommufd,id=iommufd",
             "-device", f"vfio-pci,host={address},iommufd=iommufd,addr={SLOT}", "-qmp", f"unix:{place}/monitor,server=on,wait=off"],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        with connect(Path(place, "monitor"), process) as monitor, monitor.makefile("rw") as lines:
            said = ""
            lines.readline()  # the greeting
            ports = ((0xCF8, CONFIG | 0x10), (0xCFC, BAR), (0xCF8, CONFIG | 0x04), (0xCFC, 0x6))
            writes = [("human-monitor-command", {"command-line": f"o/w {port:#x} {value:#x}"}) for port, value in ports]
            for name, arguments in [("qmp_capabilities", {}), *writes, ("quit", {})]:
                lines.write(json.dumps({"execute": name, "arguments": arguments}) + "\n")
                lines.flush()
                while not (answer := json.loads(lines.readline())).keys() & {"return", "error"}:
                    pass
                # The answer to a command of the human monitor is all that the command prints, warnings included.
                said += str(answer.get("return") or answer.get("error") or "")
        process.communicate(timeout=120)
    return " ".join(said.split()) or "mapped"


if not Path("/sys/module/edu_vfio_pci").exists():
    subprocess.run(["insmod", os.environ["PYVFIO_EDU_MODULE"]], check=True)
edu = next(
    each.address
    for each in host.devices()
    if (each.vendor, each.device) == (0x1234, 0x11E8) and len(host.group_members(each.address)) == 1
)
for driver in ("vfio-pci", "edu_vfio_pci"):
    with host.bind(edu, driver):
        print(f"Linux {platform.release()}, {driver}: {place_bar(sys.argv[1:], edu)}", flush=True)
