# SPDX-License-Identifier: MIT
"""Translate the library's advice, which is Python code, into shell commands."""

from __future__ import annotations

import re

_NAME = r"""['"]([^'"]+)['"]"""
_RULES: tuple[tuple[str, str], ...] = (
    (rf"""pyvfio\.host\.bind\({_NAME}, ['"]vfio-pci['"]\)""", r"pyvfio bind \1"),
    (rf"pyvfio\.host\.bind\({_NAME}, {_NAME}\)", r"pyvfio bind \1 --driver \2"),
    (rf"pyvfio\.host\.restore\({_NAME}\)", r"pyvfio restore \1"),
    (r"pyvfio\.host\.restore\(\)", "pyvfio restore"),
    (rf"pyvfio\.host\.remove_vfs\({_NAME}\)", r"pyvfio sriov \1 0"),
    (rf"pyvfio\.open\({_NAME}, no_iommu=True\)", "--no-iommu"),
    (rf"pyvfio\.open\({_NAME}, vf_token=\.\.\.\)", "--vf-token UUID"),
    (r"mode=" + _NAME, r"--mode \1"),
    (r"pyvfio\.host\.holders_of\(\)", "`pyvfio show`"),
    (r"pyvfio\.host\.bind\(\)", "`pyvfio bind`"),
)
_IN_USE = re.compile(r"allow_in_use=\[([^\]]*)\]")


def for_shell(text: str) -> str:
    """Return a text with the library's calls replaced by subcommands."""
    for pattern, replacement in _RULES:
        text = re.sub(pattern, replacement, text)
    return _IN_USE.sub(
        lambda found: " ".join(f"--allow-in-use {name}" for name in re.findall(r"'([^']*)'", found[1])), text
    )
