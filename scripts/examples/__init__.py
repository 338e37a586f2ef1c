# SPDX-License-Identifier: MIT
"""Examples: small drivers, and what can be done with them. Each file runs by itself."""
