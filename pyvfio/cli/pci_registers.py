# SPDX-License-Identifier: MIT
"""Registers of PCI configuration space by the names that setpci has: COMMAND, CAP_EXP+8.w, ECAP_AER+4.l, 04.w."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from pyvfio.cli.call import UsageError
from pyvfio.errors import Unsupported

if TYPE_CHECKING:
    from pyvfio import PciConfig

#: name -> offset and width in bytes, of configuration header type 0
HEADER = {
    "VENDOR_ID": (0x00, 2),
    "DEVICE_ID": (0x02, 2),
    "COMMAND": (0x04, 2),
    "STATUS": (0x06, 2),
    "REVISION": (0x08, 1),
    "CLASS_PROG": (0x09, 1),
    "CLASS_DEVICE": (0x0A, 2),
    "CACHE_LINE_SIZE": (0x0C, 1),
    "LATENCY_TIMER": (0x0D, 1),
    "HEADER_TYPE": (0x0E, 1),
    "BIST": (0x0F, 1),
    **{f"BASE_ADDRESS_{index}": (0x10 + 4 * index, 4) for index in range(6)},
    "CARDBUS_CIS": (0x28, 4),
    "SUBSYSTEM_VENDOR_ID": (0x2C, 2),
    "SUBSYSTEM_ID": (0x2E, 2),
    "ROM_ADDRESS": (0x30, 4),
    "INTERRUPT_LINE": (0x3C, 1),
    "INTERRUPT_PIN": (0x3D, 1),
    "MIN_GNT": (0x3E, 1),
    "MAX_LAT": (0x3F, 1),
}
CAPABILITIES = {
    "CAP_PM": 0x01, "CAP_AGP": 0x02, "CAP_VPD": 0x03, "CAP_SLOTID": 0x04, "CAP_MSI": 0x05, "CAP_CHSWP": 0x06, "CAP_PCIX": 0x07,
    "CAP_HT": 0x08, "CAP_VNDR": 0x09, "CAP_DBG": 0x0A, "CAP_CCRC": 0x0B, "CAP_HOTPLUG": 0x0C, "CAP_SSVID": 0x0D, "CAP_AGP3": 0x0E,
    "CAP_SECURE": 0x0F, "CAP_EXP": 0x10, "CAP_MSIX": 0x11, "CAP_SATA": 0x12, "CAP_AF": 0x13, "CAP_EA": 0x14,
}  # fmt: skip
EXTENDED = {
    "ECAP_AER": 0x01, "ECAP_VC": 0x02, "ECAP_DSN": 0x03, "ECAP_PB": 0x04, "ECAP_RCLINK": 0x05, "ECAP_RCILINK": 0x06, "ECAP_RCEC": 0x07,
    "ECAP_MFVC": 0x08, "ECAP_VC2": 0x09, "ECAP_RBCB": 0x0A, "ECAP_VNDR": 0x0B, "ECAP_ACS": 0x0D, "ECAP_ARI": 0x0E, "ECAP_ATS": 0x0F,
    "ECAP_SRIOV": 0x10, "ECAP_MRIOV": 0x11, "ECAP_MCAST": 0x12, "ECAP_PRI": 0x13, "ECAP_REBAR": 0x15, "ECAP_DPA": 0x16, "ECAP_TPH": 0x17,
    "ECAP_LTR": 0x18, "ECAP_SECPCI": 0x19, "ECAP_PMUX": 0x1A, "ECAP_PASID": 0x1B, "ECAP_LNR": 0x1C, "ECAP_DPC": 0x1D, "ECAP_L1PM": 0x1E,
    "ECAP_PTM": 0x1F, "ECAP_DVSEC": 0x23, "ECAP_DLF": 0x25,
}  # fmt: skip
WIDTHS = {"b": 1, "w": 2, "l": 4, "d": 4, "q": 8}
_REGISTER = re.compile(r"([A-Za-z_][A-Za-z0-9_]*|[0-9a-fA-F]+)(?:\+([0-9a-fA-F]+))?(?:\.([bwlBWL]))?")


class Place(NamedTuple):
    """A register: its offset and width in bytes, and the name that was given for it."""

    name: str
    offset: int
    width: int


def find(config: PciConfig, text: str) -> Place:
    """Return the register that a name means.

    :raises UsageError: there is no register of that name, or its width has to be given
    :raises Unsupported: the device has no such capability
    """
    found = _REGISTER.fullmatch(text)
    if found is None:
        raise UsageError(f"{text!r} is not a register: write COMMAND, CAP_EXP+8.w, ECAP_AER+4.l, or 04.w")
    name, more = found[1].upper(), int(found[2] or "0", 16)
    width = WIDTHS[found[3].lower()] if found[3] else 0
    if name in HEADER:
        base, usual = HEADER[name]
    else:
        base, usual = _base(config, name), 0
    width = width or (usual if not more else 0)
    if not width:
        raise UsageError(f"{text}: its width is not known: add .b, .w or .l")
    if (base + more) % width:
        raise UsageError(f"{text}: offset {base + more:#x} is not a multiple of its width, {width} bytes")
    return Place(text, base + more, width)


def _base(config: PciConfig, name: str) -> int:
    """Return the offset of a capability, or of a register that is given by its offset."""
    extended = name in EXTENDED or re.fullmatch(r"ECAP[0-9A-F]{1,4}", name) is not None
    if name in CAPABILITIES or name in EXTENDED or re.fullmatch(r"E?CAP[0-9A-F]{1,4}", name):
        id_ = CAPABILITIES.get(name, EXTENDED.get(name))
        if id_ is None:
            id_ = int(name.partition("CAP")[2], 16)
        found = config.extended_capability(id_) if extended else config.capability(id_)
        if found is None:
            raise Unsupported(f"{config.device.address} has no capability {name}")
        return found.offset
    try:
        return int(name, 16)
    except ValueError:
        raise UsageError(
            f"{name} is not a register: one of {', '.join(HEADER)}, CAP_..., ECAP_..., or an offset"
        ) from None


def read(config: PciConfig, place: Place) -> int:
    """Read a register."""
    return int(getattr(config, f"read{8 * place.width}")(place.offset))


def write(config: PciConfig, place: Place, value: int, mask: int | None) -> int | None:
    """Write a register, or with a mask some bits of it. Return the value before, which is read only with a mask; else None."""
    before = None
    if mask is not None:
        before = read(config, place)
        value = before & ~mask | value & mask
    getattr(config, f"write{8 * place.width}")(place.offset, value)
    return before
