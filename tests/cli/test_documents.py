# SPDX-License-Identifier: MIT
"""Completions, the manual page, the shipped schemas, and how quickly the command starts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib import resources

import jsonschema
import pytest

from pyvfio.cli import program
from pyvfio.cli.words import for_shell
from tests.cli.command import Command, schema

#: Modules that a subcommand may load only when it needs them.
HEAVY = {"asyncio", "pytest", "rich", "pyvfio.mock", "pyvfio.tracing", "matplotlib", "numpy"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh", "fish"])
def test_completions_know_every_subcommand(pyvfio: Command, shell: str) -> None:
    script = pyvfio.json("completion", shell)["script"]
    assert [name for name in program.COMMANDS if name not in script] == []
    assert shell == "tcsh" or "--guest-memory" in script
    if shell == "bash" and shutil.which("bash"):
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_a_shell_that_shtab_does_not_know_is_told(pyvfio: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shtab.SUPPORTED_SHELLS", ["bash"])
    ran = pyvfio("completion", "fish")
    assert ran.code == 1
    assert "does not know fish: pip install --upgrade shtab" in ran.err


def test_bash_completes_subcommands_and_options(pyvfio: Command) -> None:
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    script = pyvfio("completion", "bash").out
    for words, found in ((("pyvfio", "do"), "doctor"), (("pyvfio", "doctor", "--gu"), "--guest-memory")):
        typed = " ".join(words)
        ask = f"COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; _shtab_pyvfio; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
        assert found in done.stdout.split(), done


def test_the_manual_page_has_every_subcommand(pyvfio: Command) -> None:
    page = pyvfio.json("manual")["page"].replace("\\-", "-")
    assert [name for name in program.COMMANDS if f".SS pyvfio {name}\n" not in page] == []


def test_the_manual_page_is_valid_roff(pyvfio: Command) -> None:
    if shutil.which("groff") is None:
        pytest.skip("groff is not installed")
    done = subprocess.run(
        ["groff", "-man", "-Tutf8", "-ww", "-z"], input=pyvfio("manual").out, capture_output=True, text=True, check=True
    )
    assert [line for line in done.stderr.splitlines() if not line.endswith((" break line", " adjust line"))] == []


def test_every_subcommand_has_a_schema() -> None:
    there = {one.name.removesuffix(".json") for one in (resources.files("pyvfio.cli") / "schemas").iterdir()}
    assert there >= {*program.COMMANDS, "error"} - {"shell"}
    for name in there:
        jsonschema.Draft202012Validator.check_schema(schema(name))


def test_only_what_is_asked_for_is_loaded() -> None:
    """`--version` and usage errors load no subcommand, `list` no other one, and none what is heavy."""
    code = (
        "import sys, io; from pyvfio.cli import program; sys.stdout = io.StringIO()\n"
        "code = program.main(sys.argv[1:])\n"
        "print(*(name for name in sys.modules), file=sys.stderr)"
    )
    for arguments, wanted in ((["--version"], set()), (["list"], {"list"}), (["nothing"], set())):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            capture_output=True,
            text=True,
            check=True,
            env={"PATH": os.environ["PATH"]},
        )
        loaded = set(done.stderr.split())
        assert {name.rpartition(".")[2] for name in loaded if name.startswith("pyvfio.cli.commands.")} == wanted
        assert loaded & HEAVY == set()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("pyvfio.host.bind('0000:00:03.0', 'vfio-pci')", "pyvfio bind 0000:00:03.0"),
        ('pyvfio.host.bind("a", "mlx5_vfio_pci")', "pyvfio bind a --driver mlx5_vfio_pci"),
        ("call pyvfio.host.remove_vfs('a') first", "call pyvfio sriov a 0 first"),
        ("allow_in_use=['disk:sda', 'network:eth0']", "--allow-in-use disk:sda --allow-in-use network:eth0"),
        ("use mode='type1v2'", "use --mode type1v2"),
        ("nothing to replace", "nothing to replace"),
    ],
)
def test_advice_is_given_as_commands(text: str, shown: str) -> None:
    assert for_shell(text) == shown
