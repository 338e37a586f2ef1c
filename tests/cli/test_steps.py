# SPDX-License-Identifier: MIT
"""run, shell, and the single steps: peek, poke, dump, config."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from pyvfio import host, mock
from pyvfio.cli import expressions
from pyvfio.cli.call import UsageError
from pyvfio.cli.steps import STEPS, Session
from tests.cli.command import Command

EDU, VF = "0000:00:03.0", "0000:41:10.1"

#: A script: edu copies memory into its buffer, with an interrupt at the end, and then from the buffer to other memory.
SCRIPT = """\
alloc buffer 4K 0x100000
alloc target 4096
poke @buffer 0.q 0x1122334455667788
fill @target 0xff
master on
irq msi
poke bar0 0x80 $buffer              # source
poke bar0 0x88 0x40000
poke bar0 0x90 8
poke bar0 0x98 5                    # go, and interrupt
wait msi 5
poke bar0 0x64 0x100
poke bar0 0x80 0x40000
poke bar0 0x88 $target+8
poke bar0 0x98 3
poll bar0 0x98 0:1 5
peek @target 8.q
expect 0x1122334455667788
config COMMAND
print done
"""


def run(pyvfio: Command, tmp_path: Path, script: str, *options: str, code: int = 0) -> str:
    """Run a script on edu, and return what it printed, or the error."""
    file = tmp_path / "script"
    file.write_text(script)
    ran = pyvfio("run", EDU, str(file), *options)
    assert ran.code == code, ran
    return ran.out if code == 0 else ran.err


def test_a_script_makes_the_device_copy_memory(pyvfio: Command, edu: str, tmp_path: Path) -> None:
    out = run(pyvfio, tmp_path, SCRIPT)
    assert out.splitlines()[0] == "@buffer: 0x1000 bytes at IOVA 0x100000"
    assert "0x1122334455667788" in out
    assert out.splitlines()[-1] == "done"


def test_each_step_is_a_line_of_json(pyvfio: Command, edu: str, tmp_path: Path) -> None:
    file = tmp_path / "script"
    file.write_text(SCRIPT)
    lines = pyvfio.lines("run", EDU, str(file))
    assert [one["line"] for one in lines] == list(range(1, 1 + len(SCRIPT.splitlines())))
    assert {one["step"] for one in lines} >= {
        "alloc",
        "poke",
        "fill",
        "master",
        "irq",
        "wait",
        "poll",
        "peek",
        "config",
    }


def test_a_script_comes_from_standard_input(pyvfio: Command, edu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("peek bar0 0\n\n# nothing\npeek bar0 4 1\n"))
    assert pyvfio("run", EDU).out == "0x010000ed\n0x00000000\n"


def test_steps_on_the_command_line(pyvfio: Command, edu: str) -> None:
    ran = pyvfio("run", EDU, "-c", "poke bar0 4 0x12345678", "-c", "peek bar0 4")
    assert ran.out == "0xedcba987\n"


def test_a_failed_expectation_ends_the_script_with_1(pyvfio: Command, edu: str, tmp_path: Path) -> None:
    err = run(pyvfio, tmp_path, "peek bar0 0\nexpect 0x10000ee\nprint never\n", code=1)
    assert "expected 0x10000ee, and read 0x10000ed" in err
    assert "script:2: expect 0x10000ee" in err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("nothing", "'nothing' is not a step: one of peek, "),
        ("peek bar0", "usage: peek REGION OFFSET[.W] [COUNT]"),
        ("peek bar9 0", "is not a region"),
        ("peek 99 0", "there are 9"),
        ("peek bar0 x", "'x' is not an offset"),
        ("peek bar0 0.z", "the width is .b, .w, .l or .q"),
        ("poke bar0 0.b 256", "does not fit 8 bits"),
        ("poke bar0 0 1:0x100000000", "does not fit 32 bits"),
        ("poke bar0 0 $nothing", "$nothing is not known here; there are: none yet"),
        ("peek @nothing 0", "`alloc NAME SIZE` makes some"),
        ("alloc 1x 4K", "is not a name"),
        ("alloc a 0x", "'0x' is not a number"),
        ("alloc a", "usage: alloc NAME SIZE [IOVA]"),
        ("wait msi", "`irq msi` enables it"),
        ("irq nothing", "is not an interrupt"),
        ("master maybe", "on or off"),
        ("sleep -1", "is not a time"),
        ("expect 1", "nothing has been read"),
        ("poll bar0 0 4:3 1", "no register ever has it"),
        ("config NOTHING", "is not a register"),
        ("config CAP_MSI", "add .b, .w or .l"),
        ("config COMMAND=zz", "is not a hexadecimal number"),
        ("config COMMAND=10000", "does not fit 16 bits"),
        ("config 05.w", "not a multiple of its width"),
        ("print 'open", "No closing quotation"),
    ],
)  # fmt: skip
def test_a_malformed_line_is_wrong_usage(pyvfio: Command, edu: str, tmp_path: Path, line: str, says: str) -> None:
    err = run(pyvfio, tmp_path, f"\n{line}\n", code=2)
    assert "script:2: " in err
    assert says in err


def test_every_step_is_described(pyvfio: Command) -> None:
    out = pyvfio("run", "--help").out
    assert [name for name in STEPS if f"  {name} " not in out] == []


def test_memory_ends_where_it_ends(pyvfio: Command, edu: str, tmp_path: Path) -> None:
    err = run(pyvfio, tmp_path, "alloc a 4K\npeek @a 0x1000\n", code=2)
    assert "@a has 0x1000 bytes" in err


@pytest.mark.parametrize(
    ("text", "value"),
    [("16", 16), ("0x10", 16), ("4K", 4096), ("0b101", 5), ("$a", 0x100), ("$a+0x10-1", 0x10F), (" $a + 2K ", 0x900)],
)
def test_expressions(text: str, value: int) -> None:
    assert expressions.evaluate(text, {"a": 0x100}) == value


@pytest.mark.parametrize("text", ["", "1 2", "$", "+", "1+", "1-2", "0x1_0000_0000_0000_0000", "a"])
def test_malformed_expressions_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        expressions.evaluate(text, {})


# The single steps


def test_peek_reads_all_or_nothing(pyvfio: Command, edu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "load", lambda *arguments: pytest.fail("it was read"))
    ran = pyvfio("peek", EDU, "bar0", "0xffff8", "3")
    assert (ran.code, "BAR0: 3 times 4 bytes at offset 0xffff8 lie outside; it has 0x100000 bytes" in ran.err) == (
        1,
        True,
    )


def test_peek_reads_each_width(pyvfio: Command, edu: str) -> None:
    assert pyvfio("peek", EDU, "bar0", "0").out == "0x010000ed\n"
    assert pyvfio("peek", EDU, "BAR0", "0.l", "2").out == "0x010000ed\n0x00000000\n"
    document = pyvfio.json("peek", EDU, "config", "0.w", "2")
    assert (document["values"], document["width"], document["region"]) == (["0x1234", "0x11e8"], 16, "CONFIG")


def test_poke_with_a_mask_reads_first(pyvfio: Command, edu: str) -> None:
    document = pyvfio.json("poke", EDU, "config", "4.w", "4:4")
    assert int(document["before"], 16) | 4 == int(document["value"], 16)
    assert pyvfio.json("poke", EDU, "bar0", "4", "7")["before"] is None


def test_poke_says_that_the_state_is_lost(pyvfio: Command) -> None:
    ran = pyvfio("poke", VF, "bar0", "0", "1")
    assert "its state is lost" in ran.err
    assert pyvfio.json("poke", VF, "bar0", "0", "1")["reset"] is True


def test_dump_is_what_lspci_reads(pyvfio: Command, edu: str) -> None:
    assert pyvfio("dump", EDU, "config", "0", "16").out.startswith("00: 34 12 e8 11 ")
    assert len(bytes.fromhex(pyvfio.json("dump", EDU, "config")["data"])) == 256


def test_config_reads_and_writes_by_name(pyvfio: Command, edu: str) -> None:
    assert pyvfio("config", EDU, "VENDOR_ID").out == "1234\n"
    assert pyvfio("config", EDU, "VENDOR_ID", "0.w").out == "VENDOR_ID 1234\n0.w 1234\n"
    document = pyvfio.json("config", EDU, "COMMAND=4:4", "COMMAND", "CAP_MSI+2.w", "CAP05.b")
    before, after = (int(one["value"], 16) for one in document["registers"][:2])
    assert before & 4 == after & 4 == 4
    assert document["registers"][3]["value"] == "0x5"


def test_config_of_a_missing_capability_is_refused(pyvfio: Command, edu: str) -> None:
    assert "has no capability CAP_EXP" in pyvfio("config", EDU, "CAP_EXP+8.w").err


# shell


def test_shell_runs_standard_input(pyvfio: Command, edu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("print(hex(bar0.read32(0)))\nstep('peek bar0 0')\n"))
    assert pyvfio("shell", EDU).out == "0x10000ed\n0x010000ed\n"


def test_shell_runs_code_and_closes_the_device(pyvfio: Command, kernel: mock.Kernel) -> None:
    assert pyvfio("shell", EDU, "--bind", "-c", "print(device.address, config.vendor, space.mode)").code == 0
    assert host.device(EDU, kernel).driver is None


def test_an_interrupt_in_the_shell_restores_the_device(pyvfio: Command, kernel: mock.Kernel) -> None:
    with pytest.raises(KeyboardInterrupt):
        pyvfio("shell", EDU, "--bind", "-c", "raise KeyboardInterrupt")
    assert host.device(EDU, kernel).driver is None
    assert kernel.files == {} or all(file.kind != "device" for file in kernel.files.values())
