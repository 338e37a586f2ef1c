# SPDX-License-Identifier: MIT
"""The kernel of the mock: descriptors, calls, limits, failures, and the caller's memory."""
