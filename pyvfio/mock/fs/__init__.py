# SPDX-License-Identifier: MIT
"""The files that the mock shows by path."""
