# SPDX-License-Identifier: MIT
"""The choice of a QEMU, and the questions to it, with a script that replaces QEMU."""

from __future__ import annotations

from pathlib import Path

import pytest
from vmtest import get_qemu
from vmtest import qemu as module
from vmtest.cache import new_directory
from vmtest.problems import Problem
from vmtest.qemu import Qemu, directory_name, matches, require_qemu

PROGRAM = """\
#!/bin/sh
[ "$1" = --version ] && echo 'QEMU emulator version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)' && exit
echo asked >>@DIRECTORY@/asked
echo '{"QMP": {}}'
echo '{"return": {}}'
grep -q '"typename": "igb"' && echo '{"return": [{"name": "netdev"}, {"name": "addr"}]}' && exit
@OTHERWISE@
"""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory, which is the cache of QEMUs and the first on the PATH."""
    monkeypatch.setattr(module, "DIRECTORY", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return tmp_path


def install_program(directory: Path, otherwise: str) -> Path:
    path = directory / "qemu-system-x86_64"
    path.write_text(PROGRAM.replace("@DIRECTORY@", str(directory)).replace("@OTHERWISE@", otherwise))
    path.chmod(0o755)
    return path


NOT_FOUND = """echo '{"error": {"class": "DeviceNotFound"}}'"""


def test_system_is_the_one_on_the_path(directory: Path) -> None:
    path = install_program(directory, NOT_FOUND)
    qemu = require_qemu()
    assert qemu.command == (str(path),)
    assert qemu.version == "10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)"
    assert qemu.release == (10, 0, 13)


def test_device_properties_are_asked_once(directory: Path) -> None:
    install_program(directory, NOT_FOUND)
    assert require_qemu().has_device("igb")
    module._properties.cache_clear()
    assert require_qemu().device_properties("igb") == {"netdev", "addr"}
    assert (directory / "asked").read_text() == "asked\n"


def test_unknown_device_has_no_properties(directory: Path) -> None:
    install_program(directory, NOT_FOUND)
    qemu = require_qemu()
    assert not qemu.has_device("edu")
    with pytest.raises(Problem, match=r"QEMU 10\.0\.13 .* has no device edu"):
        qemu.device_properties("edu")


def test_device_whose_question_aborts_qemu_is_not_there(directory: Path) -> None:
    install_program(directory, "kill -ABRT $$")
    assert not require_qemu().has_device("virtio-vga-gl")


def test_qemu_that_is_killed_at_the_question_is_asked_again(directory: Path) -> None:
    install_program(directory, "kill -KILL $$")
    qemu = require_qemu()
    for _ in range(2):
        with pytest.raises(Problem, match="does not answer"):
            qemu.has_device("edu")
    assert (directory / "asked").read_text() == "asked\nasked\n"


def test_qemu_that_does_not_answer_is_a_problem(directory: Path) -> None:
    path = install_program(directory, NOT_FOUND)
    qemu = require_qemu()
    path.write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    with pytest.raises(Problem, match="does not answer: broken"):
        qemu.has_device("igb")


def test_another_build_of_the_same_version_is_asked_anew(directory: Path) -> None:
    path = install_program(directory, NOT_FOUND)
    qemu = require_qemu()
    assert qemu.has_device("igb")
    path.write_text(path.read_text() + "\n# built anew\n")
    module._properties.cache_clear()
    assert qemu.has_device("igb")
    assert (directory / "asked").read_text() == "asked\nasked\n"


@pytest.mark.parametrize(
    ("choice", "version", "expected"),
    [
        ("10.0", "1:10.0.13+ds-0+deb13u1", True),
        ("10.0", "10.0.13+ds-0+deb13u1", True),
        ("10.0", "1:10.01+ds", False),
        ("10.0", "1:7.2+dfsg-7+deb12u18+b3", False),
        ("1.1", "1:11.1.3+ds-1~bpo13+1", False),
        ("newest", "1:7.2+dfsg-7+deb12u18+b3", True),
    ],
)
def test_versions_that_match_a_choice(choice: str, version: str, expected: bool) -> None:
    assert matches(choice, version) is expected


def test_directory_name_has_no_colon() -> None:
    # The directory occurs in lists of paths, whose separator is a colon.
    assert directory_name("1:11.1.3+ds-1~bpo13+1") == "11.1.3+ds-1~bpo13+1"


def test_finished_root_of_the_highest_version_is_taken(directory: Path) -> None:
    for name in ("10.0.2+ds-2", "10.0.13+ds-0", "11.1.3+ds-1", "10.0.14+ds-0.unfinished"):
        (directory / "root" / name).mkdir(parents=True)
    assert module._finished("10.0") == directory / "root" / "10.0.13+ds-0"
    assert module._finished("10.2") is None


def test_newest_is_what_the_link_leads_to(directory: Path) -> None:
    assert module._finished("newest") is None
    root = directory / "root" / "11.1.3"
    root.mkdir(parents=True)
    (directory / "newest").symlink_to("root/11.1.3")
    assert module._finished("newest") == root


@pytest.mark.parametrize("choice", ["7", "latest", "10.0.13", ""])
def test_a_choice_that_is_no_version_is_a_problem(choice: str) -> None:
    with pytest.raises(Problem, match="choose system, newest or a version"):
        require_qemu(choice)


def test_new_directory_appears_complete(tmp_path: Path) -> None:
    with new_directory(tmp_path / "a" / "b") as unfinished:
        (unfinished / "file").write_text("x")
        assert not (tmp_path / "a" / "b").exists()
    assert [path.name for path in (tmp_path / "a").rglob("*")] == ["b", "file"]


def test_new_directory_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fill() -> None:
        with new_directory(tmp_path / "b") as unfinished:
            (unfinished / "file").write_text("x")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fill()
    assert list(tmp_path.iterdir()) == []


# --- the command --------------------------------------------------------------------------------------------------------


def test_command_prints_version_and_command(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = install_program(directory, NOT_FOUND)
    monkeypatch.setattr("sys.argv", ["get_qemu"])
    assert get_qemu.main() == 0
    assert capsys.readouterr().out == f"10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)\n{path}\n"


def test_command_prints_the_properties_of_a_device(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install_program(directory, NOT_FOUND)
    monkeypatch.setattr("sys.argv", ["get_qemu", "--device", "igb"])
    assert get_qemu.main() == 0
    assert capsys.readouterr().out == "addr\nnetdev\n"


def test_command_fails_for_an_unknown_device(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install_program(directory, NOT_FOUND)
    monkeypatch.setattr("sys.argv", ["get_qemu", "--device", "edu"])
    assert get_qemu.main() == 1
    assert capsys.readouterr().err.endswith("has no device edu\n")


def test_update_asks_for_the_package_again(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = directory / "root" / "10.0.13+ds-0"
    root.mkdir(parents=True)
    asked: list[str] = []

    def get(choice: str) -> Path:
        asked.append(choice)
        return root

    monkeypatch.setattr(module, "_get", get)
    monkeypatch.setattr(module, "_in_root", lambda root: Qemu((str(root),), {}, "10.0.13"))
    require_qemu("10.0")
    assert asked == []
    require_qemu("10.0", update=True)
    assert asked == ["10.0"]
