# SPDX-License-Identifier: MIT
"""Every public callable is given wrong arguments: it answers TypeError, ValueError or pyvfio.Error, and nothing has changed.

The callables are found by reflection on live objects of a mock kernel; an argument that is good for a parameter is known by the
parameter's name. One argument at a time is then replaced by a wrong one. A TypeError or ValueError must name the argument.
"""

from __future__ import annotations

import inspect
import math
from array import array
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from typing import Any

import numpy
import pytest

import pyvfio
from pyvfio import DirtyBitmap, DmaBuffer, IovaRange, IovaSet, host, mock
from pyvfio.guest import limits, planning, sections
from pyvfio.spaces.opening import Mode

EDU = "0000:00:03.0"
MODES = ("type1v2", "iommufd", "iommufd-type1v2")

#: wrong for some parameter or other
WRONG: tuple[Any, ...] = (
    None,
    "x",
    b"x",
    1.5,
    math.nan,
    True,
    -1,
    2**32,
    2**64,
    -(2**70),
    numpy.uint32(3),
    numpy.float64(1.5),
    object(),
    [],
    [None],
    (1, 2, 3),
    [(1, 2, 3)],
    {"a": 1},
)

#: callables that have no argument of their own that could be wrong, or take anything on purpose
TAKES_ANYTHING = {
    "__exit__",
    "__contains__",
    "__eq__",
    "__ne__",
    "__init_subclass__",
    "count",
    "index",
    "with_traceback",
    "add_note",
}
#: what would change the state if it succeeded with a right argument is called with wrong ones alone
SKIPPED = {"close", "fileno", "mro"}


def objects(kernel: mock.Kernel, mode: Mode) -> Iterator[tuple[str, Any]]:
    """Live objects, by a name for messages."""
    with pyvfio.address_space(mode, kernel=kernel) as space:
        device = space.attach("vfio-mock.0")
        edu = space.attach(EDU)
        mapping = space.alloc(1 << 16)
        yield "space", space
        yield "device", device
        yield "edu", edu
        yield "mapping", mapping
        yield "buffer", mapping.buffer
        yield "regions", device.regions
        yield "region", device.regions[1]
        yield "bar", device.regions[1].mmap()
        yield "irqs", edu.irqs
        yield "irq", edu.irqs.msi
        edu.irqs.msi.enable()
        yield "vector", edu.irqs.msi.vectors[0]
        yield "config", edu.config
        yield "features", device.features
        yield "migration", device.migration
        log = device.dirty_log([mapping.range])
        yield "log", log
        yield "dirty_log", pyvfio.dirty_log
        yield "bitmap", log.read()
        log.close()
        if isinstance(space, pyvfio.Ioas):
            yield "iommufd", space.iommufd


def values() -> Iterator[tuple[str, Any]]:
    """Classes and functions that need no device."""
    yield "IovaRange", IovaRange
    yield "IovaRange.of", IovaRange.of
    yield "IovaSet", IovaSet
    yield "DirtyBitmap", DirtyBitmap
    yield "DmaBuffer", DmaBuffer
    yield "MemorySection", sections.MemorySection
    yield "limits.mlx5", limits.mlx5


def callables(thing: Any) -> Iterator[tuple[str, Callable[..., Any]]]:
    if inspect.isclass(thing) or inspect.isfunction(thing) or inspect.ismethod(thing):
        yield "", thing
        return
    for name in dir(type(thing)):
        if (name.startswith("_") and name not in ("__getitem__",)) or name in TAKES_ANYTHING | SKIPPED:
            continue
        if isinstance(inspect.getattr_static(type(thing), name), property | cached_property):
            continue
        attribute = getattr(thing, name, None)
        if callable(attribute) and "Not part of the API" not in (attribute.__doc__ or ""):
            yield name, attribute


def good(name: str, kernel: mock.Kernel, space: Any) -> Any:
    """An argument that is right for a parameter of that name, or that the kernel refuses without harm."""
    known = {
        "buffer": DmaBuffer(4096),
        "iova": 1 << 30,
        "size": 4096,
        "offset": 0,
        "value": 0,
        "range": IovaRange(0, 4095),
        "ranges": [IovaRange(0, 4095)],
        "page_size": 4096,
        "start": 0,
        "last": 4095,
        "kernel": kernel,
        "where": "no-such-device",
        "address": "0000:ff:1f.7",
        "driver": "vfio-pci",
        "timeout": 0.0,
        "struct_": "struct vfio_device_feature_migration",
        "to": space,
        "number": 0,
        "data": b"1234",
        "rows": array("Q"),
        "devices": list(space.devices) if space is not None else [],
        "device": next(iter(space.devices), None) if space is not None else None,
        "source": next(iter(space.mappings), None) if space is not None else None,
        "plan": planning.plan([sections.MemorySection(0, 1 << 20)]),
    }
    return known.get(name, inspect.Parameter.empty)


def digest(kernel: mock.Kernel, space: Any) -> tuple[Any, ...]:
    """What a wrong argument must not change."""
    files = sorted((number, type(file).__name__) for number, file in kernel.files.items())
    mapped = [] if space is None or space.closed else [(m.iova, m.size) for m in space.mappings]
    children = () if space is None else tuple(sorted(child.address for child in space.devices if not child.closed))
    return files, mapped, children, repr(kernel.locked.__dict__), repr(kernel.locked_by_user.__dict__)


def is_a_long_time(timeout: Any) -> bool:
    """Whether a wait with that timeout would rightly take long."""
    return timeout is None or (isinstance(timeout, int | float | numpy.number) and bool(timeout > 0.5))


def attempts(call: Callable[..., Any], kernel: mock.Kernel, space: Any) -> Iterator[tuple[str, Any, Callable[[], Any]]]:
    """Calls with one wrong argument each: its name, the argument, and the call."""
    try:
        parameters = list(inspect.signature(call).parameters.values())
    except ValueError:
        return
    required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        others = {p.name: good(p.name, kernel, space) for p in required if p.name != parameter.name}
        if any(value is inspect.Parameter.empty for value in others.values()):
            others = {name: 0 if value is inspect.Parameter.empty else value for name, value in others.items()}
        for wrong in WRONG:
            if wrong is None and parameter.default is None:
                continue
            if parameter.name == "timeout" and is_a_long_time(wrong):
                continue
            arguments = {**others, parameter.name: wrong}
            positional = [arguments[p.name] for p in parameters if p.kind is p.POSITIONAL_ONLY and p.name in arguments]
            named = {
                p.name: arguments[p.name] for p in parameters if p.kind is not p.POSITIONAL_ONLY and p.name in arguments
            }
            yield parameter.name, wrong, partial(call, *positional, **named)


def judge(name: str, wrong: Any, attempt: Callable[[], Any]) -> str | None:
    """What is wrong with the answer to a wrong argument; None when nothing is. A success is no fault: it may be right."""
    try:
        result = attempt()
        if inspect.isgenerator(result):
            result.close()
        if hasattr(result, "close") and result is not None:
            result.close()
        if isinstance(result, pyvfio.Mapping):
            result.unmap()
    except pyvfio.Error:
        return None
    except BufferError as error:  # memory that exists and is of no use, such as bytes that a device is to write
        return None if name in ("buffer", "into") else f"BufferError: {error}"
    except (TypeError, ValueError) as error:
        words = str(error)
        return (
            None
            if name.removeprefix("log_") in words or "argument" in words
            else f"{type(error).__name__} without the name: {words}"
        )
    except (IndexError, KeyError) as error:
        return None if not isinstance(error, KeyError) else f"KeyError: {error}"
    except OSError as error:
        return None if error.errno else f"OSError without errno: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def faults_of(thing: Any, label: str, kernel: mock.Kernel, space: Any) -> Iterator[str]:
    for method, call in callables(thing):
        before = digest(kernel, space)
        for name, wrong, attempt in attempts(call, kernel, space):
            if fault := judge(name, wrong, attempt):
                yield f"{label}.{method}({name}={wrong!r}): {fault}"
            after = digest(kernel, space)
            if after != before:
                yield f"{label}.{method}({name}={wrong!r}): the state changed: {before} to {after}"
                before = after


@pytest.mark.parametrize("mode", MODES)
def test_wrong_arguments_to_methods_are_refused(mode: Mode) -> None:
    kernel = mock.Kernel("amd")
    faults: list[str] = []
    with host.bind(EDU, "vfio-pci", kernel=kernel):
        space = None
        for label, thing in objects(kernel, mode):
            space = thing if label == "space" else space
            faults.extend(faults_of(thing, label, kernel, space))
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults)


def test_wrong_arguments_to_values_are_refused() -> None:
    kernel = mock.Kernel("amd")
    faults = [fault for label, thing in values() for fault in faults_of(thing, label, kernel, None)]
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults)


def test_wrong_arguments_to_functions_of_the_host_are_refused() -> None:
    kernel = mock.Kernel("amd")
    functions = [getattr(host, name) for name in host.__all__ if inspect.isfunction(getattr(host, name))]
    faults = [fault for each in functions for fault in faults_of(each, f"host.{each.__name__}", kernel, None)]
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults)


def test_wrong_arguments_to_open_are_refused() -> None:
    kernel = mock.Kernel("amd")
    faults = [
        fault for each in (pyvfio.open, pyvfio.address_space) for fault in faults_of(each, each.__name__, kernel, None)
    ]
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults)
