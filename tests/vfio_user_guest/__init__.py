# SPDX-License-Identifier: MIT
"""Device models in a machine: served on the host, plugged in by a stock QEMU, driven by Linux's drivers and by pyvfio in the guest."""
