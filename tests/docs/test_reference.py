# SPDX-License-Identifier: MIT
"""The API reference: every public name is in the built site, with documentation of its parameters."""

from __future__ import annotations

import functools
import inspect
import re
import zlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pyvfio

#: Public modules, each with its own page or as a part of one.
MODULES = (
    "abi", "bitmap", "device", "dirty.log", "dirty.tracker", "dma_buf", "errors", "feature", "hot_reset", "host", "host.diagnosis",
    "iommufd.bound", "iommufd.event_queue", "iommufd.fault_queue", "iommufd.hw_queue", "iommufd.hwpt", "iommufd.ioas", "iommufd.iommufd",
    "iommufd.queue", "iommufd.vdevice", "iommufd.viommu", "iova", "irq", "kernel", "kernels", "low_power", "memory", "migration", "mock",
    "mock.devices", "notebook", "pci", "plot", "pytest_plugin", "region", "spaces.base", "spaces.container", "spaces.group",
    "spaces.mapping", "tracing", "vfio_mock", "vfio_user", "guest.bars", "guest.blockers", "guest.limits", "guest.mapping",
    "guest.planning", "guest.qemu", "guest.qemu_release", "guest.reserved", "guest.sections", "guest.x86",
)  # fmt: skip


class Name(NamedTuple):
    """A public name: of a module, or of a class of one."""

    module: str
    name: str
    object: Any

    @property
    def full(self) -> str:
        """The full name in the site."""
        return f"{self.module}.{self.name}"


def module(name: str) -> ModuleType:
    return import_module(f"pyvfio.{name}")


def names() -> Iterator[Name]:
    """Yield the names in each module's `__all__`, and the public members that their classes define."""
    for each in MODULES:
        for name in module(each).__all__:
            object_ = getattr(module(each), name)
            yield Name(f"pyvfio.{each}", name, object_)
            if inspect.isclass(object_) and object_.__name__ == name:
                for member, value in vars(object_).items():
                    if not member.startswith("_") and is_documented_kind(value):
                        yield Name(f"pyvfio.{each}", f"{name}.{member}", getattr(object_, member))


def is_documented_kind(value: object) -> bool:
    """Whether a member of a class is a method or a property."""
    return isinstance(value, (classmethod, staticmethod, property, functools.cached_property)) or inspect.isfunction(
        value
    )


def parameters_without_a_field(name: Name) -> list[str]:
    """Return the parameters that a docstring has no `:param x:` for.

    What the library makes itself needs none for `__init__`.
    """
    documented = inspect.getdoc(name.object) or ""
    if inspect.isclass(name.object):
        if not (":param" in documented and "__init__" in vars(name.object)):
            return []
        callable_ = name.object.__init__
    elif inspect.isfunction(name.object) or inspect.ismethod(name.object):
        callable_ = name.object
    else:
        return []
    found = [each for each in inspect.signature(callable_).parameters if each not in ("self", "cls")]
    return [each for each in found if not re.search(rf":param (\w+ )?\*{{0,2}}{each}:", documented)]


def inventory(site: Path) -> set[str]:
    """Return the names of Python objects that other sites can link to."""
    data = (site / "objects.inv").read_bytes()
    lines = zlib.decompress(data.split(b"\n", 4)[4]).decode().splitlines()
    return {line.split()[0] for line in lines if line.split()[1].startswith("py:")}


def is_constant_of_another_module(name: Name) -> bool:
    """Whether a package gives a plain value again, which is documented where it is assigned."""
    if inspect.isroutine(name.object) or inspect.isclass(name.object) or "." in name.name:
        return False
    source = inspect.getsource(import_module(name.module))
    return not re.search(rf"^{name.name}\b.* = ", source, re.MULTILINE)


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    there = inventory(site)
    assert [name.full for name in names() if name.full not in there and not is_constant_of_another_module(name)] == []


def test_every_name_of_the_package_is_in_the_reference(site: Path) -> None:
    there = inventory(site)
    found = {each.rpartition(".")[2] for each in there}
    assert {"pyvfio.open", "pyvfio.address_space"} <= there
    assert [name for name in pyvfio.__all__ if name not in found and not name.startswith("_")] == []


def test_every_public_name_has_a_docstring() -> None:
    assert [
        name.full
        for name in names()
        if (inspect.isroutine(name.object) or inspect.isclass(name.object) or is_documented_kind(name.object))
        and not inspect.getdoc(name.object)
    ] == []


def test_every_parameter_has_a_field() -> None:
    assert [f"{name.full}({each})" for name in names() for each in parameters_without_a_field(name)] == []
