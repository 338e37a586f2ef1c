# SPDX-License-Identifier: MIT
"""Models of network cards, and the wire that connects them."""
