# SPDX-License-Identifier: MIT
"""A device as VFIO shows it once it is open: regions, interrupts, features, usable IOVAs, configuration space."""

from __future__ import annotations

import subprocess
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from pyvfio.cli.output import Output, address
from pyvfio.errors import Closed, Unsupported

if TYPE_CHECKING:
    from pyvfio import AddressSpace, Device


def document(device: Device) -> dict[str, Any]:
    """Return the properties of an open device as JSON."""
    config = None
    space = _space(device)
    if device.info.is_pci:
        config = device.config.read(0, device.config.size).hex()
    return {
        "mode": None if space is None else space.mode,
        "resettable": device.info.resettable,
        "regions": [_region(region) for region in device.regions if region.size],
        "interrupts": [
            {
                "name": irq.name,
                "vectors": irq.count,
                "maskable": irq.info.maskable,
                "automasked": irq.info.automasked,
                "resizable": irq.info.resizable,
            }
            for irq in device.irqs
            if irq.count
        ],
        "features": _features(device),
        "migration_states": _migration(device),
        "migration_state": _migration_state(device),
        "iova_ranges": None if space is None else _iovas(space),
        "page_sizes": None if space is None else address(_page_sizes(space)),
        "capabilities": _capabilities(device),
        "config": config,
    }


def _region(region: Any) -> dict[str, Any]:
    words = [word for word, on in (("read", region.readable), ("write", region.writable)) if on]
    return {
        "index": region.info.index,
        "name": region.name,
        "size": region.size,
        "access": words,
        "mappable": [{"offset": area.offset, "size": area.size} for area in region.info.areas],
        "type": None if region.info.type is None else list(region.info.type),
    }


def _features(device: Device) -> list[str]:
    return [str(name) for name in device.features.available]


def _migration(device: Device) -> list[str]:
    try:
        return sorted(state.name for state in device.migration.states)
    except OSError:
        return []


def _migration_state(device: Device) -> str | None:
    try:
        return device.migration.state.name
    except OSError:
        return None


def _space(device: Device) -> AddressSpace | None:
    """Return the device's address space; None for a device that was taken from another program."""
    try:
        return device.address_space
    except Closed:
        return None


def _iovas(space: AddressSpace) -> list[dict[str, str | None]] | None:
    with suppress(Unsupported):
        ranges = space.iova_ranges
        if ranges is not None:
            return [{"start": address(one.start), "last": address(one.last)} for one in ranges]
    return None


def _page_sizes(space: AddressSpace) -> int | None:
    with suppress(Unsupported):
        return space.page_sizes
    return None


def _capabilities(device: Device) -> list[dict[str, Any]]:
    if not device.info.is_pci:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of a broken list: the capabilities before the break are shown
        return [
            {"offset": address(one.offset), "id": one.id, "name": one.name, "extended": extended}
            for extended, found in (
                (False, device.config.capabilities),
                (True, device.config.extended_capabilities),
            )
            for one in found
        ]


def show(out: Output, opened: dict[str, Any], *, name: str = "00:00.0") -> None:
    """Print the document of :func:`document`."""
    out.fields(
        (
            ("opened by", opened["mode"] or "another program"),
            ("function reset", "yes" if opened["resettable"] else "no"),
            ("features", " ".join(opened["features"]) or "none"),
            ("migration states", " ".join(opened["migration_states"]) or "none: the driver cannot migrate it"),
            ("migration state", opened["migration_state"]),
            ("usable IOVAs", _ranges(opened["iova_ranges"]) if opened["mode"] else None),
            ("IOMMU page sizes", opened["page_sizes"]),
        )
    )
    out.line()
    out.table(
        ("REGION", "SIZE", "ACCESS", "MAPPABLE"),
        [
            (
                one["name"],
                f"{one['size']:#x}",
                "+".join(one["access"]) or "-",
                ", ".join(f"{area['offset']:#x}+{area['size']:#x}" for area in one["mappable"]) or "-",
            )
            for one in opened["regions"]
        ],
    )
    out.line()
    out.table(
        ("INTERRUPT", "VECTORS", "PROPERTIES"),
        [
            (
                one["name"],
                one["vectors"],
                " ".join(word for word in ("maskable", "automasked", "resizable") if one[word]) or "-",
            )
            for one in opened["interrupts"]
        ],
    )
    if opened["config"] is not None:
        out.line()
        show_config(out, bytes.fromhex(opened["config"]), opened["capabilities"], name)


def _ranges(ranges: list[dict[str, str]] | None) -> str:
    if ranges is None:
        return "the kernel does not say"
    return ", ".join(f"{one['start']}-{one['last']}" for one in ranges) or "none"


def show_config(out: Output, config: bytes, capabilities: list[dict[str, Any]], name: str) -> None:
    """Print a configuration space, decoded by lspci where it is installed."""
    decoded = lspci(config, name)
    if decoded is not None:
        out.raw(decoded.rstrip())
        return
    out.table(("AT", "CAPABILITY"), [(one["offset"], one["name"]) for one in capabilities])
    out.line()
    out.raw(hexdump(config[:256]))
    out.line("install pciutils to see it decoded by lspci")


def hexdump(data: bytes, start: int = 0) -> str:
    """Return a dump as `lspci -x` prints it, which `lspci -F` reads."""
    return "\n".join(f"{start + at:02x}: {data[at : at + 16].hex(' ')}" for at in range(0, len(data), 16))


def lspci(config: bytes, name: str) -> str | None:
    """Return a configuration space decoded by `lspci -F`; None where pciutils is not installed or fails.

    :param name: the device's PCI address
    """
    text = f"{name} Device\n{hexdump(config)}\n\n"
    try:
        # -F takes a path: /dev/stdin is the path of the pipe.
        done = subprocess.run(
            ["lspci", "-F", "/dev/stdin", "-vvv"], input=text, capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 and done.stdout.strip() else None
