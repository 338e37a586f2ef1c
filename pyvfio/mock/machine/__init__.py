# SPDX-License-Identifier: MIT
"""The core of the mock: descriptors, system calls, limits, failures, and access to the caller's memory."""
