# SPDX-License-Identifier: MIT
"""The package as distributions and PyPI get it: built, installed, and tested from what was installed."""
