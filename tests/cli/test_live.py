# SPDX-License-Identifier: MIT
"""iova, qemu-log, reset, irq, dirty, migrate, sriov, trace, replay and report."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pyvfio as library
from pyvfio import host, mock
from pyvfio.cli.anonymous import Anonymous, without_serial
from pyvfio.kernel import LinuxKernel
from pyvfio.mock.fs.tree import Text
from pyvfio.tracing import trace
from tests.cli.command import Command, validate

EDU, VF, IGB, MOCK = "0000:00:03.0", "0000:41:10.1", "0000:00:07.0", "vfio-mock.0"
QEMU_LOG = """\
vfio_device_dirty_tracking_update section 0x0 - 0x807fffff -> update [0x0 - 0x807fffff]
vfio_device_dirty_tracking_start nr_ranges 2 32:[0x0 - 0x807fffff], 64:[0x100000000 - 0x3838000fffff]
"""


# iova


@pytest.mark.parametrize("kernel", ["amd"], indirect=True)
@pytest.mark.parametrize("how", [(), ("--open", "--bind")])
def test_iova_names_the_hole_and_what_is_near(pyvfio: Command, how: tuple[str, ...]) -> None:
    document = pyvfio.json("iova", EDU, "0x100000+2M", "0xfcffe00000-0xfd001fffff", *how, code=1)
    low, hole = document["ranges"]
    assert low["mappable"]
    assert not hole["mappable"]
    assert "[0xfd00000000, 0xffffffffff] (reserved)" in hole["reason"]
    assert [one["start"] for one in hole["nearest"]] == ["0xfcffc00000", "0x10000000000"]


@pytest.mark.parametrize("kernel", ["amd"], indirect=True)
def test_iova_lists_what_is_usable(pyvfio: Command, edu: str) -> None:
    by_sysfs, by_opening = (pyvfio.json("iova", EDU, *how)["usable"] for how in ((), ("--open",)))
    assert by_sysfs[:2] == by_opening[:2]
    assert "0x100000-0x1fffff: yes" in pyvfio("iova", EDU, "0x100000+1M").out


def test_iova_of_a_part_of_a_page_is_not_mappable(pyvfio: Command) -> None:
    (answer,) = pyvfio.json("iova", EDU, "0x100+4K", code=1)["ranges"]
    assert "page size, 0x1000" in answer["reason"]


# qemu-log


def test_qemu_log_says_why_and_what_would_do(pyvfio: Command, tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text(QEMU_LOG)
    document = pyvfio.json("qemu-log", str(file), "--open", VF, code=1)
    assert not document["accepted"]
    assert "mlx5 refuses the total" in document["explanation"]
    assert {one["name"] for one in document["strategies"] if one["accepted"]} >= {"exact", "coalesced:3"}
    assert "more than the device can log" in document["device"]["reason"]
    assert pyvfio("qemu-log", str(file), "--limits", "pds").code == 0
    assert pyvfio("qemu-log", str(file), "--max-space", "46").code == 0
    assert pyvfio("qemu-log", str(file), "--limits", "pds", "--max-space", "46").code == 2


def test_qemu_log_without_such_lines_exits_with_3(pyvfio: Command, tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("nothing\n")
    assert pyvfio("qemu-log", str(file)).code == 3


# reset


def test_reset_of_a_function(pyvfio: Command) -> None:
    assert pyvfio.json("reset", VF) == {"address": VF, "kind": "function", "affected": [VF], "done": True}


def test_reset_says_what_a_hot_reset_affects(pyvfio: Command, kernel: mock.Kernel) -> None:
    host.bind(["0000:02:00.0", "0000:02:00.1"], "vfio-pci", kernel=kernel)
    document = pyvfio.json("reset", "2:0.1", "--list")
    assert document["affected"] == ["0000:02:00.0", "0000:02:00.1"]
    assert not document["done"]


def test_reset_of_a_device_without_one_is_refused(pyvfio: Command, edu: str) -> None:
    assert "has no function-level reset" in pyvfio.json("reset", EDU, code=1)["error"]["message"]


# irq


def test_irq_counts_each_vector(pyvfio: Command) -> None:
    lines = pyvfio.lines("irq", VF, "msix", "--vectors", "3", "--trigger", "2", "--count", "6")
    assert [(one["vector"], one["count"]) for one in lines] == [(0, 2), (1, 2), (2, 2)]


class Interrupting:
    """A driver of edu that makes it interrupt."""

    reach = range(0)

    def __init__(self, device: object) -> None:
        self.device = device

    def send_msi(self) -> None:
        """Raise an interrupt, and take it away again."""
        bar = self.device.regions[0]  # type: ignore[attr-defined]
        self.device.config.bus_master = True  # type: ignore[attr-defined]
        bar.write32(0x60, 1)
        bar.write32(0x64, 1)


def test_irq_takes_interrupts_of_a_driver(pyvfio: Command, edu: str) -> None:
    lines = pyvfio.lines("irq", EDU, "--driver", f"{__name__}:Interrupting", "--count", "3")
    assert [one["count"] for one in lines] == [1, 1, 1]


def test_irq_without_an_interrupt_ends_with_1(pyvfio: Command) -> None:
    error = pyvfio.json("irq", VF, "msix", "--timeout", "0.01", code=1)["error"]
    assert error["errno"] == "ETIMEDOUT"


# dirty


def test_dirty_shows_the_pages_that_a_driver_writes(pyvfio: Command) -> None:
    lines = pyvfio.lines(
        "dirty", MOCK, "--driver", "pyvfio.vfio_mock:VfioMock", "--interval", "0", "--intervals", "3", "--iova", "1M"
    )
    assert [(one["dirty"], one["source"], one["runs"][0]["start"]) for one in lines] == [
        (1, "device", "0x101000"),
        (1, "device", "0x102000"),
        (1, "device", "0x103000"),
    ]


def test_dirty_without_a_driver_says_that_nothing_writes(pyvfio: Command) -> None:
    ran = pyvfio("dirty", MOCK, "--interval", "0", "--intervals", "1")
    assert "without --driver nothing makes the device write" in ran.out
    assert ran.out.splitlines()[1].split()[:2] == ["0", "0"]


def test_dirty_of_a_device_that_nobody_tracks_says_so(pyvfio: Command, edu: str) -> None:
    (line,) = pyvfio.lines("dirty", EDU, "--interval", "0", "--intervals", "1")
    assert (line["source"], line["dirty"]) == ("nobody", line["pages"])


# migrate


def test_migrate_saves_and_loads(pyvfio: Command, tmp_path: Path) -> None:
    state = pyvfio.json("migrate", MOCK)
    assert (state["state"], state["pre_copy"]) == ("RUNNING", True)
    file = tmp_path / "state"
    saved = pyvfio.json("migrate", MOCK, "save", str(file))
    assert 0 < saved["pre_copy_bytes"] < saved["bytes"] == file.stat().st_size
    loaded = pyvfio.json("migrate", MOCK, "load", str(file), "--run")
    assert (loaded["bytes"], loaded["state"]) == (saved["bytes"], "RUNNING")
    whole = pyvfio.json("migrate", MOCK, "save", str(file), "--pre-copy", "0")
    assert whole["pre_copy_bytes"] == 0


def test_migrate_load_of_a_missing_file_does_not_open_the_device(pyvfio: Command, kernel: mock.Kernel) -> None:
    kernel.failures.fail(5, call="open")
    assert "/nonexistent: No such file" in pyvfio("migrate", MOCK, "load", "/nonexistent").err


def test_a_refused_load_is_told(pyvfio: Command, tmp_path: Path) -> None:
    file = tmp_path / "state"
    file.write_bytes(b"not a device's state" * 100)
    assert pyvfio("migrate", MOCK, "load", str(file)).code == 1
    assert pyvfio.json("migrate", MOCK)["state"] == "RUNNING"


@pytest.mark.parametrize("arguments", [("save",), ("load",), ("state", "file"), ("nothing",)])
def test_migrate_takes_a_file_to_save_and_load(pyvfio: Command, arguments: tuple[str, ...]) -> None:
    assert pyvfio("migrate", MOCK, *arguments).code == 2


# sriov


def test_sriov_creates_and_removes(pyvfio: Command, kernel: mock.Kernel) -> None:
    assert pyvfio.json("sriov", IGB)["virtual_functions"] == []
    made = pyvfio.json("sriov", "0000:00:04.0", "2")["virtual_functions"]
    assert [(one["address"], one["state"]) for one in made] == [
        ("0000:00:04.1", "unbound"),
        ("0000:00:04.2", "unbound"),
    ]
    assert pyvfio.json("sriov", "0000:00:04.0", "0")["virtual_functions"] == []
    assert host.device("0000:00:04.0", kernel).virtual_functions == ()


@pytest.mark.parametrize(
    ("address", "count", "code"), [(EDU, "1", 1), ("0000:00:04.0", "99", 2), ("0000:00:04.0", "x", 2)]
)
def test_sriov_refuses(pyvfio: Command, address: str, count: str, code: int) -> None:
    assert pyvfio("sriov", address, count).code == code


# trace and replay


def test_a_trace_is_replayed(pyvfio: Command, tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    program = "import pyvfio; pyvfio.open('vfio-mock.0', kernel='mock:mlx5').close()"
    traced = pyvfio.json("trace", "-o", str(file), "--", sys.executable, "-c", program)
    assert traced["events"] > 3
    replayed = pyvfio.json("replay", str(file))
    assert replayed["made"] > 3
    assert replayed["differences"] == []


def test_replay_tells_a_difference(pyvfio: Command, kernel: mock.Kernel, tmp_path: Path) -> None:
    file = tmp_path / "trace.json"
    with trace(file):
        pyvfio("migrate", MOCK)
    kernel.failures.fail(5, call="VFIO_DEVICE_GET_INFO")
    assert len(pyvfio.json("replay", str(file), code=1)["differences"]) >= 1


def test_trace_exits_as_the_program_does(pyvfio: Command, tmp_path: Path) -> None:
    ran = pyvfio("trace", "-o", str(tmp_path / "t"), "--", sys.executable, "-c", "raise SystemExit(7)")
    assert ran.code == 7
    assert "no trace" in ran.out
    assert pyvfio("trace").code == 2


def test_replay_of_something_else_is_wrong_usage(pyvfio: Command, tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("{}")
    assert pyvfio("replay", str(file)).code == 2
    assert pyvfio("replay", str(file), "--device", "x").code == 2
    assert pyvfio("replay", "/nonexistent").code == 1


# report


def test_report_is_one_anonymous_file(pyvfio: Command, kernel: mock.Kernel, tmp_path: Path) -> None:
    uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"
    kernel.tree.add(
        "/proc/cmdline", Text(f"root=UUID={uuid} intel_iommu=on secret=1 vfio-pci.ids=15b3:101e\n".encode())
    )
    file = tmp_path / "report.json"
    assert pyvfio("report", VF, "--open", "-o", str(file)).code == 0
    document = json.loads(file.read_text())
    validate(document, "report")
    assert document["host"]["command_line"] == ["intel_iommu=on", "vfio-pci.ids=15b3:101e"]
    assert document["opened"]["config"].startswith("b3151e10")
    assert uuid not in file.read_text()
    validate(json.loads(pyvfio("report").out), "report")


def test_what_identifies_somebody_is_replaced() -> None:
    hide = Anonymous("lab-host-7")
    shown = hide(
        {
            "who": "process 812 (qemu-secret), descriptor 9",
            "use": "disk:sda1 (mounted at /srv/customer)",
            "net": "52:54:00:12:34:56 10.1.2.3 on lab-host-7",
            "again": ["52:54:00:12:34:56", "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"],
            "file": "/home/jane/vm.log",
            "address": "0000:41:10.1",
        }
    )
    text = json.dumps(shown)
    for secret in ("secret", "customer", "52:54", "10.1.2.3", "lab-host", "83b8", "jane"):
        assert secret not in text
    assert shown["again"][0] == "mac-1"
    assert shown["net"].startswith("mac-1 ")
    assert shown["address"] == "0000:41:10.1"


def test_serial_numbers_are_zeroed() -> None:
    config = bytearray(range(256)) * 2
    capabilities = [
        {"offset": "0x100", "id": 3, "name": "Device Serial Number", "extended": True},
        {"offset": "0x40", "id": 3, "name": "VPD", "extended": False},
    ]
    data = bytes.fromhex(without_serial(config.hex(), capabilities))
    assert data[0x104:0x10C] == bytes(8)
    assert data[0x44:0x48] == bytes(4)
    assert data[0x10C] == 0x0C


# --pid


def test_show_takes_the_descriptor_of_a_program(pyvfio: Command, kernel: mock.Kernel) -> None:
    with library.open(VF, kernel=kernel) as device:
        device.config.bus_master = True
        opened = pyvfio.json("show", VF, "--pid", str(os.getpid()))["opened"]
        assert (opened["mode"], opened["migration_state"]) == (None, "RUNNING")
        assert int.from_bytes(bytes.fromhex(opened["config"])[4:6], "little") & 4
        assert device.config.bus_master  # nothing was reset
    assert "does not have" in pyvfio("show", VF, "--pid", "1").err
    assert pyvfio("show", VF, "--pid", "1").code == 3
    assert pyvfio("show", VF, "--pid", "1", "--open").code == 2


def test_dirty_logs_the_device_of_a_program(pyvfio: Command, kernel: mock.Kernel) -> None:
    with library.open(MOCK, kernel=kernel) as device:
        mapping = device.address_space.alloc(2 << 20, 1 << 20)
        ask = (
            "dirty",
            MOCK,
            "--pid",
            str(os.getpid()),
            "--iova",
            "1M",
            "--size",
            "2M",
            "--interval",
            "0",
            "--intervals",
            "1",
        )
        assert [one["dirty"] for one in pyvfio.lines(*ask)] == [0]
        with device.dirty_log([mapping.range]):
            assert pyvfio(*ask).code == 1  # the program's own log is left alone
        device.migration.state = library.migration.State.STOP_COPY
        assert "is being migrated" in pyvfio(*ask).err
        device.migration.state = library.migration.State.RUNNING
        assert pyvfio(*ask).code == 0
        assert device.migration.state == library.migration.State.RUNNING
    assert pyvfio("dirty", MOCK, "--pid", str(os.getpid())).code == 2


def test_a_descriptor_is_taken_out_of_another_process() -> None:
    """The other process is a child, and the descriptor is taken by pidfd_getfd."""
    code = "import os, sys; fd = os.memfd_create('x'); os.write(fd, b'found'); print(fd, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        number = int(child.stdout.readline())
        try:
            taken = LinuxKernel().take_descriptor(child.pid, number)
        except PermissionError:
            pytest.skip("this host does not let a process trace its child")
        assert os.pread(taken, 5, 0) == b"found"
        os.close(taken)
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            LinuxKernel().take_descriptor(child.pid, 999)
        assert caught.value.errno == errno.EBADF
        child.communicate()
