# SPDX-License-Identifier: MIT
"""QEMU maps the dma-buf of a BAR at the wrong offset when the BAR can be mapped only from an offset on.

edu-vfio-pci (tests/edu_vfio_pci) lets the BAR of an edu be mapped from its second page on: a sparse area at 0x1000. QEMU makes a dma-buf
of that area alone, which begins at 0, and has iommufd map it at 0x1000, beyond its end: EINVAL, and the BAR stays unmapped with a
warning. Under vfio-pci, which lets all of the same BAR be mapped, it is mapped. Kernel 6.19 or later, QEMU 11.

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

#: where the guest's firmware would put the BAR, and the slot of the device
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
    """Start QEMU with the device, have its BAR decoded, and return what QEMU says about it."""
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
                # What a command of the human monitor prints is its answer, warnings too.
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
