# SPDX-License-Identifier: MIT
"""Every public function of the guest's computations, and of ranges, with arguments that cannot be: only TypeError and ValueError."""

from __future__ import annotations

import contextlib
import inspect
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
#: arguments that are right, by name; the others are 1, or what they are by default
GOOD: dict[str, Any] = {
    "sections": [MemorySection(0, 4096)], "section": MemorySection(0, 4096), "page_size": 4096, "log": "x", "name": "d", "text": "0:1:0",
    "usable": IovaSet([(0, 2**39 - 1)]), "ranges": [IovaRange(0, 4095)], "plan": planning.plan([MemorySection(0, 4096)]),
    "machine": x86.Machine(1 << 32), "space": mapping.Space(), "size": 4096, "length": 4096, "found": sections.census([]),
}  # fmt: skip
#: What a caller does not make or call: a bitmap makes its segments; these are the layouts' own.
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
