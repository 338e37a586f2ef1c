# SPDX-License-Identifier: MIT
"""Attaching a real device to a page table of the iommufd selftest driver (CONFIG_IOMMUFD_TEST) oopses.

IOMMU_TEST_OP_MOCK_DOMAIN makes a page table of the test driver; VFIO_DEVICE_ATTACH_IOMMUFD_PT accepts its id for a PCI
device behind another IOMMU driver. The machine reports the oops and exits with code 200.

    scripts/vm --iommu intel -- .venv/bin/python scripts/upstream/selftest_attach.py
"""

import errno
import fcntl
import platform
import struct

import pyvfio
from pyvfio._abi import lib

EDU = "0000:00:03.0"
IOMMU_TEST_CMD = ord(";") << 8 | 0x80 + 32
MOCK_DOMAIN = 2

with pyvfio.host.bind(EDU, "vfio-pci"), pyvfio.address_space("iommufd") as space:
    device = space.attach(EDU)
    assert isinstance(space, pyvfio.Ioas)
    # struct iommu_test_cmd: size, op, id, reserved; out: the device's id, its page table's id
    command = bytearray(struct.pack("=4I", 72, MOCK_DOMAIN, space.id, 0).ljust(72, b"\0"))
    fcntl.ioctl(space.iommufd.fileno(), IOMMU_TEST_CMD, command)
    _, table = struct.unpack_from("=2I", command, 16)
    print(f"Linux {platform.release()}: attaching {EDU} to page table {table} of the selftest driver", flush=True)
    try:
        fcntl.ioctl(device.fileno(), lib.VFIO_DEVICE_ATTACH_IOMMUFD_PT, bytearray(struct.pack("=3I", 12, 0, table)))
        print("attached")
    except OSError as error:
        print("refused:", errno.errorcode[error.errno or 0])
