# SPDX-License-Identifier: MIT
"""Reasons that several requests share."""

from __future__ import annotations

from pyvfio._core.request import Reason

#: for an errno with several possible causes, none of which sysfs or /proc shows
SEE_LOG = Reason(None, ("the kernel log may say why (dmesg)",))
#: EAGAIN of a request that resets, or opens and so resets (pci_try_reset_function, since Linux 3.14)
LOCKED = Reason(
    "another thread of the kernel held the device's lock, so nothing was reset; it is momentary", ("try again",)
)
#: EIO of a request that opens a device
NOT_AWAKE = Reason(
    "the device does not answer; most likely it did not wake up from D3",
    (
        "look at power_state in sysfs; echo Y > /sys/module/vfio_pci/parameters/disable_idle_d3 keeps devices awake that are bound "
        "afterwards; a device in D3cold comes back with its slot's power",
    ),
)
