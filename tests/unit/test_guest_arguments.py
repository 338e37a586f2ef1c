# SPDX-License-Identifier: MIT
"""Every public function of the guest computations and of ranges raises only TypeError and ValueError for impossible arguments."""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator
from enum import Enum
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from pyvfio import bitmap, iova
from pyvfio.guest import bars, blockers, limits, mapping, planning, qemu_release, reserved, sections, x86
from pyvfio.guest.qemu import (
    blocking,
    dirty_logging,
    iova_tree,
    layouts,
    logs,
    messages,
    ranges,
    starting,
    virtio_iommu,
)
from pyvfio.guest.sections import MemorySection
from pyvfio.iova import IovaRange, IovaSet

MODULES = (
    sections, planning, limits, mapping, reserved, x86, blockers, bars, qemu_release, iova, bitmap,
    ranges, blocking, dirty_logging, starting, logs, messages, iova_tree, virtio_iommu, layouts,
)  # fmt: skip
BAD: tuple[Any, ...] = (
    None, "x", b"x", 5, -1, 2**64, 2**70, 1.5, float("nan"), True, [], (), {}, object(), np.int64(-5), [1], ["a"], [None], (1, 2, 3),
)  # fmt: skip
#: Right arguments by name. Other arguments are 1, or have their default.
GOOD: dict[str, Any] = {
    "sections": [MemorySection(0, 4096)], "section": MemorySection(0, 4096), "page_size": 4096, "log": "x", "name": "d", "text": "0:1:0",
    "usable": IovaSet([(0, 2**39 - 1)]), "ranges": [IovaRange(0, 4095)], "plan": planning.plan([MemorySection(0, 4096)]),
    "machine": x86.Machine(1 << 32), "space": mapping.Space(), "size": 4096, "length": 4096, "found": sections.census([]),
}  # fmt: skip
#: Names that callers do not use: a bitmap creates its segments, and the others are internal functions of the layouts.
INTERNAL = {"Segment", "srat", "srat_rfc", "HasRange"}


def functions(module: ModuleType) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the public functions and classes that a module defines."""
    for name, value in vars(module).items():
        own = callable(value) and getattr(value, "__module__", None) == module.__name__
        if name[0] != "_" and own and name not in INTERNAL and not (inspect.isclass(value) and issubclass(value, Enum)):
            yield name, value


CALLS = [
    pytest.param(function, id=f"{module.__name__.removeprefix('pyvfio.')}.{name}")
    for module in MODULES
    for name, function in functions(module)
]


@pytest.mark.parametrize("function", CALLS)
def test_impossible_arguments_raise_type_error_or_value_error(function: Callable[..., Any]) -> None:
    parameters = [
        each for each in inspect.signature(function).parameters.values() if each.kind <= each.POSITIONAL_OR_KEYWORD
    ]
    given = [GOOD.get(each.name, 1 if each.default is each.empty else each.default) for each in parameters]
    for index in range(len(parameters)):
        for bad in BAD:
            with contextlib.suppress(TypeError, ValueError):
                function(*given[:index], bad, *given[index + 1 :])


def test_a_wrong_write_leaves_the_bar_as_it_was() -> None:
    """replay() checks all writes before it makes the first one."""
    bar = bars.Bar(0xFE000000, None, 4096)
    for wrong in ((0, -1), (8, 0), (4, 0), (0, 1.5), (False, 0)):
        with pytest.raises((TypeError, ValueError)):
            bars.replay(bar, [(0, 0xE0000000), wrong])  # type: ignore[list-item]
    assert bar.range == IovaRange.of(0xFE000000, 4096)


@pytest.mark.parametrize("text", ["", "x", "1:2", "01:00.8", "01:20.0", "01:1_0.0", "100:00.0", "01:00.0 "])
def test_text_that_is_no_pci_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^text must be a PCI address such as 01:00\.0, not "):
        reserved.Bdf.parse(text)
    assert str(reserved.Bdf.parse("0000:01:1f.7")) == "01:1f.7"


def test_fields_of_a_guests_description_are_named() -> None:
    for make, message in (
        (lambda: x86.Machine(1 << 32, phys_bits=40.0), "phys_bits must be an integer, not float"),  # type: ignore[arg-type]
        (lambda: x86.Machine(1 << 32)._replace(slots=-1), "slots must be at least 0, not -1"),
        (lambda: mapping.Space(page_sizes=0), "page_sizes must be at least 1, not 0"),
        (lambda: mapping.Space(mapped=[]), "mapped must be an IovaSet, not list"),  # type: ignore[arg-type]
        (lambda: blockers.GuestDevice("d", peers=["x"]), "peers must be a Peer, not str"),  # type: ignore[arg-type]
        (lambda: blockers.find([], assigned="d"), "assigned must be an iterable of str, not str"),
        (lambda: mapping.type1_map(mapping.Space(), 0, 4096, era=2.0), "era must be an Era, not float"),  # type: ignore[arg-type]
        (
            lambda: virtio_iommu.probe([reserved.ReservedRegion(256, 0, 1)]),
            "regions' type must be at most 255, not 256",
        ),
        (lambda: limits.core_start([(0, -1)], 4096), "ranges must be at least 0, not -1"),
    ):
        with pytest.raises((TypeError, ValueError), match=f"^{re.escape(message)}$"):
            make()
    for machine in (
        x86.Machine(1 << 64),
        x86.Machine(1 << 32, maxram_size=1 << 64),
        x86.Machine(1 << 32, cxl_windows=(2**64 - 1,)),
        x86.Machine(1 << 32, sgx_epc=(2**64 - 1,)),
    ):
        with pytest.raises(ValueError, match=r"^machine must end below 2\^64 "):
            x86.merged(machine)
    assert x86.Machine(np.uint64(1 << 32), board="pc").board is x86.Board.I440FX  # type: ignore[arg-type]
