# SPDX-License-Identifier: MIT
"""The drivers of the mock's host, with the devices and features that they support."""

from __future__ import annotations

from typing import NamedTuple

from pyvfio._abi import lib

_STOP_COPY, _P2P, _PRE_COPY = lib.VFIO_MIGRATION_STOP_COPY, lib.VFIO_MIGRATION_P2P, lib.VFIO_MIGRATION_PRE_COPY


class Driver(NamedTuple):
    """A driver on a bus.

    :ivar ids: (vendor, device) of the devices that it matches; with `driver_override` it matches any device on its bus
    :ivar vfio: a VFIO driver: its devices get `vfioN`, and their group gets `/dev/vfio/N`
    :ivar virtual: the driver supports virtual functions
    :ivar harmless: a group stays viable with a device of this driver (`driver_managed_dma`)
    :ivar logs: the driver supports DMA logging, for devices that have a log; `migrates`: its VFIO_MIGRATION_*, 0
        without migration
    :ivar exports: the driver exports BARs as dma-bufs
    :ivar module: the module's name below /sys/module
    """

    bus: str
    name: str
    ids: frozenset[tuple[int, int]] = frozenset()
    vfio: bool = False
    harmless: bool = False
    virtual: bool = False
    logs: bool = False
    migrates: int = 0
    exports: bool = False

    @property
    def module(self) -> str:
        return self.name.replace("-", "_")


EDU, NVME, E1000E, IGB, PORT = (0x1234, 0x11E8), (0x1B36, 0x0010), (0x8086, 0x10D3), (0x8086, 0x10C9), (0x1B36, 0x000C)
MLX5, MLX5_VF, PDS, PDS_VF = (0x15B3, 0x101D), (0x15B3, 0x101E), (0x1DD8, 0x1002), (0x1DD8, 0x1003)

DRIVERS = (
    Driver("pci", "vfio-pci", vfio=True, exports=True),
    Driver("pci", "pci-stub", harmless=True),
    Driver("pci", "pcieport", frozenset({PORT}), harmless=True),
    Driver("pci", "nvme", frozenset({NVME}), virtual=True),
    Driver("pci", "e1000e", frozenset({E1000E})),
    Driver("pci", "igb", frozenset({IGB}), virtual=True),
    Driver("platform", "vfio-mock", vfio=True, logs=True, migrates=_STOP_COPY | _P2P | _PRE_COPY),
)
#: profile -> the additional drivers of its network card, whose virtual functions log DMA. Only vfio-pci exports
#: dma-bufs.
NETWORK_DRIVERS = {
    "mlx5": (
        Driver("pci", "mlx5_core", frozenset({MLX5, MLX5_VF}), virtual=True),
        Driver("pci", "mlx5_vfio_pci", vfio=True, logs=True, migrates=_STOP_COPY | _P2P | _PRE_COPY),
    ),
    "pds": (
        Driver("pci", "pds_core", frozenset({PDS}), virtual=True),
        Driver("pci", "pds_vfio_pci", vfio=True, logs=True, migrates=_STOP_COPY | _P2P),
    ),
}
