# SPDX-License-Identifier: MIT
"""Use the nvme model with Linux's nvme driver: create, write, read and check a file system; transfers of 4 MiB; discard; a reset."""

from __future__ import annotations

import fcntl
import mmap
import os
import random
import struct
import tempfile
from pathlib import Path

from tests.vfio_user_guest.programs.guest import address_of, run, step, wait_until

BLKDISCARD, BLKZEROOUT = 0x1277, 0x127F
MIB = 1 << 20


def disk_of(address: str) -> tuple[Path, str]:
    """Return the directory of the controller in sysfs, and the disk's device file."""
    controllers = Path(f"/sys/bus/pci/devices/{address}/nvme")
    wait_until(lambda: controllers.is_dir() and any(controllers.iterdir()), "a controller")
    controller = next(controllers.iterdir())
    wait_until(lambda: (controller / "state").read_text().strip() == "live", "the controller is live")

    def names() -> list[str]:
        return [path.name for path in Path("/sys/block").glob("nvme*") if address in str(path.resolve())]

    wait_until(lambda: bool(names()), "a disk")
    return controller, f"/dev/{names()[0]}"


def check_file_system(disk: str) -> None:
    """Create a file system, write a file, and read it back without the page cache."""
    run("mkfs.ext4", "-q", "-F", disk, "32768")
    with tempfile.TemporaryDirectory() as folder:
        file, back = Path(folder, "file"), Path(folder, "back")
        file.write_bytes(random.Random(1).randbytes(8 * MIB))
        run("debugfs", "-w", "-f", "-", disk, text=f"write {file} data\nquit\n")
        run("fsck.ext4", "-f", "-n", disk)
        os.sync()
        Path("/proc/sys/vm/drop_caches").write_text("3")
        run("debugfs", "-f", "-", disk, text=f"dump data {back}\nquit\n")
        assert back.read_bytes() == file.read_bytes()
    run("fsck.ext4", "-f", "-n", disk)


def check_direct(disk: str, controller: Path) -> None:
    """Make transfers for which one page of PRP entries is not enough; discard and write zeros; reset the controller in between."""
    data = random.Random(2).randbytes(4 * MIB)
    fd = os.open(disk, os.O_RDWR | os.O_DIRECT)
    try:
        with mmap.mmap(-1, 4 * MIB) as out, mmap.mmap(-1, 4 * MIB) as back:
            out[:] = data
            assert os.pwrite(fd, out, 48 * MIB) == 4 * MIB
            assert os.preadv(fd, [back], 48 * MIB) == 4 * MIB
            assert back[:] == data
            for request, at in ((BLKDISCARD, 48 * MIB), (BLKZEROOUT, 50 * MIB)):
                fcntl.ioctl(fd, request, struct.pack("QQ", at, MIB))
                os.preadv(fd, [back], at)
                assert not any(back[:MIB])
                assert back[MIB : 2 * MIB] == data[at + MIB - 48 * MIB :][:MIB]
            (controller / "reset_controller").write_text("1")
            wait_until(lambda: (controller / "state").read_text().strip() == "live", "live again")
            os.preadv(fd, [back], 49 * MIB)
            assert back[:MIB] == data[MIB : 2 * MIB]
    finally:
        os.close(fd)


def main() -> None:
    with step("the disk"):
        controller, disk = disk_of(address_of("nvme"))
        model, serial = ((controller / name).read_text().strip() for name in ("model", "serial"))
        assert (model, serial[:6]) == ("QEMU NVMe Ctrl", "pyvfio")
    with step("a file system"):
        check_file_system(disk)
    with step("direct transfers and a reset"):
        check_direct(disk, controller)


if __name__ == "__main__":
    main()
