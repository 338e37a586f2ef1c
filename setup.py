# SPDX-License-Identifier: MIT
"""The part of the package's description that pyproject.toml has no form for that every supported setuptools accepts.

- The extensions: `[tool.setuptools.ext-modules]` is new in 74.1, and experimental.
- The licence: `license = "MIT"` is an error before 77, and `license = {text = "MIT"}` is deprecated since.

pyproject.toml names the commands `build_ext` and `sdist`, which are in scripts/build_abi.py.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path
from typing import Any

from setuptools import Distribution, Extension, setup

# The oldest Python that the wheel is for, and every later one. Free-threaded builds before 3.15 have no stable ABI; debug builds
# can have it, but do not load what has it.
OLDEST = (3, 11)
STABLE_ABI = not (sysconfig.get_config_var("Py_GIL_DISABLED") or sysconfig.get_config_var("Py_DEBUG"))

# The wheel's licence; the sdist command adds those of what only an sdist has.
LICENCE = "license_expression" if hasattr(Distribution().metadata, "license_expression") else "license"

ROOT = Path(__file__).resolve().parent

EXTENSION: dict[str, Any] = {
    "include_dirs": ["cdefs"],
    # Debugging information does not name the folder of the build, so that two builds give the same bytes.
    # cffi's code calls memset, and Python.h of the limited API does not include string.h: an error for gcc 14. Before
    # any header _GNU_SOURCE must be defined, as Python.h does.
    "extra_compile_args": ["-O2", "-D_GNU_SOURCE", "-include", "string.h", f"-ffile-prefix-map={ROOT}=."],
    "depends": sorted(f"cdefs/{path.name}" for path in (ROOT / "cdefs").iterdir()),
    "py_limited_api": STABLE_ABI,
    "define_macros": [
        ("Py_LIMITED_API", "0x{:02x}{:02x}0000".format(*OLDEST)) if STABLE_ABI else ("_CFFI_NO_LIMITED_API", None)
    ],
}

setup(
    **{LICENCE: "MIT"},
    ext_modules=[
        Extension("pyvfio._abi", sources=[], **EXTENSION),  # build_ext has its only source written, from cdefs/
        Extension(
            "pyvfio._buffer",
            sources=["cdefs/buffer.c", "cdefs/door.c", "cdefs/map_dma.c", "cdefs/object.c", "cdefs/python_kernel.c"],
            **EXTENSION,
        ),
    ],
    options={"bdist_wheel": {"py_limited_api": "cp{}{}".format(*OLDEST)}} if STABLE_ABI else {},
)
