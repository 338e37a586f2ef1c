# SPDX-License-Identifier: MIT
"""The pages of the API reference: one for each public module, in groups."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from importlib import import_module
from typing import NamedTuple

import pyvfio


class Page(NamedTuple):
    """A page of the reference: a public module, and the modules that its names are written in."""

    module: str
    #: the modules to document on the page; none for the module itself
    parts: tuple[str, ...] = ()
    #: the functions to document on the page; none for all members
    functions: tuple[str, ...] = ()


IOMMUFD = (
    "iommufd",
    "ioas",
    "hwpt",
    "viommu",
    "vdevice",
    "fault_queue",
    "event_queue",
    "queue",
    "hw_queue",
    "bound",
)
GROUPS: dict[str, tuple[Page, ...]] = {
    "Open a device, and what can go wrong": (
        Page("pyvfio", functions=("open", "address_space")),
        Page("pyvfio.errors"),
        Page("pyvfio.kernel"),
        Page("pyvfio.kernels"),
    ),
    "A device": (
        Page("pyvfio.device"),
        Page("pyvfio.region"),
        Page("pyvfio.irq"),
        Page("pyvfio.pci"),
        Page("pyvfio.feature"),
        Page("pyvfio.migration"),
        Page("pyvfio.hot_reset"),
        Page("pyvfio.low_power"),
        Page("pyvfio.dma_buf"),
    ),
    "Memory and address spaces": (
        Page("pyvfio.spaces", tuple(f"pyvfio.spaces.{each}" for each in ("base", "mapping", "container", "group"))),
        Page("pyvfio.memory"),
        Page("pyvfio.iova"),
        Page("pyvfio.iommufd", tuple(f"pyvfio.iommufd.{each}" for each in IOMMUFD)),
    ),
    "Dirty pages": (
        Page("pyvfio.dirty", ("pyvfio.dirty.log", "pyvfio.dirty.tracker")),
        Page("pyvfio.bitmap"),
    ),
    "The host": (Page("pyvfio.host"), Page("pyvfio.host.diagnosis")),
    "Without hardware": (
        Page("pyvfio.mock"),
        Page("pyvfio.mock.devices"),
        Page("pyvfio.vfio_mock"),
        Page("pyvfio.vfio_user"),
        Page("pyvfio.pytest_plugin"),
    ),
    "Measure and draw": (Page("pyvfio.notebook"), Page("pyvfio.plot"), Page("pyvfio.tracing")),
    "What a hypervisor would do": (
        Page("pyvfio.guest"),
        *(
            Page(f"pyvfio.guest.{each}")
            for each in (
                "sections", "planning", "limits", "mapping", "bars", "reserved", "x86", "blockers", "qemu", "qemu_release",
            )
        ),
    ),
    "The kernel's constants": (Page("pyvfio.abi"),),
}  # fmt: skip
PAGES = [page for group in GROUPS.values() for page in group]


def summary(object_: object) -> str:
    """Return the first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(object_) or "").split("\n\n")[0].split())


def listed(entries: Iterable[tuple[str, str, str]]) -> list[str]:
    """Return a definition list in reStructuredText: the module that a text was written in, a reference, the text."""
    lines = ["```{eval-rst}"]
    for module, reference, text_ in entries:
        lines += [
            f".. py:currentmodule:: {module}",
            "",
            reference,
            f"   {text_}",
            "",
        ]
    return [*lines, "```", ""]


def contents() -> str:
    """Return the page that leads to the others, as MyST: modules by group, then the names that `import pyvfio` gives."""
    lines = [
        "# API",
        "",
        "`pyvfio.open` opens a device and `pyvfio.address_space` an address space; everything else is reached from these two. "
        "Types are in the signatures, units in the texts.",
        "",
    ]
    for group, pages in GROUPS.items():
        lines += [f"## {group}", ""]
        lines += listed(
            (
                page.module,
                f":doc:`api/{page.module}`",
                summary(import_module(page.module)),
            )
            for page in pages
        )
        lines += [
            "```{toctree}",
            ":hidden:",
            "",
            *(f"api/{page.module}" for page in pages),
            "```",
            "",
        ]
    lines += [
        "## Names of the package",
        "",
        "Each can be written as `pyvfio.NAME`.",
        "",
    ]
    return "\n".join([*lines, *listed(names())])


def names() -> Iterator[tuple[str, str, str]]:
    """Yield the public names of the package that are no modules: where they are defined, a reference, a summary."""
    for name in sorted([*pyvfio.__all__, "open"], key=str.lower):
        object_ = getattr(pyvfio, name)
        if not inspect.ismodule(object_) and not isinstance(object_, str):
            home = object_.__module__
            shown = "pyvfio" if home == "pyvfio.spaces.opening" else home
            yield home, f":py:obj:`~{shown}.{name}`", summary(object_)


def text(page: Page) -> str:
    """Return a page of the reference as MyST."""
    lines = [f"# {page.module}", "", "```{eval-rst}"]
    if page.parts or page.functions:
        lines += [
            f".. automodule:: {page.module}",
            "   :no-members:",
            "   :no-inherited-members:",
            "",
        ]
    for function in page.functions:
        lines += [f".. autofunction:: {page.module}.{function}", ""]
    if not page.functions:
        for module in page.parts or (page.module,):
            lines += [f".. automodule:: {module}", ""]
    return "\n".join([*lines, "```", ""])
