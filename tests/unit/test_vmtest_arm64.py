# SPDX-License-Identifier: MIT
"""The arm64 machine: QEMU's options, its root file system, and what its kernel and extensions are kept by."""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from vmtest import arm64_kernel, arm64_root
from vmtest.apt import Apt, AptSource
from vmtest.arm64 import parse_arguments, source_key
from vmtest.arm64_machine import IOMMU, Arm64Hardware
from vmtest.arm64_root import LAUNCHER_PATH, MACHINE, PROJECT, fill
from vmtest.guest import write_init
from vmtest.problems import Problem
from vmtest.qemu import Qemu
from vmtest.recipe import ARM64_FRAGMENT, arm64_recipe, local_recipe, parse_fragment
from vmtest.shares import Share


class FakeQemu(Qemu):
    """A QEMU with every device."""

    def has_device(self, name: str) -> bool:
        return True


QEMU = FakeQemu(("qemu-system-aarch64",), {}, "7.2.22 (fake)")


def values(words: list[str], option: str) -> list[str]:
    """Return the values of an option."""
    return [value for name, value in itertools.pairwise(words) if name == option]


def test_hardware_is_the_board_virt_with_an_smmu() -> None:
    hardware = Arm64Hardware(QEMU, IOMMU, "1G", 1)
    channels = {name: number for number, name in enumerate(("log", "out", "err", "control", "alive"), 3)}
    monitors = {"monitor": 8, "port": 9, "host": 10}
    words = hardware.options([Share("root", Path("/root"))], channels, monitors, Path("/drive"))
    assert values(words, "-machine") == ["virt,iommu=smmuv3,gic-version=3"]
    assert values(words, "-cpu") == ["cortex-a72"]
    devices = [value.partition(",")[0] for value in values(words, "-device")]
    assert devices.count("edu") == 3
    assert devices.count("nvme") == 1
    assert not {"e1000e", "igb", "pcie-root-port"} & set(devices)


def test_kernel_options_name_the_image_and_the_launcher() -> None:
    words = Arm64Hardware(QEMU, IOMMU, "1G", 1).kernel_options({"kernel": "/kernel"}, LAUNCHER_PATH, "further=1")
    assert values(words, "-kernel") == ["/kernel/Image"]
    [parameters] = values(words, "-append")
    assert {"console=ttyAMA0", f"init={LAUNCHER_PATH}", "root=root", "further=1"} <= set(parameters.split())
    assert "tsc=reliable" not in parameters


def test_fragment_has_pages_of_64k_and_an_smmu() -> None:
    options = {option.name: option for option in parse_fragment(ARM64_FRAGMENT.read_text())}
    for name in ("CONFIG_ARM64_64K_PAGES", "CONFIG_ARM_SMMU_V3", "CONFIG_VFIO_DEVICE_CDEV", "CONFIG_VFIO_CONTAINER"):
        assert options[name] == (name, "y", True)


def finish(kernels: Path, name: str, version: str, **changes: Any) -> Path:
    """Put a finished kernel into a directory."""
    recipe = arm64_recipe() | {"source": {"package_version": version}} | changes
    (kernels / name).mkdir()
    (kernels / name / "recipe.json").write_text(json.dumps(recipe))
    return kernels / name


def test_newest_finished_kernel_of_this_recipe_is_taken(tmp_path: Path) -> None:
    assert arm64_kernel.finished_kernel(tmp_path) is None
    finish(tmp_path, "a", "7.3.4-1")
    newest = finish(tmp_path, "b", "7.3.10-1")
    finish(tmp_path, "c", "7.4.1-1", fragment="another")
    assert arm64_kernel.finished_kernel(tmp_path) == newest


def test_recipe_differs_from_that_of_this_architecture() -> None:
    assert arm64_recipe()["recipe"] != local_recipe(None)["recipe"]
    assert arm64_recipe()["fragment"] != local_recipe(None)["fragment"]


def test_extensions_are_kept_by_their_sources_and_the_packages(tmp_path: Path) -> None:
    (tmp_path / "cdefs").mkdir()
    (tmp_path / "cdefs" / "vfio.h").write_text("a")
    (tmp_path / "README.md").write_text("a")
    before = source_key(tmp_path, "python3_3.13\n")
    (tmp_path / "README.md").write_text("b")
    assert source_key(tmp_path, "python3_3.13\n") == before
    assert source_key(tmp_path, "python3_3.14\n") != before
    (tmp_path / "cdefs" / "vfio.h").write_text("b")
    assert source_key(tmp_path, "python3_3.13\n") != before


def test_root_begins_with_the_links_of_base_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpacked: list[str] = []

    def unpack(command: list[str], *, check: bool) -> subprocess.CompletedProcess[bytes]:
        assert not check
        unpacked.append(Path(command[2]).name)
        for name in ("sbin", "etc", "usr/share/doc"):
            (Path(command[3]) / name).mkdir(parents=True, exist_ok=True)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", unpack)
    fill(tmp_path, [Path("a_1_arm64.deb"), Path("base-files_13_arm64.deb"), Path("c_2_all.deb")])
    assert unpacked == ["base-files_13_arm64.deb", "a_1_arm64.deb", "c_2_all.deb"]
    assert (tmp_path / "manifest").read_text() == "a_1_arm64\nbase-files_13_arm64\nc_2_all\n"
    assert not (tmp_path / "usr/share/doc").exists()
    launcher = tmp_path / LAUNCHER_PATH.relative_to("/")
    assert launcher.stat().st_mode & 0o111
    assert f"exec {MACHINE}/init" in launcher.read_text()
    assert (tmp_path / "project").is_dir()


def test_a_package_that_cannot_be_unpacked_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", lambda command, **_: subprocess.CompletedProcess(command, 2))
    with pytest.raises(Problem, match=r"broken\.deb cannot be unpacked; remove /debs and"):
        fill(tmp_path, [Path("/debs/broken.deb")])


def test_root_is_kept_by_its_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    before = arm64_root.key()
    monkeypatch.setattr(arm64_root, "PACKAGES", (*arm64_root.PACKAGES, "strace"))
    assert arm64_root.key() != before


def test_share_at_another_path_in_the_guest() -> None:
    assert Share("here", Path("/tmp/copy"), PROJECT).mount.startswith("here /project 9p ")
    assert Share("here", Path("/tmp/copy")).mount.startswith("here /tmp/copy 9p ")


def test_process_1_reads_its_files_where_the_guest_has_them(tmp_path: Path) -> None:
    init = write_init(
        tmp_path,
        mark="MARK",
        here=PROJECT,
        shares=[],
        environment={},
        command=["true"],
        check=["true"],
        seen_at=MACHINE,
    )
    assert "mount -a -T /machine/fstab\n" in init.read_text()
    assert str(tmp_path) not in init.read_text()


def test_apt_for_another_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    Apt(tmp_path / "a", AptSource("mirror", ""), ("trixie",), "arm64").update()
    Apt(tmp_path / "b", AptSource("mirror", ""), ("trixie",)).update()
    assert "APT::Architecture=arm64" in commands[0]
    assert not any("APT::Architecture" in word for word in commands[1])


def test_command_line() -> None:
    arguments = parse_arguments(["--timeout", "60", "--", "python3", "-m", "pytest"])
    assert (arguments.timeout, arguments.command) == (60, ["python3", "-m", "pytest"])
