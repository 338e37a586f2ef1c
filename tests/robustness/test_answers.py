# SPDX-License-Identifier: MIT
"""The answers of all public callables and properties to arguments at the edges are those recorded in answers/, which a person has read.

The callables are those of test_arguments. One argument at a time is an integer at an edge, a flag, or ranges; the
others are right. Each line of answers/NAME.txt has an answer (a result, or an error with its text), with all arguments
that give it in front. So a changed errno, limit, advice or computed number is detected, in any function.

`PYVFIO_WRITE_ANSWERS=1 pytest tests/robustness/test_answers.py` records the current answers. Check the changes before
you commit them.
"""

from __future__ import annotations

import errno
import inspect
import os
import re
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any

import pytest

import pyvfio
from pyvfio import DirtyBitmap, IovaRange, IovaSet, host, mock
from pyvfio.guest.blockers import GuestDevice
from pyvfio.guest.qemu.blocking import migration_blockers
from pyvfio.host import diagnosis
from pyvfio.pci import SavedConfig
from pyvfio.spaces.opening import Mode
from tests.robustness.test_arguments import (
    EDU,
    GUEST,
    RIGHT_IN,
    callables,
    good,
    objects,
    places,
    public,
    values,
)
from tests.robustness.written import compare

#: Of a longer text, only the beginning and a checksum of the whole are recorded.
LONGEST = 120
INTEGERS = (
    -1, 0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 31, 32, 63, 64, 65, 255, 256, 4095, 4096, 4097, 8192, 65535, 65536, 1 << 20, 2**31, 2**32 - 1, 2**32,
    2**39, 2**48, 2**63 - 1, 2**63, 2**64 - 1, 2**64,
)  # fmt: skip
RANGES: tuple[list[tuple[int, int]], ...] = (
    [], [(0, 4095)], [(4096, 8191)], [(0, 4094)], [(1, 4096)], [(0, 4095), (4096, 8191)], [(0, 8191), (4096, 12287)], [(8192, 12287), (0, 4095)],
    [(0, 2**32 - 1), (2**32, 2**33 - 1)], [(0, 2**64 - 1)], [(2**64 - 4096, 2**64 - 1)],
)  # fmt: skip
#: QEMU's versions, on both sides of each at which it behaves in another way.
VERSIONS = (
    "7.2", "8.0", "8.1", "8.2", "9.0", "9.1", "9.2", "10.0", "10.1", "10.2", "11.0", "11.1", "11.1.3", "12.0", "8", "x", 8,
)  # fmt: skip
#: Names of parameters that determine an amount of memory or a number of objects. The result of large values depends on
#: the machine.
AMOUNTS = {"size", "count", "vectors", "length", "bins", "number_of_vfs"}
#: Parameters and calls that are left out, because they are about time, this process or the machine's huge pages, or
#: because they end or wait.
LEFT_OUT = {"timeout", "interval", "seconds", "delay", "pid", "huge", "fd"}
LEFT_OUT_CALLS = {"fileno", "wait", "wait_async", "pickle", "poll", "export", "close", "stop", "dma_buf"}
#: Parts of texts that differ from run to run, and their replacements.
VARIABLE = (
    (re.compile(r"\b0x[57][0-9a-f]{10,11}\b"), "ADDRESS"),
    (re.compile(r"\bat 0x[0-9a-f]+\b"), "at ADDRESS"),
    (re.compile(r"\b1[34]\d{13}\b"), "ADDRESS"),
    (re.compile(rf"\b{os.getpid()}\b"), "PID"),
    (re.compile(r"\bfd=\d+|\b[Ff]d \d+|descriptor \d+"), "fd N"),
)


def shown(value: Any, depth: int = 0) -> str:
    """Return a result as text that is the same in each run, without addresses of objects."""
    if isinstance(value, bool | int | float | str | bytes | bytearray | type(None)):
        text = repr(bytes(value)) if isinstance(value, bytearray) else repr(value)
        return text if len(text) < 200 else f"{text[:200]}... {len(text)}"
    if isinstance(value, DirtyBitmap):
        return f"bitmap of {value.ranges} in {value.page_size}: {list(value.runs())[:8]}"
    if isinstance(value, array | memoryview):
        return f"{type(value).__name__} {value.tolist()[:8]} of {len(value)}"
    if isinstance(value, IovaRange | IovaSet):
        return str(value)
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        fields = ", ".join(f"{name}={shown(each, depth + 1)}" for name, each in value._asdict().items())
        return f"{type(value).__name__}({fields})"
    if isinstance(value, Mapping) and depth < 3:
        return (
            "{" + ", ".join(f"{shown(key)}: {shown(each, depth + 1)}" for key, each in list(value.items())[:12]) + "}"
        )
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(shown(each, depth + 1) for each in value)) + "}"
    if isinstance(value, list | tuple) and depth < 3:
        return "(" + ", ".join(shown(each, depth + 1) for each in value[:12]) + f") of {len(value)}"
    if inspect.isgenerator(value) or isinstance(value, Iterator):
        return shown([each for _, each in zip(range(12), value, strict=False)], depth + 1) if depth < 3 else "iterator"
    return re.sub(r"\bat 0x[0-9a-f]+", "at ADDRESS", f"{type(value).__name__}: {value}")


def answer(call: Callable[[], Any], *, makes: bool = True) -> str:
    """Return the answer of a call as text. An object that the call created is closed."""
    try:
        result = call()
        text = shown(result)
        if not makes:
            pass
        elif isinstance(result, pyvfio.Mapping):
            text = f"Mapping of {result.size}"  # iommufd's choice of IOVA also depends on the address in the process
            result.unmap()
        elif hasattr(result, "close"):
            result.close()
    except Exception as error:
        number = getattr(error, "errno", None)
        text = f"{type(error).__name__}{' ' + errno.errorcode.get(number, str(number)) if number else ''}: {error}"
        notes = getattr(error, "__notes__", [])
        text = " | ".join([text, *notes])
    for pattern, name in VARIABLE:
        text = pattern.sub(name, text)
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}... {zlib.crc32(text.encode()):08x}"


def edges(parameter: inspect.Parameter, module: str) -> Iterable[Any]:
    """Return arguments at the edges of a parameter's values; none for a parameter of another kind."""
    # The catalogue of findings is not public: it is given what is right.
    wrong = [] if module == diagnosis.__name__ else ["x", 1.5, True]
    words = str(getattr(parameter.annotation, "__forward_arg__", parameter.annotation))
    if parameter.name in LEFT_OUT:
        return ()
    if parameter.name == "version":
        return VERSIONS
    if re.search(r"\bbool\b", words):
        return (False, True, *wrong[:2])
    if re.search(r"\b(int|SupportsIndex|Integer)\b", words) and "Iterable" not in words and "Callable" not in words:
        many = parameter.name in AMOUNTS and not module.startswith("pyvfio.guest")
        return [*(number for number in INTEGERS if not (many and 1 << 20 < number < 2**63)), *wrong]
    if parameter.name in ("ranges", "usable") or re.search(r"Ranges?\b", words):
        return RANGES
    return ()


def calls(call: Callable[..., Any], kernel: mock.Kernel, space: Any) -> Iterator[tuple[str, Any, Callable[[], Any]]]:
    """Yield the name of a parameter, an argument at an edge, and a function that makes the call with it."""
    try:
        parameters = list(inspect.signature(call).parameters.values())
    except ValueError:
        return
    right = {each: value for key in places(call) for each, value in RIGHT_IN.get(key, {}).items()}
    others = {}
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL,
            parameter.VAR_KEYWORD,
        ):
            value = right[parameter.name] if parameter.name in right else good(parameter.name, kernel, space)
            others[parameter.name] = 0 if value is inspect.Parameter.empty else value
    if not hasattr(call, "__self__"):
        yield "", "as is", partial(call, **others)
    for parameter in parameters:
        for value in edges(parameter, places(call)[0]):
            arguments = {**others, parameter.name: value}
            positional = [
                arguments.pop(p.name) for p in parameters if p.kind is p.POSITIONAL_ONLY and p.name in arguments
            ]
            yield parameter.name, value, partial(call, *positional, **arguments)


def grouped(label: str, answers: Iterable[tuple[Any, str]]) -> Iterator[str]:
    """Yield a line for each answer, with the arguments that give it."""
    found: dict[str, list[str]] = {}
    for argument, text in answers:
        found.setdefault(text, []).append(hex(argument) if type(argument) is int and argument > 255 else str(argument))
    for text, arguments in found.items():
        yield f"{label} {', '.join(arguments)}: {text}"


def lines_of(thing: Any, label: str, kernel: mock.Kernel, space: Any) -> Iterator[str]:
    for method, call in callables(thing):
        if method in LEFT_OUT_CALLS:
            continue
        by_name: dict[str, list[tuple[Any, str]]] = {}
        for name, value, attempt in calls(call, kernel, space):
            text = answer(attempt)
            # Results hold whatever they are given.
            if (type(value) is float or value == "x") and not re.match(r"\w+Error\b", text):
                continue
            by_name.setdefault(name, []).append((value, text))
        for name, answers in by_name.items():
            yield from grouped(f"{label}{'.' * bool(method)}{method}({name})", answers)


def properties(thing: Any, label: str) -> Iterator[str]:
    """Yield a line for each property's value, and for the answers to setting it."""
    for name in dir(type(thing)):
        found = inspect.getattr_static(type(thing), name)
        if name.startswith("_") or not isinstance(found, property | cached_property):
            continue
        before = answer(partial(getattr, thing, name), makes=False)
        yield f"{label}.{name} = {before}"
        if isinstance(found, property) and found.fset:

            def put(value: Any, name: str = name) -> Any:
                setattr(thing, name, value)
                return getattr(thing, name)

            yield from grouped(
                f"{label}.{name} set to",
                [(value, answer(partial(put, value), makes=False)) for value in (False, True, 2, "on")],
            )


@pytest.mark.parametrize("mode", ["iommufd", "type1v2"])
def test_live_objects_answer_as_was_written_down(mode: Mode) -> None:
    kernel = mock.Kernel("amd")
    found: list[str] = []
    with host.bind(EDU, "vfio-pci", kernel=kernel):
        space = None
        for label, thing in objects(kernel, mode, 1 << 30):
            space = thing if label == "space" else space
            found.extend(properties(thing, label))
            found.extend(lines_of(thing, label, kernel, space))
    compare(f"objects-{mode}", found)


@pytest.mark.parametrize("module", [name for name in GUEST if name != "pyvfio.guest.qemu"])
def test_functions_answer_as_was_written_down(module: str) -> None:
    kernel = mock.Kernel("amd")
    own = [(label.removeprefix(f"{module}."), call) for label, call in public(module) if call.__module__ == module]
    compare(
        module.removeprefix("pyvfio."), [line for label, call in own for line in lines_of(call, label, kernel, None)]
    )


def test_the_catalogue_answers_as_was_written_down() -> None:
    functions = {name: each for name, each in vars(diagnosis).items() if inspect.isfunction(each) and name[0] != "_"}
    own = [(name, each) for name, each in functions.items() if each.__module__ == diagnosis.__name__]
    kernel = mock.Kernel("amd")
    compare("host.diagnosis", [line for name, each in own for line in lines_of(each, name, kernel, None)])


def test_values_answer_as_was_written_down() -> None:
    kernel = mock.Kernel("amd")
    found = [line for label, thing in values() for line in lines_of(thing, label, kernel, None)]
    several = IovaSet([(0, 4095), (12288, 65535), (2**32, 2**33 - 1)])
    config = SavedConfig(bytes((7 * at + (at >> 8) + 3) % 256 for at in range(4096)))
    things = (("set", several), ("bitmap", DirtyBitmap(several)), ("range", IovaRange(4096, 65535)), ("config", config))
    for label, thing in things:
        found += [*properties(thing, label), *lines_of(thing, label, kernel, None)]
    compare("values", found)


def test_blockers_of_devices_answer_as_was_written_down() -> None:
    """One device of each kind, and pairs of them, for each version of QEMU."""
    plain = GuestDevice("v0")
    flags: dict[str, Any] = {name: not getattr(plain, name) for name in ("migrates", "p2p", "device_tracking", "type1")}
    kinds = [
        plain,
        *(plain._replace(**{name: value}) for name, value in flags.items()),
        *(plain._replace(enable_migration=value) for value in ("on", "off")),
        *(plain._replace(iommu_tracks=value, device_tracking=False) for value in (True, False)),
        plain._replace(iommu_tracks=True, device_tracking=False, type1=True),
        plain._replace(address_space="viommu"),
    ]
    lines: list[str] = []
    for devices in [*([kind] for kind in kinds), *([kind, plain._replace(name="v1")] for kind in kinds)]:
        for size in (1 << 30, (8 << 40) - 1, 8 << 40, (8 << 40) + 1):
            known = VERSIONS[2:-3]
            answers = [
                (version, answer(partial(migration_blockers, devices, guest_memory=size, version=version)))
                for version in known
            ]
            changed = [
                f"{name}={value}" for name, value in devices[0]._asdict().items() if value != getattr(plain, name)
            ]
            lines += grouped(f"{len(devices)} {' '.join(changed)} {size:#x}:", answers)
    compare("guest.qemu.blocking-devices", lines)
