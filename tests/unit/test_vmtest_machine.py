# SPDX-License-Identifier: MIT
"""The machine's parts that need no QEMU: the kernel's log, the command's output, shares, process 1."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from vmtest.guest import guest_environment, write_init
from vmtest.kernel_log import KernelLog
from vmtest.shares import Share, shares_of
from vmtest.stream import Stream

KERNEL = {
    "release": "7.3.4",
    "headers": None,
    "vfio_mock": "/m.ko",
    "edu_vfio_pci": None,
    "mdev_module": None,
    "mtty_module": None,
}


@pytest.fixture
def log(tmp_path: Path) -> Iterator[KernelLog]:
    with contextlib.closing(KernelLog(tmp_path / "log", "END", verbose=False)) as log:
        yield log


@pytest.mark.parametrize(
    "line",
    [
        "[    1.0] BUG: kernel NULL pointer dereference, address: 0000000000000008",
        "[    1.0] WARNING: CPU: 0 PID: 1 at drivers/vfio/vfio_main.c:10 vfio_x+0x1/0x2",
        "[    1.0] Oops: 0000 [#1] SMP",
        "[    1.0] INFO: task python3:12 blocked for more than 122 seconds.",
        "[    1.0] rcu: INFO: rcu_sched detected expedited stalls on CPUs/tasks: { 0-... }",
        "[    1.0] watchdog: BUG: soft lockup - CPU#0 stuck for 26s!",
        "[    1.0] kmemleak: 2 new suspected memory leaks (see /sys/kernel/debug/kmemleak)",
    ],
)
def test_kernel_log_finds_a_complaint(log: KernelLog, line: str) -> None:
    log.receive(f"[    0.1] fine\r\n{line[:9]}".encode())
    assert log.complaint is None
    log.receive(f"{line[9:]}\r\n[    2.0] fine again\r\n".encode())
    assert log.complaint == line


@pytest.mark.parametrize(
    "line", ["[    1.0] DMAR: [DMA Read NO_PASID] Request device [00:03.0] fault addr 0x1000", "[    1.0] debug: ok"]
)
def test_kernel_log_passes_an_ordinary_line(log: KernelLog, line: str) -> None:
    log.receive(line.encode() + b"\n")
    assert log.complaint is None


def test_an_expected_warning_passes_only_after_it_is_expected(log: KernelLog) -> None:
    log.receive(b"pyvfio-vm: expect WARNING: .*selftest\n[ 1] WARNING: CPU: 0 at selftest.c:1\n")
    assert log.complaint is None
    log.receive(b"[ 2] WARNING: CPU: 0 at other.c:1\npyvfio-vm: expect WARNING: .*other\n")
    assert log.complaint == "[ 2] WARNING: CPU: 0 at other.c:1"


LEAKS = b"[ 1] kmemleak: %d new suspected memory leaks (see /sys/kernel/debug/kmemleak)\n"
OBJECT = (
    b"[ 2] kmemleak: unreferenced object 0xffff888016916300 (size 192):\n[ 2] kmemleak:   backtrace (crc 26f0bc07):\n"
)
SELFTEST = (
    OBJECT + b"[ 2] kmemleak:     iommu_fwspec_init+0xac/0x21e\n[ 2] kmemleak:     iommu_mock_device_add+0x46/0x75\n"
)
OTHER = OBJECT + b"[ 2] kmemleak:     iommu_fwspec_init+0xac/0x21e\n[ 2] kmemleak:     pci_device_add+0x46/0x75\n"


@pytest.mark.parametrize(
    ("leaks", "known"),
    [
        ([SELFTEST], True),
        ([SELFTEST, SELFTEST], True),
        ([SELFTEST, OTHER], False),
        ([OTHER, SELFTEST], False),
        ([], False),
    ],
)
def test_only_leaks_of_the_kernels_own_tests_are_no_complaint(log: KernelLog, leaks: list[bytes], known: bool) -> None:
    log.receive(LEAKS % len(leaks) + b"".join(leaks) + b"[ 3] fine again\n")
    assert log.complaint == (None if known else (LEAKS % len(leaks)).decode().strip())
    log.receive(b"[ 4] WARNING: CPU: 0 at other.c:1\n")
    assert log.complaint is not None


def test_kernel_log_ends_at_the_mark(log: KernelLog) -> None:
    log.receive(b"pyvfio-vm: end EN")
    assert not log.ended
    log.receive(b"D\n")
    assert log.ended


def test_stream_passes_on_everything_up_to_a_mark_in_pieces() -> None:
    reader, writer = os.pipe()
    stream = Stream(writer, b"\0mark")
    for piece in (b"one\0m", b"two", b"\0", b"ma", b"rk", b""):
        stream.receive(piece)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        assert file.read() == b"one\0mtwo"
    assert stream.ended


def test_share_escapes_what_fstab_and_qemu_would_split() -> None:
    share = Share("here", Path("/a b,c"))
    assert share.mount.split()[1] == r"/a\040b,c"
    assert "path=/a b,,c," in share.options("19.0")[1]


def test_only_the_current_directory_is_writable(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "pyvenv.cfg").touch()
    shares = shares_of(tmp_path, [tmp_path / "tests"], Path("/nowhere"))
    assert [share.path for share in shares] == [Path("/"), tmp_path, tmp_path / ".venv", tmp_path / "tests"]
    assert [share.path for share in shares if share.is_writable] == [tmp_path]


def test_environment_passes_on_names_of_the_list_alone() -> None:
    host = {"PATH": "/bin", "SECRET": "x", "PYTHONPATH": "/p", "LC_ALL": "C"}
    environment = guest_environment(host, "amd", [], KERNEL, "7.2.22")
    assert environment == {
        "PATH": "/bin",
        "PYTHONPATH": "/p",
        "LC_ALL": "C",
        "PYVFIO_VM_KERNEL": "7.3.4",
        "PYVFIO_VM_IOMMU": "amd",
        "PYVFIO_VM_QEMU": "7.2.22",
        "PYVFIO_VM_DEVICES": "{}",
        "PYVFIO_MOCK_MODULE": "/m.ko",
    }


def test_init_quotes_the_command(tmp_path: Path) -> None:
    init = write_init(
        tmp_path,
        mark="MARK",
        here=Path("/a b"),
        shares=[],
        environment={"A": "x y"},
        command=["echo", "it's"],
        check=["true"],
    )
    text = init.read_text()
    assert "cd '/a b'" in text
    assert """env -i 'A=x y' echo 'it'"'"'s'""" in text
    assert "@" not in text.replace("$@", "")


def test_init_takes_any_bytes_of_the_command(tmp_path: Path) -> None:
    command = ["echo", os.fsdecode(b"\xff\n")]
    init = write_init(tmp_path, mark="MARK", here=Path("/"), shares=[], environment={}, command=command, check=["true"])
    assert b"echo '\xff\n'" in init.read_bytes()
