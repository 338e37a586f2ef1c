# SPDX-License-Identifier: MIT
"""Dirty pages: logged by devices, tracked by IOMMUs."""
