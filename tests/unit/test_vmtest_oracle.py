# SPDX-License-Identifier: MIT
"""The oracle: the values that it reads from a QEMU, the comparison, and the random guests."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import pytest
from vmtest import qemu_oracle
from vmtest.oracle_guest import Guest, options, random_guest
from vmtest.qtest import Qtest, QtestError
from vmtest.virtio_iommu import VirtioIommu

from pyvfio.guest import x86
from pyvfio.guest.x86 import GIB, MIB

TREE = """address-space: I/O
  0000000000000000-000000000000ffff (prio 0, container): io

address-space: cpu-memory-0
address-space: memory
  0000000000000000-ffffffffffffffff (prio 0, container): system
    0000000000000000-000000007fffffff (prio 0, ram): alias ram-below-4g @m 0000000000000000-000000007fffffff
    0000000000000000-ffffffffffffffff (prio -1, i/o): pci
      00000000fffc0000-00000000ffffffff (prio 0, rom): pc.bios
    0000000100000000-000000017fffffff (prio 0, ram): alias ram-above-4g @m 0000000080000000-00000000ffffffff
    0000000180000000-000000023fffffff (prio 0, container): device-memory

memory-region: m
  0000000000000000-00000000ffffffff (prio 0, ram): device-memory
"""


def test_the_tree_of_memory_gives_places_and_offsets() -> None:
    tree = qemu_oracle.read_tree(TREE)
    assert tree["ram-below-4g"] == (0, 0x7FFFFFFF, 0)
    assert tree["ram-above-4g"] == (0x100000000, 0x17FFFFFFF, 0x80000000)
    assert tree["device-memory"] == (0x180000000, 0x23FFFFFFF, 0)
    assert "io" not in tree


def test_e820_and_srat_are_read_from_fw_cfgs_files() -> None:
    assert qemu_oracle.read_e820(struct.pack("<QQIQQI", 0, 5, 1, 9, 2, 2)) == ((0, 5, 1), (9, 2, 2))

    def memory(node: int, start: int, size: int, flags: int) -> bytes:
        return struct.pack("<BBIHQQIIQ", 1, 40, node, 0, start, size, 0, flags, 0)

    processor = bytes([0, 16]) + bytes(14)
    body = processor + memory(0, 0, 640 << 10, 1) + memory(1, 4 * GIB, GIB, 1) + memory(1, 9 * GIB, GIB, 3)
    body += memory(0, 0, 0, 0)
    table = b"SRAT" + struct.pack("<I", 48 + len(body)) + bytes(40) + body
    assert qemu_oracle.read_srat(b"DSDTxxxx" + table + b"rest") == ((0, 0, 640 << 10), (1, 4 * GIB, GIB))
    assert qemu_oracle.read_srat(b"DSDT") == ()


def test_a_value_that_differs_is_named_with_both() -> None:
    layout = x86.merged(x86.Machine(8 * GIB, phys_bits=46))
    ours = qemu_oracle.computed(layout, ())
    assert qemu_oracle.compare(ours, dict(ours)) == ()
    [difference] = qemu_oracle.compare(ours, ours | {"cmos": (0, 0x81, 1)})
    assert str(difference) == "cmos: computed (0x0, 0x80, 0x1), QEMU has (0x0, 0x81, 0x1)"
    assert qemu_oracle.compare(ours, {"hole64 end": ours["hole64 end"] + GIB})[0].what == "hole64 end"


def test_every_value_of_a_layout_takes_part() -> None:
    machine = x86.Machine(8 * GIB, maxram_size=16 * GIB, slots=1)
    ours = qemu_oracle.computed(x86.merged(machine), (4 * GIB, 4 * GIB))
    assert set(ours) == {
        "e820", "cmos", "hole64 start", "hole64 end", "device memory", "ram-below-4g", "ram-above-4g", "srat",
    }  # fmt: skip
    empty = qemu_oracle.computed(x86.merged(machine._replace(pci_hole64_size=0)), ())
    assert empty["hole64 end"] == empty["hole64 start"]


def test_options_describe_the_machine() -> None:
    machine = x86.Machine(
        8 * GIB,
        maxram_size=16 * GIB,
        slots=2,
        pci_hole64_size=GIB,
        phys_bits=46,
        cxl_windows=(GIB,),
        machine_type="8.1",
        max_ram_below_4g=GIB,
    )
    text = " ".join(options(Guest(machine, cpu="EPYC")))
    assert "-machine pc-q35-8.1,max-ram-below-4g=1073741824,cxl=on,cxl-fmw.0.targets.0=cxl," in text
    assert "-m size=8589934592B,slots=2,maxmem=17179869184B -cpu EPYC,phys-bits=46" in text
    assert "-global q35-pcihost.pci-hole64-size=1073741824" in text
    nodes = " ".join(options(Guest(x86.Machine(3 * GIB, x86.Board.I440FX, long_mode=False), (GIB, 2 * GIB), "A,-lm")))
    assert "-numa node,nodeid=1,memdev=m1" in nodes
    assert "phys-bits" not in nodes
    assert "memory-backend=m" not in nodes


def test_random_guests_are_repeatable_and_of_every_kind() -> None:
    guests = [random_guest(random.Random(f"0/{n}"), ["7.0", "8.1"], (11, 1, 3)) for n in range(400)]
    assert guests == [random_guest(random.Random(f"0/{n}"), ["7.0", "8.1"], (11, 1, 3)) for n in range(400)]
    machines = [guest.machine for guest in guests]
    assert {machine.machine_type for machine in machines} == {None, "7.0", "8.1"}
    for field in ("amd_cpu", "long_mode"):
        assert {getattr(machine, field) for machine in machines} == {True, False}
    assert any(x86.merged(machine).relocated for machine in machines)
    assert any(machine.cxl_windows and machine.device_memory_size for machine in machines)
    assert any(guest.nodes and sum(guest.nodes) == guest.machine.ram_size for guest in guests)
    assert all(machine.ram_size >= 128 * MIB and machine.ram_size % 8192 == 0 for machine in machines)


# qtest's protocol


@pytest.fixture
def serve() -> Iterator[Callable[[Callable[[str], str]], Qtest]]:
    """A function that returns a Qtest whose lines another function answers."""
    sockets: list[socket.socket] = []

    def start(answer: Callable[[str], str]) -> Qtest:
        ours, theirs = socket.socketpair()
        sockets.append(ours)

        def loop() -> None:
            with contextlib.suppress(OSError), theirs, theirs.makefile("rw") as file:
                for line in file:
                    file.write(answer(line.rstrip("\n")))
                    file.flush()

        threading.Thread(target=loop, daemon=True).start()
        return Qtest(ours, timeout=60)

    yield start
    for one in sockets:
        one.close()


def test_an_answer_follows_lines_about_interrupts(serve: Callable[[Callable[[str], str]], Qtest]) -> None:
    lines: list[str] = []

    def answer(line: str) -> str:
        lines.append(line)
        return "IRQ raise 4\nOK 0x0005\n" if line.startswith("in") else "OK\n"

    assert serve(answer).cmos(0x5B) == 5
    assert lines == ["outb 0x70 0x5b", "inb 0x71"]


def test_a_refused_command_is_named(serve: Callable[[Callable[[str], str]], Qtest]) -> None:
    with pytest.raises(QtestError, match="answers 'nonsense' with 'FAIL unknown nonsense'"):
        serve(lambda line: f"FAIL unknown {line}\n").command("nonsense")


def test_a_qemu_that_has_ended_is_told_as_such() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, pytest.raises(QtestError, match="QEMU does not answer"):
        Qtest(ours, timeout=1).command("inb 0x71")


class FwCfg:
    """fw_cfg's DMA interface with one file, behind qtest's protocol."""

    def __init__(self) -> None:
        self.memory: dict[int, int] = {}
        entry = struct.pack(">IHH56s", 3, 0x20, 0, b"etc/e820")
        self.items = {0x19: struct.pack(">I", 1) + entry, 0x20: b"abc"}

    def __call__(self, line: str) -> str:
        name, *numbers = line.split()
        if name == "write":
            self._store(int(numbers[0], 16), bytes.fromhex(numbers[2][2:]))
        elif name == "read":
            data = bytes(self.memory.get(int(numbers[0], 16) + at, 0) for at in range(int(numbers[1], 16)))
            return f"OK 0x{data.hex()}\n"
        elif name == "outl" and int(numbers[0], 16) == 0x518:
            self._transfer(int.from_bytes(int(numbers[1], 16).to_bytes(4, "little"), "big"))
        return "OK\n"

    def _transfer(self, at: int) -> None:
        request = bytes(self.memory[at + n] for n in range(16))
        control, size, target = struct.unpack(">IIQ", request)
        assert control & 0xA == 0xA
        self._store(target, self.items[control >> 16][:size])
        self._store(at, bytes(4))

    def _store(self, at: int, data: bytes) -> None:
        self.memory.update({at + n: byte for n, byte in enumerate(data)})


def test_a_file_of_fw_cfg_is_read_by_dma(serve: Callable[[Callable[[str], str]], Qtest]) -> None:
    qtest = serve(FwCfg())
    assert qtest.fw_cfg_files() == {"etc/e820": (0x20, 3)}
    assert qtest.fw_cfg_file("etc/e820") == b"abc"
    with pytest.raises(QtestError, match="has no file etc/other"):
        qtest.fw_cfg_file("etc/other")


def test_a_device_that_is_not_virtio_is_named(serve: Callable[[Callable[[str], str]], Qtest]) -> None:
    with pytest.raises(QtestError, match="the device at slot 3 is no virtio device"):
        VirtioIommu(serve(lambda line: "OK 0x0000\n" if line.startswith("in") else "OK\n"), slot=3)
