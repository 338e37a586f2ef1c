# SPDX-License-Identifier: MIT
"""Examples: small device drivers, and programs that use them. Each file runs by itself."""
