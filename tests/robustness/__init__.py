# SPDX-License-Identifier: MIT
"""Robustness: signals, threads, forks, closes."""
