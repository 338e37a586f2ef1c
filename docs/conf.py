# SPDX-License-Identifier: MIT
"""Sphinx's configuration."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import pyvfio

project = "pyvfio"
copyright = "the pyvfio contributors"
version = release = pyvfio.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "generated",
]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"pyvfio {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
pygments_dark_style = "github-dark"
templates_path: list[str] = []
exclude_patterns = ["_build", "**.ipynb"]
# `name` in a docstring links to the name where one page has it, and is code otherwise.
default_role = "py:obj"
python_maximum_signature_line_length = 84
# A name that several classes have, such as `bytes`, is no mistake.
suppress_warnings = ["ref.python"]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
# Inherited methods are shown where the class that has them is not public.
SHOWN_ONCE = "AddressSpace, ConfigSpace, DirtyTracker, Registers, Kernel, Queue, Limits, Device"
PYTHONS = "object, tuple, int, str, Enum, OSError, UserWarning, BaseException, RawIOBase, Sequence, Protocol"
autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    "inherited-members": f"{SHOWN_ONCE}, {PYTHONS}",
}
autodoc_preserve_defaults = True
