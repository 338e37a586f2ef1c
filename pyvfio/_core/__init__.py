# SPDX-License-Identifier: MIT
"""Plumbing that the public modules share. Nothing in here is part of the API."""
