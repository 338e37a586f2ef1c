"""Build `pyvfio._abi`, the extension, from cdefs/ alone.

As a program it builds the extension in place and rewrites its types, pyvfio/_abi.pyi:

    python scripts/build_abi.py

setuptools takes `build_ext` and `bdist_wheel` from here (pyproject.toml), so that the same happens for pip.

What is in cdefs/, in the order in which both cffi and the C compiler read it:
- vfio.h, iommufd.h, native.h: declarations that are C for the compiler and cdefs for cffi;
- callbacks.h: for cffi only, the `extern "Python"` functions; native.c may declare and use them as plain C;
- native.c: for the compiler only, included last, so that small functions can be inlined into cffi's wrappers.
"""

from __future__ import annotations

import re
import sys
import sysconfig
from pathlib import Path

from cffi import FFI
from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel as _bdist_wheel
from setuptools.command.build_ext import build_ext as _build_ext

ROOT = Path(__file__).resolve().parent.parent
CDEFS = ROOT / "cdefs"
DECLARATIONS = ("vfio.h", "iommufd.h", "native.h")
OLDEST = (3, 11)

# Free-threaded builds before 3.15 have no stable ABI; debug builds can have it, but do not load what has it.
STABLE_ABI = not (sysconfig.get_config_var("Py_GIL_DISABLED") or sysconfig.get_config_var("Py_DEBUG"))

PRELUDE = """
#include <stddef.h>
#include <stdint.h>
"""


def cdef(name: str) -> str:
    """The text of a file of cdefs/ as cffi wants it: string macros, which it does not know, as constants."""
    text = (CDEFS / name).read_text(encoding="utf-8")
    return re.sub(r'^#define (\w+) ".*"$', r"static const char *const \1;", text, flags=re.MULTILINE)


def declare() -> FFI:
    """All declarations, as a builder that can write the extension's C."""
    ffi = FFI()
    for name in (*DECLARATIONS, "callbacks.h"):
        ffi.cdef(cdef(name))
    includes = "".join(f'#include "{name}"\n' for name in (*DECLARATIONS, "native.c"))
    ffi.set_source("pyvfio._abi", PRELUDE + includes)
    return ffi


class build_ext(_build_ext):
    """Has cffi write the C of an extension before it is compiled."""

    def build_extension(self, ext: Extension) -> None:
        source = Path(self.build_temp) / "_abi.c"
        source.parent.mkdir(parents=True, exist_ok=True)
        declare().emit_c_code(str(source))
        ext.sources = [str(source)]
        if STABLE_ABI:
            ext.define_macros.append(("Py_LIMITED_API", f"0x{OLDEST[0]:02x}{OLDEST[1]:02x}0000"))
        else:
            ext.define_macros.append(("_CFFI_NO_LIMITED_API", None))
        super().build_extension(ext)

    def finalize_options(self) -> None:
        super().finalize_options()
        for ext in self.extensions or ():
            ext.py_limited_api = STABLE_ABI     # decides the name of the file, so before any is asked for


class bdist_wheel(_bdist_wheel):
    """Tags the wheel for every CPython from the oldest on, where that is true."""

    def finalize_options(self) -> None:
        if STABLE_ABI:
            self.py_limited_api = f"cp{OLDEST[0]}{OLDEST[1]}"
        super().finalize_options()
