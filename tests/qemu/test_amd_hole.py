# SPDX-License-Identifier: MIT
"""Guest memory in AMD's hole below 1 TiB, with an AMD IOMMU: machine type 7.0 places memory there, types from 7.1 on move it. In the AMD machine."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable

import pytest

import pyvfio
from pyvfio import IovaRange, IovaSet
from pyvfio.guest import mapping, qemu, sections, x86
from pyvfio.guest.sections import MemorySection
from tests.qemu.client import Client, Ended
from tests.qemu.conftest import FIRST, assigned, containers

Start = Callable[..., Client]
DIMM = MemorySection(x86.AMD_HT_START, 64 << 20)
GUEST = x86.Machine(128 << 20, maxram_size=x86.TIB, slots=1, phys_bits=48, amd_cpu=True)
CPU = ("-cpu", "EPYC,phys-bits=48")
MEMORY = "128M,slots=1,maxmem=1T"


def dimm(address: int | None = None) -> tuple[str, ...]:
    """Return QEMU's options for a DIMM of 64 MiB, at an address or where QEMU places it."""
    at = "" if address is None else f",addr={address:#x}"
    return ("-object", f"memory-backend-ram,id=m,size={DIMM.size}", "-device", f"pc-dimm,memdev=m,id=dimm{at}")


@pytest.fixture(scope="module")
def usable() -> IovaSet:
    """The usable IOVA ranges. The kernel reserves the hole for every AMD IOMMU."""
    with pyvfio.address_space("type1v2") as space, space.attach(FIRST):
        ranges = space.iova_ranges
    assert ranges is not None
    assert not ranges.overlaps(x86.AMD_HT)
    return ranges


@pytest.mark.parametrize("iommufd", [False, True], ids=["type1", "iommufd"])
def test_a_dimm_in_the_hole_keeps_qemu_from_starting(start: Start, usable: IovaSet, iommufd: bool) -> None:
    layout = x86.merged(GUEST._replace(machine_type="7.0"))
    assert [(each.name, each.range) for each in layout.conflicts(usable.complement()) if each.fatal] == [
        ("device-memory", x86.AMD_HT)
    ]
    before = mapping.Space(usable)
    refuses = mapping.iommufd_refusal if iommufd else mapping.type1_refusal
    assert refuses(before, DIMM.iova, DIMM.size) == mapping.Refusal(errno.EINVAL, mapping.Because.UNUSABLE)
    assert [each.section for each in sections.mappable([DIMM], usable).dropped] == [DIMM]
    options, of_device = containers(iommufd)
    with pytest.raises(Ended) as ended:
        start(*CPU, *options, *dimm(DIMM.iova), *assigned(FIRST, **of_device), machine="pc-q35-7.0", memory=MEMORY)
    foretold = (
        rf"Region m: vfio_container_dma_map\(0x\w+, {DIMM.iova:#x}, {DIMM.size:#x}, 0x\w+\) = -22 \(Invalid argument\)"
    )
    assert re.search(f"memory listener initialization failed: {foretold}", str(ended.value))
    assert qemu.map_failure(ram_device=False, at_init=True).fatal


def test_a_dimm_in_the_hole_behind_a_device_aborts_qemu(start: Start) -> None:
    with pytest.raises(Ended) as ended:
        start(*CPU, *assigned(FIRST), *dimm(DIMM.iova), machine="pc-q35-7.0", memory=MEMORY)
    failure = qemu.map_failure(ram_device=False)
    assert failure.fatal
    words = re.search(r'hw_error\("(.*)"\)', failure.how)
    assert words is not None
    assert f"hardware error: {words[1]}" in str(ended.value)


def test_memory_moves_above_1_tib_and_maps(start: Start, usable: IovaSet) -> None:
    with start(*CPU, *dimm(), *assigned(FIRST), machine="pc-q35-7.1", memory=MEMORY) as client:
        layout = x86.merged(GUEST._replace(machine_type="7.1"), version=client.version)
        assert layout.relocated
        assert layout.device_memory is not None
        assert not [each for each in layout.conflicts(usable.complement()) if each.fatal]
        [module] = client.monitor.execute("query-memory-devices")
        placed = IovaRange.of(module["data"]["addr"], module["data"]["size"])
        assert placed == IovaRange.of(layout.device_memory.start, DIMM.size)
        assert mapping.type1_refusal(mapping.Space(usable), placed.start, placed.size) is None
        assert client.migrate()["status"] == "completed"
        client.close()
        assert f"region_add [ram] {placed.start:#x} - {placed.last:#x}" in client.log
        assert "dma_map" not in client.said
        tracked = qemu.track(qemu.read_sections(client.log), version=client.version)
        assert f"64:[{placed.start:#x} - {placed.last:#x}]" in tracked.start_line
        assert tracked.start_line == client.start_line


def test_the_hole_is_no_place_for_a_dimm_from_7_1_on(start: Start) -> None:
    layout = x86.merged(GUEST)
    assert layout.device_memory is not None
    area = f"[{layout.device_memory.start:#x}:{layout.device_memory.size:#x}]"
    with pytest.raises(Ended) as ended:
        start(*CPU, *dimm(DIMM.iova), *assigned(FIRST), machine="pc-q35-7.1", memory=MEMORY)
    assert f"usable range for memory devices {area}" in str(ended.value)
