# SPDX-License-Identifier: MIT
"""The sysfs files and udev properties of a PCI function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvfio.mock.fs.sysfs import shown, text
from pyvfio.mock.fs.tree import Text

if TYPE_CHECKING:
    from pyvfio.mock.vfio.pci.device import PciDevice

#: resource flags, including the low bits of the BAR (decode_bar)
_PORTS, _MEMORY, _PREFETCHABLE, _WIDE = 0x00040101, 0x00040200, 0x00002008, 0x00100004
#: lines of `resource`: BARs, ROM, and bridge windows
_LINES = 13


def attributes(device: PciDevice) -> dict[str, Text]:
    function = device.function
    methods = device.reset_methods
    shown_methods = {"reset_method": shown(lambda: methods, methods.choose)} if methods.names else {}
    return {
        "vendor": text(f"{function.ids[0]:#06x}"),
        "device": text(f"{function.ids[1]:#06x}"),
        "class": text(f"{function.class_code:#08x}"),
        "revision": text(f"{function.revision:#04x}"),
        "subsystem_vendor": text(f"{function.subsystem[0]:#06x}"),
        "subsystem_device": text(f"{function.subsystem[1]:#06x}"),
        "modalias": text(modalias(device)),
        "config": Text(lambda: device.config.read(0, device.config.size)),
        "resource": Text(_resources(device)),
        **shown_methods,
        "power_state": shown(lambda: _power_state(device)),
        "d3cold_allowed": shown(lambda: int(device.d3cold_allowed), device.allow_d3cold),
        "enable": shown(lambda: int(device.driver is not None)),
        "numa_node": text(-1),
        "uevent": Text(lambda: "".join(f"{key}={value}\n" for key, value in device.properties().items()).encode()),
    }


def _power_state(device: PciDevice) -> str:
    # vfio-pci suspends a device that is not open, unless its parameter disable_idle_d3 is Y.
    idle = device.vfio and not device.files and device.function.power_management
    return "D3hot" if idle or device.sleeps else "D0"


def properties(device: PciDevice) -> dict[str, str]:
    """Return the properties of the function's uevents."""
    function = device.function
    return {
        "PCI_CLASS": f"{function.class_code:X}",
        "PCI_ID": f"{function.ids[0]:04X}:{function.ids[1]:04X}",
        "PCI_SUBSYS_ID": f"{function.subsystem[0]:04X}:{function.subsystem[1]:04X}",
        "PCI_SLOT_NAME": device.name,
        "MODALIAS": modalias(device),
    }


def modalias(device: PciDevice) -> str:
    function, code = device.function, device.function.class_code
    return (
        f"pci:v{function.ids[0]:08X}d{function.ids[1]:08X}sv{function.subsystem[0]:08X}sd{function.subsystem[1]:08X}"
        f"bc{code >> 16:02X}sc{code >> 8 & 0xFF:02X}i{code & 0xFF:02X}"
    )


def _resources(device: PciDevice) -> bytes:
    lines = []
    for index in range(_LINES):
        bar = device.function.all_bars.get(index)
        if bar is None:
            lines.append((0, 0, 0))
            continue
        start = device.config.address(index)
        kind = _PORTS if bar.ports else _MEMORY
        flags = kind | (_PREFETCHABLE if bar.prefetchable else 0) | (_WIDE if bar.wide else 0)
        lines.append((start, start + bar.size - 1, flags))
    return "".join(f"{start:#018x} {last:#018x} {flags:#018x}\n" for start, last, flags in lines).encode()
