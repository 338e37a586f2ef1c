# SPDX-License-Identifier: MIT
"""Poll a register from two processors while the device does DMA by messages.

In QEMU, a processor that waits for a register holds the lock that is needed to answer the server's DMA. A server that
waited for its DMA before it answers the register read would stop the machine until a timeout.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys
import time

import pyvfio
from tests.vfio_user_guest.programs.guest import LIMIT, address_of, step

COUNT = 8192
ROUNDS = 100
VALUE = 0x5A5A5A5A


def poll(address: str, processor: int) -> None:
    """Read a register of the device until standard input ends, and print the number of reads.

    This process maps the BAR through sysfs.
    """
    os.sched_setaffinity(0, {processor})
    fd = os.open(f"/sys/bus/pci/devices/{address}/resource0", os.O_RDWR | os.O_SYNC)
    with mmap.mmap(fd, 4096) as memory:
        register = ctypes.c_uint32.from_buffer(memory, 0x40)
        print("ready", flush=True)
        os.set_blocking(0, False)
        reads = 0
        while True:
            for _ in range(20):
                assert register.value == VALUE
                reads += 1
            try:
                if not os.read(0, 1):
                    break
            except BlockingIOError:
                pass
        print(reads)
        del register
    os.close(fd)


def main() -> None:
    address = address_of("messages")
    with pyvfio.host.bind(address, "vfio-pci"), pyvfio.open(address) as device:
        device.config.bus_master = True
        bar = device.regions[0]
        bar.write32(0x40, VALUE)
        mapping = device.address_space.alloc(8 * COUNT)
        mapping.buffer.view[:] = b"".join(n.to_bytes(8, "little") for n in range(COUNT))
        bar.write32(0x00, mapping.iova)
        (vector,) = device.irqs.msi.enable()
        command = [sys.executable, "-m", __spec__.name, "poll", address]
        pollers = [
            subprocess.Popen([*command, str(processor)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for processor in range(2)
        ]
        for poller in pollers:
            assert poller.stdout is not None
            assert poller.stdout.readline() == "ready\n"
        longest = 0.0
        with step(f"{ROUNDS} times {8 * COUNT} bytes of DMA while two processors poll"):
            for _ in range(ROUNDS):
                begun = time.monotonic()
                bar.write32(0x08, COUNT)
                vector.wait(timeout=LIMIT)
                assert bar.read32(0x10) == sum(range(COUNT))
                longest = max(longest, time.monotonic() - begun)
        reads = [int(poller.communicate(timeout=LIMIT)[0]) for poller in pollers]
        assert all(poller.returncode == 0 for poller in pollers)
        print(f"reads by each: {reads}; the longest DMA: {longest:.3f} s")
        assert min(reads) > 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["poll"]:
        poll(sys.argv[2], int(sys.argv[3]))
    else:
        main()
