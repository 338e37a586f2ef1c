# SPDX-License-Identifier: MIT
"""Names of the mock's devices, as in udev's hardware database."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvfio.mock.host.driver import E1000E, EDU, IGB, MLX5, MLX5_VF, NVME, PDS, PDS_VF, PORT

if TYPE_CHECKING:
    from pyvfio.mock.vfio.device import Device

_VENDORS = {
    0x1234: "QEMU",
    0x15B3: "Mellanox Technologies",
    0x1B36: "Red Hat, Inc.",
    0x1DD8: "AMD Pensando Systems",
    0x8086: "Intel Corporation",
}
_MODELS = {
    EDU: "edu, a device to teach with",
    NVME: "QEMU NVM Express Controller",
    PORT: "QEMU PCIe Root port",
    E1000E: "82574L Gigabit Network Connection",
    IGB: "82576 Gigabit Network Connection",
    MLX5: "MT2892 Family [ConnectX-6 Dx]",
    PDS: "DSC Ethernet Controller",
    MLX5_VF: "ConnectX Family mlx5Gen Virtual Function",
    PDS_VF: "DSC Ethernet Controller VF",
}


def of(device: Device) -> dict[str, str]:
    """Return the name properties of a device; empty for IDs that the database does not have."""
    names = {"ID_VENDOR_FROM_DATABASE": _VENDORS.get(device.ids[0]), "ID_MODEL_FROM_DATABASE": _MODELS.get(device.ids)}
    return {key: name for key, name in names.items() if name is not None}
