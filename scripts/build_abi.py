# SPDX-License-Identifier: MIT
"""Build the extension `pyvfio._abi` from cdefs/ alone.

Run as a program, it builds the extensions in place and rewrites the type stub pyvfio/_abi.pyi:

    python scripts/build_abi.py

setuptools uses `build_ext` and `sdist` of this file (see pyproject.toml), so pip builds the same extension.

The files of cdefs/, in the order in which they are read:
- DECLARATIONS: read by the compiler as C and by cffi as cdefs, so they have no #include (vfio.h says more);
- DEFINITIONS: for the compiler only, all in one translation unit, so that cffi's wrappers can inline small functions.
A new file must be added to one of the two lists.
buffer.c, door.c, door.h, map_dma.c, object.c and python_kernel.c are in neither: they form the extension
`pyvfio._buffer`.
"""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from functools import partial
from importlib.machinery import ExtensionFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from cffi import FFI
from setuptools import Extension
from setuptools.command.build_ext import build_ext as _build_ext
from setuptools.command.sdist import sdist as _sdist

ROOT = Path(__file__).resolve().parent.parent
CDEFS = ROOT / "cdefs"
DECLARATIONS = ("vfio.h", "iommufd.h", "native.h", "ranges.h", "bitmap.h", "trace.h")
DEFINITIONS = ("native.c", "ranges.c", "bitmap.c", "trace.c")
SDIST_LICENCE = "MIT AND GPL-2.0-only"
SDIST_LICENCE_FILES = ("LICENSES/GPL-2.0-only.txt",)

PRELUDE = """
#include <stddef.h>
#include <stdint.h>
"""


def cdef(name: str) -> str:
    """Return the text of a file of cdefs/ for cffi, with string macros, which cffi does not support, turned into constants."""
    text = (CDEFS / name).read_text(encoding="utf-8")
    return re.sub(r'^#define (\w+) ".*"$', r"static const char *const \1;", text, flags=re.MULTILINE)


def source() -> str:
    """Return the C code of cdefs/ that cffi puts at the head of its generated file."""
    return PRELUDE + "".join(f'#include "{name}"\n' for name in (*DECLARATIONS, *DEFINITIONS))


def declare() -> FFI:
    """Return an FFI builder with all declarations, which can write the extension's C code."""
    ffi = FFI()
    for name in DECLARATIONS:
        ffi.cdef(cdef(name))
    ffi.set_source("pyvfio._abi", source())
    return ffi


class build_ext(_build_ext):
    """A `build_ext` that lets cffi write the C code of `pyvfio._abi` before it is compiled."""

    def build_extension(self, ext: Extension) -> None:
        if ext.name == "pyvfio._abi":
            written = Path(self.build_temp) / "_abi.c"
            written.parent.mkdir(parents=True, exist_ok=True)
            declare().emit_c_code(str(written))
            ext.sources = [str(written)]
        super().build_extension(ext)


class sdist(_sdist):
    """An `sdist` whose metadata also names the licence of the kernel modules in tests/, which wheels do not contain."""

    def run(self) -> None:
        metadata: Any = self.distribution.metadata
        if hasattr(metadata, "license_expression"):
            metadata.license_expression = SDIST_LICENCE
        else:
            metadata.license = SDIST_LICENCE
        metadata.license_files = [*metadata.license_files, *SDIST_LICENCE_FILES]
        super().run()

    def make_archive(self, base_name: Any, format: str, *args: Any, **more: Any) -> str:
        """Write the archive.

        With SOURCE_DATE_EPOCH, its files have that time and no owner, so that builds are reproducible.
        """
        epoch, folder = os.environ.get("SOURCE_DATE_EPOCH"), more.get("base_dir")
        if epoch is None or format != "gztar" or folder is None:
            return str(super().make_archive(base_name, format, *args, **more))
        name = f"{base_name}.tar.gz"
        with (
            open(name, "wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=int(epoch)) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for path in sorted([Path(folder), *Path(folder).rglob("*")]):
                archive.add(path, recursive=False, filter=partial(_of_nobody, int(epoch)))
        return name


def _of_nobody(epoch: int, member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Give a file of an archive a time, no owner, and permissions that do not depend on the builder's umask."""
    member.mtime, member.uid, member.gid, member.uname, member.gname = epoch, 0, 0, "", ""
    member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
    return member


STUB = '''# SPDX-License-Identifier: MIT
"""The extension's types. Written by scripts/build_abi.py: do not edit."""

from collections.abc import Callable, Iterator
from typing import Any, Final, Literal, Self, TypeVar, final, overload

from typing_extensions import Buffer

_F = TypeVar("_F", bound=Callable[..., Any])

class CValue:
    """A C value."""

    def __bool__(self) -> bool: ...

class CData(CValue):
    """A C value whose type is only known at run time; cffi then checks names and types of its fields."""

    def __getattr__(self, name: str, /) -> Any: ...
    def __setattr__(self, name: str, value: Any, /) -> None: ...
    def __getitem__(self, index: Any, /) -> Any: ...
    def __setitem__(self, index: Any, value: Any, /) -> None: ...
    def __call__(self, *args: Any) -> Any: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Any]: ...
    def __int__(self) -> int: ...
    def __add__(self, count: int, /) -> CData: ...
    def __sub__(self, other: Any, /) -> Any: ...
    def __enter__(self) -> CData: ...
    def __exit__(self, *error: object) -> None: ...

@final
class CType:
    cname: Final[str]
    kind: Final[str]
    item: Final[CType]
    length: Final[int | None]
    fields: Final[list[tuple[str, Any]] | None]
    elements: Final[dict[int, str]]
    relements: Final[dict[str, int]]
    args: Final[tuple[CType, ...]]
    result: Final[CType]

@final
class CBuffer:
    """The result of `ffi.buffer`: a view of C memory, which it does not keep alive."""

    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __len__(self) -> int: ...
    def __getitem__(self, index: int | slice, /) -> bytes: ...
    def __setitem__(self, index: int | slice, value: Buffer, /) -> None: ...

@final
class _FFI:
    NULL: Final[CData]
    buffer: Final[Callable[..., CBuffer]]
    error: Final[type[Exception]]
    errno: int

@NEW@
    @overload
    def new(self, cdecl: str | CType, init: Any = ..., /) -> Any: ...
@CAST@
    @overload
    def cast(self, cdecl: str | CType, value: Any, /) -> Any: ...
    def typeof(self, of: Any, /) -> CType: ...
    def sizeof(self, of: str | CType | CValue, /) -> int: ...
    def alignof(self, of: str | CType, /) -> int: ...
    def offsetof(self, of: str | CType, /, *path: str | int) -> int: ...
    def addressof(self, of: CValue | _Lib, /, *path: str | int) -> CData: ...
    def getctype(self, of: str | CType, extra: str = "", /) -> str: ...
    def list_types(self) -> tuple[list[str], list[str], list[str]]: ...
    @overload
    def from_buffer(self, of: Buffer, /, require_writable: bool = False) -> CData: ...
    @overload
    def from_buffer(self, cdecl: str | CType, of: Buffer, /, require_writable: bool = False) -> CData: ...
    def memmove(self, dest: CValue | Buffer, src: CValue | Buffer, n: int) -> None: ...
    def string(self, of: CData, maxlen: int = -1) -> bytes: ...
    def unpack(self, of: CData, length: int) -> Any: ...
    def gc(self, of: CData, destructor: Callable[[CData], object] | None, size: int = 0) -> CData: ...
    def release(self, of: CData, /) -> None: ...
    def new_handle(self, value: object, /) -> CData: ...
    def from_handle(self, handle: CData, /) -> Any: ...
    def def_extern(
        self, name: str = ..., error: Any = None, onerror: Callable[..., object] | None = None
    ) -> Callable[[_F], _F]: ...

@final
class _Lib:
'''


def stub(ffi: Any, lib: Any) -> str:
    """Return the text of _abi.pyi for a built extension's `ffi` and `lib`."""
    structs = [name for name in sorted(ffi.list_types()[1]) if ffi.typeof(f"struct {name}").fields]
    unions = [name for name in sorted(ffi.list_types()[2]) if ffi.typeof(f"union {name}").fields]
    kinds = [*(("struct", name) for name in structs), *(("union", name) for name in unions)]
    classes = "".join(struct_class(ffi, kind, name) for kind, name in kinds)
    new = "\n".join(overload(f"{kind} {name} *", name, "new", "init: Any = ...") for kind, name in kinds)
    cast = "\n".join(overload(f"{kind} {name} *", name, "cast", "value: Any") for kind, name in kinds)
    lines = [member(name, getattr(lib, name), ffi) for name in sorted(dir(lib))]
    head, ffi_class, rest = STUB.partition("@final\nclass _FFI:")
    text = head + classes + ffi_class + rest.replace("@NEW@", new).replace("@CAST@", cast)
    return text + "".join(f"    {line}\n" for line in lines) + "\nffi: Final[_FFI]\nlib: Final[_Lib]\n"


def overload(cdecl: str, returned: str, method: str, argument: str) -> str:
    """Return an overload of a method of `ffi` for one declaration, in the formatter's layout."""
    arguments = f'self, cdecl: Literal["{cdecl}"], {argument}, /'
    line = f"    def {method}({arguments}) -> {returned}: ..."
    if len(line) > 120:
        line = f"    def {method}(\n        {arguments}\n    ) -> {returned}: ..."
    return f"    @overload\n{line}"


def struct_fields(ctype: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and type of each field. Fields of anonymous structs and unions count as the outer struct's own."""
    for name, field in ctype.fields:
        if name:
            yield name, field.type
        else:
            yield from struct_fields(field.type)


def struct_class(ffi: Any, kind: str, name: str) -> str:
    """Return a class for a pointer to a struct, so that a type checker reports fields that do not exist."""
    fields = struct_fields(ffi.typeof(f"{kind} {name}"))
    values = "".join(f"    {field}: {python_type(ctype)}\n" for field, ctype in fields)
    return f"@final\nclass {name}(CValue):\n{values}    def __getitem__(self, index: int, /) -> Self: ...\n\n"


def member(name: str, value: Any, ffi: Any) -> str:
    if isinstance(value, int):
        return f"{name}: Final[int]"
    ctype = ffi.typeof(value)
    if ctype.kind != "function":
        return f"{name}: Final[CData]"
    arguments = [f"a{i}: {python_type(arg, argument=True)}" for i, arg in enumerate(ctype.args)]
    return f"def {name}({', '.join(['self', *arguments, '/'])}) -> {python_type(ctype.result)}: ..."


def python_type(ctype: Any, *, argument: bool = False) -> str:
    match ctype.kind:
        case "void":
            return "None"
        case "primitive" if ctype.cname in ("float", "double"):
            return "float"
        case "primitive" if ctype.cname in ("_Bool", "char"):
            return {"_Bool": "bool", "char": "bytes"}[ctype.cname]
        case "primitive" | "enum":
            return "int"
        case "struct" | "union" if not argument and re.fullmatch(r"(struct|union) \w+", ctype.cname) and ctype.fields:
            return str(ctype.cname.split()[1])
        case "pointer" if argument and ctype.item.cname in ("void", "char", "unsigned char", "uint8_t"):
            return "CValue | bytes"
    return "CValue" if argument else "CData"


def main() -> None:
    subprocess.run([sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"], cwd=ROOT, check=True)
    [built] = (ROOT / "pyvfio").glob("_abi.*.so")
    loader = ExtensionFileLoader("pyvfio._abi", str(built))
    spec = spec_from_file_location("pyvfio._abi", built, loader=loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    (ROOT / "pyvfio" / "_abi.pyi").write_text(stub(module.ffi, module.lib), encoding="utf-8")


if __name__ == "__main__":
    main()
