# SPDX-License-Identifier: MIT
"""Every public callable gets wrong arguments: it must raise TypeError, ValueError or pyvfio.Error, and change nothing.

The callables are found by reflection on live objects of a mock. The parameter's name determines a good argument. One
argument at a time is then replaced by a wrong one. A TypeError or ValueError must name the argument.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import math
from array import array
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy
import pytest

import pyvfio
from pyvfio import DirtyBitmap, DmaBuffer, IovaRange, IovaSet, host, mock
from pyvfio.conformance.runner import Results
from pyvfio.guest import bars, blockers, limits, mapping, planning, reserved, sections, x86
from pyvfio.guest.qemu import layouts, starting
from pyvfio.host import diagnosis
from pyvfio.notebook import DirtyHistory, MigrationHistory, Sample
from pyvfio.spaces.opening import Mode

EDU = "0000:00:03.0"
MODES = ("type1v2", "iommufd", "iommufd-type1v2")

#: Values that are wrong arguments for some parameters.
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

#: The names by which messages call some arguments, or one of their elements.
CALLED = {"which": "profile", "strategies": "strategy"}
#: Callables without an argument that could be wrong, or that intentionally accept anything.
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
#: Names of methods that are not called.
SKIPPED = {"close", "fileno", "mro"}


#: The modules of the guest computations.
GUEST = (
    "pyvfio.guest.bars", "pyvfio.guest.blockers", "pyvfio.guest.limits", "pyvfio.guest.mapping", "pyvfio.guest.planning",
    "pyvfio.guest.qemu_release", "pyvfio.guest.reserved", "pyvfio.guest.sections", "pyvfio.guest.x86",
    "pyvfio.guest.qemu", "pyvfio.guest.qemu.blocking", "pyvfio.guest.qemu.dirty_logging", "pyvfio.guest.qemu.iova_tree",
    "pyvfio.guest.qemu.layouts", "pyvfio.guest.qemu.logs", "pyvfio.guest.qemu.messages", "pyvfio.guest.qemu.ranges",
    "pyvfio.guest.qemu.starting", "pyvfio.guest.qemu.virtio_iommu",
)  # fmt: skip
#: Classes of results. Callers read but do not create them, so their fields are not checked.
ONLY_MADE = {
    "Affinity", "Answer", "Attempts", "Bitmap", "Control", "Entries", "Entry", "Fit", "Layout", "Outcome", "Pair", "PdsRegion", "Placed", "Query",
    "Refusal", "Release", "StartRequest", "StopRequest", "Tracking", "WipSection",
}  # fmt: skip
#: Modules that are searched for public classes and functions, so that new ones are included.
MODULES = (
    "pyvfio", "pyvfio.host", "pyvfio.vfio_user", "pyvfio.vfio_user.client", "pyvfio.notebook", "pyvfio.plot", "pyvfio.mock",
    "pyvfio.mock.devices", "pyvfio.memory", "pyvfio.iova", "pyvfio.bitmap", "pyvfio.kernels", "pyvfio.vfio_mock",
    "pyvfio.conformance.driver", "pyvfio.conformance.runner", "pyvfio.cli.addresses", "pyvfio.tracing", "pyvfio.errors",
    "pyvfio.migration", "pyvfio.pci", "pyvfio.region", "pyvfio.host.diagnosis",
    *GUEST,
)  # fmt: skip
#: Names that are not called: objects that only the library creates, and functions for one caller inside the library;
#: functions that do not return, run other programs or change the process (`serve`, `run`, `start`); models of whole
#: devices, which would stay in the kernel. (`dirty_log` is called with live devices.)
NOT_CALLED = {
    "serve", "dirty_log", "run", "start", "stop", "trace_program", "E1000e", "Igb", "IgbVf", "Nvme", "kernel_options", "compared", "Regions", "Irqs",
    "Binding", "Copying", "Feature", "PciConfig", "Region", "Segment", "Stream", "add_address", "address_of", "as_range", "as_ranges",
    "attribute", "dump", "errno_name", "path", "region_info", "states",
}  # fmt: skip


#: Texts that replace an argument's name in messages with QEMU's own words, as the docstrings document.
QEMUS_WORDS = {
    ("input_range", "aw_bits"): "aw-bits",
    ("merge_page_sizes", "host"): "page size mask",
    ("parse_property", "text"): "<prop>",
}
#: Right arguments that apply only to the callables of one module, or to one callable, by name.
RIGHT_IN: dict[str, dict[str, Any]] = {
    "pyvfio.host": {"id": "bridge", "subject": "d", "reason": "r"},
    "pyvfio.host.diagnosis": {
        "id": "bridge", "subject": "d", "reason": "r", "finding": diagnosis.Finding("bridge", "d", "r"), "address": "0000:00:03.0",
        "places": ["x"], "what": "w", "since": "6.1", "evidence": ["e"], "members": {"a": "b"}, "group": 3, "path": "/dev/vfio/3", "holders": ["x"],
        "uses": {"a": "b"}, "regions": [(0, 1)], "modules": ["m"], "module": "m", "drivers": ["x"], "driver": "x", "methods": "flr", "state": "D0",
        "clashes": [("a", "b")], "before": [("a", "b")], "limit": 1, "free": 0, "page": 4096, "functions": ["f"], "resources": "",
        "parameters": ["x"], "parameter": "p", "command_line": "a", "ids": (1, 2), "bus": "pci", "controller": "c", "given": True,
        "wanted": True, "virtual": False, "containers": False, "iommufd": False, "cdevs": False, "override": "o", "bound": "b", "variants": ["v"],
        "needed": True, "enabled": True, "in_sysfs": True, "unlimited": False, "iommus": ["dmar0"], "physical_function": "0000:00:02.0", "config": bytes(64),
    },
    "pyvfio.guest.bars": {"bar": bars.Bar(0xFE000004, 0, 4096), "writes": [(0, 0)], "low": 0xFE000000, "high": None},
    "pyvfio.guest.blockers": {"devices": [blockers.GuestDevice("d")], "name": "d", "kind": blockers.Kind.DISABLED},
    "pyvfio.guest.limits": {"ranges": [IovaRange(0, 4095)], "answer": limits.MLX5.start([IovaRange(0, 4095)])},
    "pyvfio.guest.mapping": {"space": mapping.Space(), "length": 4096, "block_size": 1 << 21, "width": 39},
    "pyvfio.guest.reserved": {
        "regions": [reserved.Q35_PROPERTY], "device": reserved.Bdf(1, 0, 0), "bridges": [], "host": IovaSet(), "bdf": reserved.Bdf(1, 0, 0),
        "kind": reserved.BridgeKind.PCIE_PORT, "address": 0, "inserts": [reserved.Q35_PROPERTY], "usable": IovaSet(), "type": 0,
    },
    "pyvfio.guest.sections": {"section": sections.MemorySection(0, 4096), "device": "d", "cpu_bits": 46, "name": "d"},
    "pyvfio.guest.x86": {
        "machine": x86.Machine(1 << 32), "board": x86.Board.Q35, "way": "merged", "described": "so", "before": 0, "told": (),
        "piece": x86.Ram("ram", IovaRange(0, 4095), 0), "range_": IovaRange(0, 4095), "nodes": [1 << 32], "below_4g": 1 << 31, "unit": 4096,
        "ram_size": 1 << 32,
    },
    "pyvfio.guest.qemu.blocking": {"devices": [blockers.GuestDevice("d")]},
    "pyvfio.guest.qemu.dirty_logging": {"section": sections.MemorySection(0, 4096), "length": 4096, "ranges": [(0, 4096)]},
    "pyvfio.guest.qemu.iova_tree": {"section": sections.MemorySection(0, 4096)},
    "pyvfio.guest.qemu.layouts": {"machine": x86.Machine(1 << 32), "nodes": [1 << 32], "below_4g": 1 << 31, "usable": layouts.RFC_AMD},
    "pyvfio.guest.qemu.logs": {"log": "vfio_device_dirty_tracking_update section 0x0 - 0xfff -> update [0x0 - 0xfff]"},
    "pyvfio.guest.qemu.messages": {
        "address_spaces": ["pci.1"], "device": "d", "ram_device": True, "viommu_bits": 39, "host_bits": 48, "message": "no",
    },
    "pyvfio.guest.qemu.ranges": {
        "section": sections.MemorySection(0, 4096), "reason": sections.Reason.SPURIOUS, "event": "region_add",
    },
    "pyvfio.guest.qemu.starting.backend": {"devices": [starting.Tracker(True)]},
    "pyvfio.guest.planning.Plan": {"ranges": (IovaRange(0, 4095),), "counted": IovaSet()},
    "pyvfio.guest.reserved.Bdf": {"bus": 1, "device": 0, "function": 0},
    "pyvfio.guest.qemu.starting": {
        "devices": [starting.Device("d")], "name": "d", "command_line": [1], "all_devices": True, "container": True, "container_supports": True,
        "ram_address": 0, "supported": True,
    },
    "pyvfio.guest.qemu.virtio_iommu": {
        "text": "0:1:0", "properties": [reserved.Q35_PROPERTY], "regions": [reserved.Q35_PROPERTY], "current": 4096, "host": 4096,
        "name": "d", "bdf": reserved.Bdf(1, 0, 0), "aliased": reserved.Bdf(1, 0, 0), "usable": None,
    },
}  # fmt: skip


def public(module: str) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Yield the public classes and functions of a module, and their class methods, by name, without exceptions and enumerations."""
    found = importlib.import_module(module)
    for name in getattr(found, "__all__", None) or [name for name in dir(found) if not name.startswith("_")]:
        thing = getattr(found, name)
        if not (inspect.isfunction(thing) or inspect.isclass(thing)) or name in NOT_CALLED:
            continue
        # In a module without __all__, skip imported names: they are public in their own module.
        if not thing.__module__.startswith("pyvfio") or not (hasattr(found, "__all__") or thing.__module__ == module):
            continue
        if inspect.isclass(thing) and issubclass(thing, BaseException | enum.Enum):
            continue
        yield f"{module}.{name}", thing
        for method, function in vars(thing).items() if inspect.isclass(thing) else ():
            if not method.startswith("_") and isinstance(function, classmethod | staticmethod):
                yield f"{module}.{name}.{method}", getattr(thing, method)


def objects(kernel: mock.Kernel, mode: Mode, iova: int | None = None) -> Iterator[tuple[str, Any]]:
    """Yield live objects with names for messages. Memory is mapped at an IOVA."""
    with pyvfio.address_space(mode, kernel=kernel) as space:
        device = space.attach("vfio-mock.0")
        edu = space.attach(EDU)
        mapping = space.alloc(1 << 16, iova)
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
    """Yield classes and functions that need no device, with names."""
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


def history() -> Any:
    """Return an object that is both a DirtyHistory and a MigrationHistory."""

    class Both(DirtyHistory, MigrationHistory):  # type: ignore[misc]
        """Both kinds, because the parameters have the same name."""

    made = Both.__new__(Both)
    made.samples, made.ranges, made.page_size, made.started = (
        [Sample(1, 0, IovaSet())],
        (IovaRange(0, 4095),),
        4096,
        0.0,
    )
    made.points, made.downtime = [], None
    return made


def good(name: str, kernel: mock.Kernel, space: Any) -> Any:
    """Return a right argument for a parameter, by its name, or an argument that the kernel refuses without harm."""
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
        "device": next(iter(space.devices), None) if space is not None else mock.Device,
        "source": next(iter(space.mappings), None) if space is not None else None,
        "plan": planning.plan([sections.MemorySection(0, 1 << 20)]),
        "usable": [IovaRange(0, 4095)],
        "sections": [sections.MemorySection(0, 1 << 20)],
        "limits": limits.MLX5,
        "path": "/no/such/socket",
        "read": bytes,
        "write": print,
        "text": "00:03.0",
        "name": "0000:00:1d.0",
        "pairs": array("Q", (0, 1)),
        "ids": (0x1234, 0x11E8),
        "config": bytes(256),
        "mappings": [],
        "file": "no such file",
        "old": {},
        "new": {"about": {}, "limits": {}, "kernel_options": {}, "checks": []},
        "results": Results((), {}, {}),
        "log": SimpleNamespace(read=None, ranges=[IovaRange(0, 4095)], page_size=4096),
        "limit": 4,
        "card": None,
        "history": history(),
    }
    return known.get(name, inspect.Parameter.empty)


def digest(kernel: mock.Kernel, space: Any) -> tuple[Any, ...]:
    """Return a summary of the state that a wrong argument must not change."""
    files = sorted((number, type(file).__name__) for number, file in kernel.files.items())
    mapped = [] if space is None or space.closed else [(m.iova, m.size) for m in space.mappings]
    children = () if space is None else tuple(sorted(child.address for child in space.devices if not child.closed))
    return files, mapped, children, repr(kernel.locked.__dict__), repr(kernel.locked_by_user.__dict__)


def is_a_long_time(timeout: Any) -> bool:
    """Whether a wait with this timeout takes long even if everything is right."""
    return timeout is None or (isinstance(timeout, int | float | numpy.number) and bool(timeout > 0.5))


def places(call: Callable[..., Any]) -> tuple[str, str]:
    """Return the module of a callable, and its name there."""
    module = getattr(call, "__module__", "")
    return module, f"{module}.{getattr(call, '__qualname__', '')}"


def attempts(call: Callable[..., Any], kernel: mock.Kernel, space: Any) -> Iterator[tuple[str, Any, Callable[[], Any]]]:
    """Yield the name of a parameter, a wrong argument, and a function that makes the call with it."""
    try:
        parameters = list(inspect.signature(call).parameters.values())
    except ValueError:
        return
    required = [p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        right = {each: value for key in places(call) for each, value in RIGHT_IN.get(key, {}).items()}
        others = {
            p.name: right[p.name] if p.name in right else good(p.name, kernel, space)
            for p in required
            if p.name != parameter.name
        }
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


def judge(name: str, wrong: Any, attempt: Callable[[], Any], called: str | None = None) -> str | None:
    """Return the fault in the answer to a wrong argument; None if there is none.

    Success is no fault: the argument may be right.

    :param name: the parameter's name
    :param wrong: the argument
    :param attempt: the function that makes the call
    :param called: the argument's name in messages, if it is not the parameter's
    """
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
    except BufferError as error:  # memory that cannot be used, such as read-only bytes for a device that writes
        return None if name in ("buffer", "into") else f"BufferError: {error}"
    except (TypeError, ValueError) as error:
        words = str(error)
        return (
            None
            if any(
                one in words for one in (name.removeprefix("log_"), called or CALLED.get(name, "argument"), "argument")
            )
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
            called = QEMUS_WORDS.get((getattr(call, "__name__", ""), name))
            if fault := judge(name, wrong, attempt, called):
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


@pytest.mark.parametrize("module", MODULES)
def test_wrong_arguments_to_public_callables_are_refused(
    module: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYVFIO_KERNEL", "mock:amd")
    monkeypatch.setitem(plt.rcParams, "figure.max_open_warning", 0)
    kernel = mock.Kernel("amd")
    faults = [fault for label, call in public(module) for fault in faults_of(call, label, kernel, None)]
    plt.close("all")
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults)


def integers(call: Callable[..., Any]) -> set[str]:
    """Return the names of the parameters that accept only an integer, or an integer and None."""
    annotations = {p.name: p.annotation for p in inspect.signature(call).parameters.values()}
    words = {name: getattr(each, "__forward_arg__", each) for name, each in annotations.items()}
    return {name for name, each in words.items() if each in ("int", "int | None")}


def test_wrong_facts_are_refused_by_the_catalogue() -> None:
    """The library itself calls these functions while it creates errors. They must not hide one error behind another."""
    kernel = mock.Kernel("amd")
    functions = {name: each for name, each in vars(diagnosis).items() if inspect.isfunction(each) and name[0] != "_"}
    own = {name: each for name, each in functions.items() if each.__module__ == diagnosis.__name__}
    assert len(own) > 40
    faults = [fault for name, each in list(own.items()) for fault in faults_of(each, name, kernel, None)]
    assert not faults, f"{len(faults)} faults:\n" + "\n".join(faults)


@pytest.mark.parametrize("module", GUEST)
def test_guest_integers_are_no_bool_and_no_float(module: str) -> None:
    """Each parameter raises TypeError with the argument's name, even if the value is in range."""
    kernel = mock.Kernel("amd")
    accepted = []
    for label, call in public(module):
        if call.__name__ in ONLY_MADE:
            continue
        for name, wrong, attempt in attempts(call, kernel, None):
            if name in integers(call) and isinstance(wrong, bool | float):
                try:
                    attempt()
                except TypeError as error:
                    if name in str(error):
                        continue
                except Exception as error:
                    accepted.append(f"{label}({name}={wrong!r}): {error!r}")
                    continue
                accepted.append(f"{label}({name}={wrong!r})")
    assert not accepted, f"{len(accepted)} accepted:\n" + "\n".join(accepted)


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
