# SPDX-License-Identifier: MIT
"""Advice of the library, which is Python, as commands for a shell."""

from __future__ import annotations

import re

_RULES: tuple[tuple[str, str], ...] = (
    (r"pyvfio\.host\.bind\('([^']+)', 'vfio-pci'\)", r"pyvfio bind \1"),
    (r"pyvfio\.host\.bind\('([^']+)', '([^']+)'\)", r"pyvfio bind \1 --driver \2"),
    (r"pyvfio\.host\.restore\('([^']+)'\)", r"pyvfio restore \1"),
    (r"pyvfio\.host\.restore\(\)", "pyvfio restore"),
    (r"pyvfio\.host\.remove_vfs\('([^']+)'\)", r"pyvfio sriov \1 0"),
    (r"pyvfio\.open\('([^']+)', no_iommu=True\)", r"--no-iommu"),
    (r"pyvfio\.open\('([^']+)', vf_token=\.\.\.\)", "--vf-token UUID"),
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
