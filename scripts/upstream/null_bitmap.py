# SPDX-License-Identifier: MIT
"""A DMA logging report into a bitmap that cannot be written succeeds, and the dirty bits are lost.

VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT returns 0 for a NULL bitmap, and the next report, into good memory, is empty.
Linux 6.1 returns EFAULT and loses nothing.

    scripts/vm -- .venv/bin/python scripts/upstream/null_bitmap.py
"""

import errno
import fcntl
import os
import platform
import struct
import subprocess

import pyvfio
from pyvfio._abi import lib
from pyvfio.vfio_mock import VfioMock

subprocess.run(["insmod", os.environ["PYVFIO_MOCK_MODULE"]], check=True)
with pyvfio.open("vfio-mock.0") as device:
    mapping = device.address_space.alloc(1 << 20)
    flags = lib.VFIO_DEVICE_FEATURE_GET | lib.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT
    # struct vfio_device_feature; struct vfio_device_feature_dma_logging_report: iova, length, page_size, bitmap
    report = bytearray(struct.pack("=2I4Q", 40, flags, mapping.iova, mapping.size, 4096, 0))
    with device.dirty_log([mapping.range]) as log:
        VfioMock(device).fill(mapping.iova + 0x5000, 0x1000)
        try:
            fcntl.ioctl(device.fileno(), lib.VFIO_DEVICE_FEATURE, report)
            answer = "0"
        except OSError as error:
            answer = errno.errorcode[error.errno or 0]
        print(
            f"Linux {platform.release()}: REPORT with bitmap=NULL: {answer}; pages in the next report: {log.read().count()} of 1"
        )
