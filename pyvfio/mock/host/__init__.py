# SPDX-License-Identifier: MIT
"""The mock's host: its devices and drivers, and their uevents."""
