# SPDX-License-Identifier: MIT
"""The subcommands, one file each."""
