# SPDX-License-Identifier: MIT
"""list, show, doctor, bind and restore."""

from __future__ import annotations

import io
import shutil

import pytest

import pyvfio as library
from pyvfio import host, mock
from pyvfio.cli.output import Output
from pyvfio.mock.fs.tree import Link, Text
from pyvfio.mock.machine.profile import PROFILES
from tests.cli.command import Command

EDU, VF, NVME = "0000:00:03.0", "0000:41:10.1", "0000:00:04.0"


# list


def test_list_shows_each_device_with_its_state(pyvfio: Command) -> None:
    ran = pyvfio("list")
    assert ran.code == 0
    rows = {line.split()[0]: line.split() for line in ran.out.splitlines()[1:]}
    assert rows[EDU][1:4] == ["1234:11e8", "unbound", "-"]
    assert rows[NVME][1:4] == ["1b36:0010", "kernel", "nvme"]
    assert rows[VF][2:7] == ["vfio", "mlx5_vfio_pci", "10", "10", "vfio0"]


def test_list_as_json_fits_its_schema(pyvfio: Command, kernel: mock.Kernel) -> None:
    listed = {one["address"]: one for one in pyvfio.json("list")["devices"]}
    assert set(listed) == {one.address for one in host.devices(kernel)}
    assert listed[VF]["physical_function"] == "0000:41:00.0"


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (("--state", "vfio", "--bus", "pci"), [VF]),
        (("--driver", "nvme"), [NVME]),
        (("--id", "1b36"), [NVME]),
        (("--id", "0x1b36:0010"), [NVME]),
        (("--class", "0108"), [NVME]),
        (("--group", "0"), [EDU]),
    ],
)
def test_list_filters(pyvfio: Command, options: tuple[str, ...], found: list[str]) -> None:
    assert [one["address"] for one in pyvfio.json("list", *options)["devices"]] == found


def test_list_that_finds_nothing_exits_with_3(pyvfio: Command) -> None:
    assert pyvfio("list", "--driver", "nothing").code == 3
    assert pyvfio.json("list", "--driver", "nothing", code=3) == {"devices": []}


def test_list_names_who_has_a_device_open(pyvfio: Command, kernel: mock.Kernel, edu: str) -> None:
    with library.open(edu, kernel=kernel):
        (one,) = pyvfio.json("list", "--group", "0")["devices"]
    assert "this process" in one["holders"][0]


# Addresses


@pytest.mark.parametrize("typed", ["0000:00:03.0", "00:03.0", "0:3.0", "3.0", "03.0"])
def test_short_addresses(pyvfio: Command, typed: str) -> None:
    assert pyvfio.json("show", typed)["address"] == EDU


@pytest.mark.parametrize("typed", ["vfio0", "/dev/vfio/devices/vfio0"])
def test_a_vfio_device_is_an_address(pyvfio: Command, typed: str) -> None:
    assert pyvfio.json("show", typed)["address"] == VF


# show


def test_show_reads_sysfs_alone(pyvfio: Command, kernel: mock.Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(kernel, "open", lambda path, *_: opened.append(path))
    shown = pyvfio.json("show", VF)
    assert (shown["state"], shown["iommu_group"]["number"], shown["reset_methods"]) == ("vfio", 10, ["flr"])
    assert {one["type"] for one in shown["reserved_regions"]} == {"msi"}
    assert "opened" not in shown
    assert opened == []


def test_show_says_what_keeps_a_device_from_use(pyvfio: Command) -> None:
    shown = pyvfio.json("show", EDU)
    assert shown["finding"]["id"] == "not-bound"
    assert shown["finding"]["cure"] == f"pyvfio bind {EDU}"


def test_show_open_has_regions_and_interrupts(pyvfio: Command) -> None:
    opened = pyvfio.json("show", VF, "--open")["opened"]
    assert [one["name"] for one in opened["regions"]] == ["BAR0", "CONFIG"]
    assert {one["name"]: one["vectors"] for one in opened["interrupts"]}["msix"] == 16
    assert "DMA_LOGGING_START" in opened["features"]
    assert opened["config"][:8] == "b3151e10"


def test_show_open_without_pciutils_dumps_the_space(pyvfio: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    ran = pyvfio("show", VF, "--open")
    assert ran.code == 0
    assert "00: b3 15 1e 10" in ran.out
    assert "MSI-X" in ran.out


@pytest.mark.skipif(shutil.which("lspci") is None, reason="pciutils is not installed")
def test_show_open_is_decoded_by_lspci(pyvfio: Command) -> None:
    ran = pyvfio("show", VF, "--open")
    assert "41:10.1 Ethernet controller" in ran.out
    assert "MSI-X: Enable- Count=16" in ran.out


def test_show_open_binds_when_asked_and_restores(pyvfio: Command, kernel: mock.Kernel) -> None:
    assert pyvfio("show", EDU, "--open").code == 1
    assert pyvfio("show", EDU, "--open", "--bind").code == 0
    assert host.device(EDU, kernel).driver is None
    assert host.bindings(kernel) == []


def test_show_tree_goes_down_from_the_root(pyvfio: Command) -> None:
    lines = pyvfio.json("show", "0000:02:00.1", "--tree")["tree"]
    assert [(one["depth"], one["address"]) for one in lines] == [
        (0, "pci0000:00"),
        (1, "0000:00:09.0"),
        (2, "0000:02:00.0"),
        (2, "0000:02:00.1"),
    ]


# bind and restore


def test_bind_stays_and_restore_puts_back(pyvfio: Command, kernel: mock.Kernel) -> None:
    bound = pyvfio.json("bind", NVME, EDU)
    assert [(one["address"], one["previous_driver"], one["driver"]) for one in bound["devices"]] == [
        (NVME, "nvme", "vfio-pci"),
        (EDU, None, "vfio-pci"),
    ]
    assert host.device(NVME, kernel).driver == "vfio-pci"
    listed = pyvfio.json("restore", "--list")["bindings"]
    assert [one["restored"] for one in listed] == [False, False]
    restored = pyvfio.json("restore", NVME)["bindings"]
    assert [(one["address"], one["restored"]) for one in restored] == [(NVME, True)]
    assert host.device(NVME, kernel).driver == "nvme"
    assert f"{EDU}: vfio-pci -> no driver" in pyvfio("restore").out
    assert pyvfio("restore").out == "nothing to restore\n"
    assert pyvfio("restore", EDU).code == 3


def test_bind_dry_run_changes_nothing(pyvfio: Command, kernel: mock.Kernel) -> None:
    writes = pyvfio.json("bind", NVME, "--dry-run")["writes"]
    assert [one["path"].rpartition("/")[2] for one in writes] == ["driver_override", "unbind", "bind"]
    assert host.device(NVME, kernel).driver == "nvme"


def test_bind_names_the_member_in_the_way(pyvfio: Command) -> None:
    ran = pyvfio("bind", "2:0.1")
    assert ran.code == 0
    assert "Bind these too: pyvfio bind 0000:02:00.0" in ran.out


def test_bind_takes_the_whole_group(pyvfio: Command, kernel: mock.Kernel) -> None:
    bound = pyvfio.json("bind", "2:0.1", "--group")
    assert [one["address"] for one in bound["devices"]] == ["0000:02:00.1", "0000:02:00.0"]
    assert host.group(8, kernel).in_the_way == {}


def test_bind_refuses_a_device_in_use(pyvfio: Command, kernel: mock.Kernel) -> None:
    kernel.tree.add("/proc/net/route", Text(b"Iface\tDestination\neth0\t00000000\t0\t3\t0\t0\t0\t00000000\n"))
    path = host.device("0000:00:06.0", kernel).path
    kernel.tree.add(f"{path}/net/eth0/address", Text(b"52:54:00:00:00:01\n"))
    kernel.tree.add("/sys/class/net/eth0", Link(f"{path}/net/eth0"))
    error = pyvfio.json("bind", "6.0", code=1)["error"]
    assert "network:eth0 (the default route)" in error["message"]
    assert "--allow-in-use network:eth0" in error["message"]
    assert pyvfio("bind", "6.0", "--allow-in-use", "network:eth0").code == 0


def test_restore_after_a_kill_before_the_first_write_succeeds(pyvfio: Command, kernel: mock.Kernel) -> None:
    """The killed program left only its entry in the journal; the device is unchanged."""
    host.bind(NVME, "vfio-pci", kernel=kernel)
    path = host.device(NVME, kernel).path
    kernel.write_file("/sys/bus/pci/drivers/vfio-pci/unbind", NVME.encode())
    kernel.write_file(f"{path}/driver_override", b"\n")
    kernel.write_file("/sys/bus/pci/drivers/nvme/bind", NVME.encode())
    (one,) = pyvfio.json("restore")["bindings"]
    assert one["restored"]
    assert host.bindings(kernel) == []


def test_restore_leaves_what_was_bound_to_something_else(pyvfio: Command, kernel: mock.Kernel) -> None:
    host.bind(NVME, "vfio-pci", kernel=kernel)
    path = host.device(NVME, kernel).path
    kernel.write_file("/sys/bus/pci/drivers/vfio-pci/unbind", NVME.encode())
    kernel.write_file(f"{path}/driver_override", b"pci-stub\n")
    kernel.write_file("/sys/bus/pci/drivers/pci-stub/bind", NVME.encode())
    ran = pyvfio("restore")
    assert ran.code == 1
    assert "it was bound to something else" in ran.out
    assert host.device(NVME, kernel).driver == "pci-stub"


def test_unbind_stays_and_restore_puts_back(pyvfio: Command, kernel: mock.Kernel) -> None:
    (unbound,) = pyvfio.json("unbind", NVME)["devices"]
    assert (unbound["previous_driver"], unbound["driver"], unbound["changed"]) == ("nvme", None, True)
    assert host.device(NVME, kernel).driver is None
    assert pyvfio("unbind", NVME).out == f"{NVME}: is bound to no driver already\n"
    assert pyvfio("restore", "--list").out.startswith(f"{NVME}: no driver, was nvme")
    assert pyvfio("doctor", NVME).out.count("taken-back") == 0
    assert pyvfio("restore").code == 0
    assert host.device(NVME, kernel).driver == "nvme"


def test_restore_after_bind_and_unbind_gives_the_first_driver(pyvfio: Command, kernel: mock.Kernel) -> None:
    assert pyvfio("bind", NVME).code == 0
    assert pyvfio("unbind", NVME).code == 0
    assert pyvfio("restore").code == 0
    assert host.device(NVME, kernel).driver == "nvme"


def test_unbind_dry_run_and_refusals(pyvfio: Command, kernel: mock.Kernel) -> None:
    (write,) = pyvfio.json("unbind", NVME, "--dry-run")["writes"]
    assert write["path"] == "/sys/bus/pci/drivers/nvme/unbind"
    assert host.device(NVME, kernel).driver == "nvme"
    with library.open(VF, kernel=kernel):
        assert "this process" in pyvfio("unbind", VF).err
    assert host.bindings(kernel) == []


def test_bind_gives_the_nodes_to_a_user(pyvfio: Command, kernel: mock.Kernel) -> None:
    kernel.tree.directory("/run/udev/rules.d")
    out = pyvfio("bind", EDU, "--user", "0:0").out
    assert "belong to root:root, by /run/udev/rules.d/70-pyvfio-0000:00:03.0.rules until the next boot" in out
    assert "grants the DMA of all of group 0" in out
    found = host.device(EDU, kernel)
    assert set(kernel.owners) == {found.group_path, found.cdev}
    rule = kernel.read_file(f"/run/udev/rules.d/70-pyvfio-{EDU}.rules").decode()
    assert 'SUBSYSTEM=="vfio", KERNEL=="0", OWNER="root", GROUP="root", MODE="0660"' in rule
    assert f'SUBSYSTEM=="vfio-dev", KERNELS=="{EDU}"' in rule
    assert pyvfio("restore").code == 0
    assert not kernel.exists(f"/run/udev/rules.d/70-pyvfio-{EDU}.rules")


def test_bind_to_an_unknown_user_changes_nothing(pyvfio: Command, kernel: mock.Kernel) -> None:
    assert pyvfio("bind", EDU, "--user", "nobody-of-that-name").code == 2
    assert host.device(EDU, kernel).driver is None


def test_bind_at_boot_writes_a_file_that_restore_removes(pyvfio: Command, kernel: mock.Kernel) -> None:
    kernel.tree.directory("/etc/udev/rules.d")
    planned = [one["path"] for one in pyvfio.json("bind", NVME, "--at-boot", "--dry-run")["writes"]]
    (file,) = (path for path in planned if path.startswith("/etc/"))
    assert not kernel.exists(file)
    assert f"bound at each boot too, by {file}" in pyvfio("bind", NVME, "--at-boot").out
    assert NVME in kernel.read_file(file).decode()
    assert pyvfio("restore").code == 0
    assert not kernel.exists(file)
    assert host.device(NVME, kernel).driver == "nvme"


def test_bind_of_two_buses_takes_a_driver(pyvfio: Command) -> None:
    assert pyvfio("bind", EDU, "vfio-mock.0").code == 2


# doctor


def test_doctor_finds_the_first_thing_to_do(pyvfio: Command) -> None:
    said = pyvfio.json("doctor", EDU, code=1)
    assert [one["id"] for one in said["findings"]] == ["not-bound"]
    assert said["findings"][0]["cure"] == f"pyvfio bind {EDU}"
    assert not said["usable"]


def test_doctor_of_a_host_without_iommu(capsys: pytest.CaptureFixture[str]) -> None:
    pyvfio = Command(capsys, mock.Kernel("none"))
    assert [one["id"] for one in pyvfio.json("doctor", code=1)["findings"]] == ["iommu-off"]


HEALTHY = sorted(name for name in PROFILES if name != "none")


@pytest.mark.parametrize("profile", HEALTHY)
@pytest.mark.parametrize("address", [None, EDU, NVME, "0000:00:07.0", "0000:01:00.0"])
def test_doctor_finds_nothing_on_a_healthy_host(
    capsys: pytest.CaptureFixture[str], profile: str, address: str | None
) -> None:
    """A host as it should be, and its devices once they are bound."""
    pyvfio = Command(capsys, mock.Kernel(profile))
    if address is not None:
        assert pyvfio("bind", address).code == 0
    said = pyvfio.json("doctor", *([address] if address else []))
    assert (said["findings"], said["unknown"]) == ([], [])
    assert {one["id"] for one in said["hints"]} <= {"no-reset"}


# Output


@pytest.mark.parametrize(
    "arguments", [("list",), ("show", VF), ("show", VF, "--tree"), ("doctor",), ("doctor", EDU), ("bind", "2:0.1")]
)
def test_output_fits_40_columns(pyvfio: Command, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    lines = pyvfio(*arguments).out.splitlines()
    wide = [line for line in lines if len(line) > 40 and " " in line.strip()]
    assert wide == []


def test_a_terminal_gets_colours_unless_it_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    for no_colour, coloured in (("", True), ("1", False)):
        monkeypatch.setenv("NO_COLOR", no_colour)
        stream = Terminal()
        Output(stream=stream).table(("A", "STATE"), [("x", "vfio")])
        assert ("\x1b[" in stream.getvalue()) == coloured
        assert "vfio" in stream.getvalue()
