# SPDX-License-Identifier: MIT
"""Tests of device models in a machine: served on the host, attached by an unmodified QEMU, and driven by Linux and by pyvfio in the guest."""
