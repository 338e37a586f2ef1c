# SPDX-License-Identifier: MIT
"""Compare the ABI that C headers declare with that of the built extension, as names and numbers.

A C parser gets the names from a header's preprocessed text; the C compiler gives the numbers.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from pycparser import CParser, c_ast
from pycparser.c_parser import ParseError

# vfio_zdev.h has the structs of vfio.h's zPCI capabilities. vfio_ccw.h (s390 channel I/O) is left out.
HEADERS = VFIO, ZDEV, IOMMUFD = ("linux/vfio.h", "linux/vfio_zdev.h", "linux/iommufd.h")


class Field(NamedTuple):
    """A field of a struct; one of an unnamed type is called `a.b`, or `b` if that has no name either."""

    offset: int  # bits
    size: int  # bits, 0 for a flexible array
    element: int  # bits of one element of an array, else as size
    kind: str  # signed, unsigned, pointer, union, struct, or struct with its name

    def __str__(self) -> str:
        return f"{self.kind} of {self.element} bits, {self.size} in all, at bit {self.offset}"


@dataclass
class Struct:
    size: int  # bytes
    alignment: int
    fields: dict[str, Field] = field(default_factory=dict)


@dataclass
class Abi:
    structs: dict[str, Struct] = field(default_factory=dict)  # "struct x", "union x"
    enums: dict[str, dict[str, int]] = field(default_factory=dict)  # "enum x", those with a name
    constants: dict[str, int | str] = field(default_factory=dict)  # enumerators and macros
    requests: dict[str, str] = field(default_factory=dict)  # macros made by _IO, and their header
    others: set[str] = field(default_factory=set)  # without a number: "f()", "typedef t"

    def names(self) -> set[str]:
        return {*self.structs, *self.enums, *self.constants, *self.others}


def differences(kernel: Abi, ours: Abi, excluded: set[str]) -> list[str]:
    """Return a line for each difference between `ours` and the kernel's ABI without `excluded`; none if they are equal."""
    theirs, mine = kernel.names(), ours.names()
    lines = [f"{name}: in the kernel's headers, not declared" for name in theirs - mine - excluded]
    lines += [f"{name}: declared, not in the kernel's headers" for name in mine - theirs]
    lines += [f"{name}: excluded, not in the kernel's headers" for name in excluded - theirs]
    lines += [f"{name}: excluded, but declared" for name in excluded & mine]
    for name in kernel.constants.keys() & ours.constants.keys():
        want, have = kernel.constants[name], ours.constants[name]
        # A negative int that is only ever compared with a __u32 is declared as what it is there.
        if have != want and not (isinstance(want, int) and want < 0 and have == want % 2**32):
            lines.append(f"{name}: is {have!r}, the kernel's is {want!r}")
    for name in kernel.enums.keys() & ours.enums.keys():
        lines += _differing(name, "member", kernel.enums[name], ours.enums[name])
    for name in kernel.structs.keys() & ours.structs.keys():
        want_struct, have_struct = kernel.structs[name], ours.structs[name]
        for what in ("size", "alignment"):
            want, have = getattr(want_struct, what), getattr(have_struct, what)
            if have != want:
                lines.append(f"{name}: {what} is {have}, the kernel's is {want}")
        lines += _differing(name, "field", want_struct.fields, have_struct.fields)
    return sorted(lines)


def _differing(name: str, what: str, kernel: dict[str, Any], ours: dict[str, Any]) -> Iterator[str]:
    for key in kernel.keys() - ours.keys():
        yield f"{name}: {what} {key} is not declared"
    for key in ours.keys() - kernel.keys():
        yield f"{name}: {what} {key} is not in the kernel's headers"
    for key in kernel.keys() & ours.keys():
        if kernel[key] != ours[key]:
            yield f"{name}: {what} {key} is {ours[key]}, the kernel's is {kernel[key]}"


# ---- A header, by parser and compiler ----

# Only for the parser, which knows no GNU C; no number comes from what it reads.
PLAIN_C = (
    "-D__attribute__(x)=",
    "-D__extension__=",
    "-D__signed__=signed",
    "-D__inline__=",
    "-D__volatile__=",
    "-U__SIZEOF_INT128__",
)


class _Member(NamedTuple):
    """A field from the parser, before the compiler has given its offset."""

    path: str  # as in C: `errors[0].code`
    kind: str  # as in Field, "integer" where the compiler must tell the sign
    dimensions: int  # of an array
    flexible: bool
    bits: bool

    @property
    def name(self) -> str:
        return self.path.replace("[0]", "")

    @property
    def element(self) -> str:
        return self.path + "[0]" * self.dimensions


class Declarations:
    """The names that some headers declare, without those of included headers."""

    def __init__(self, headers: Sequence[str], include: Sequence[Path], prelude: str = "") -> None:
        self.source = prelude + "".join(f"#include <{name}>\n" for name in headers)
        self.flags = [f"-I{path}" for path in include]
        self.structs: dict[str, list[_Member]] = {}
        self.enums: dict[str, list[str]] = {}
        self.enumerators: list[str] = []
        self.numbers: list[str] = []
        self.strings: list[str] = []
        self.requests: dict[str, str] = {}
        self.others: set[str] = set()
        self._headers = headers
        self._read_types()
        self._read_macros()

    def _preprocess(self, source: str, *flags: str) -> str:
        return _run(["gcc", "-E", *self.flags, *flags, "-xc", "-"], source)

    def _own(self, path: str) -> str | None:
        return next((name for name in self._headers if path.endswith(f"/{name}")), None)

    def _read_macros(self) -> None:
        bodies: dict[str, str] = {}
        owner: str | None = None
        for line in self._preprocess(self.source, "-dD").splitlines():
            if marker := re.match(r'# \d+ "(.*)"', line):
                owner = self._own(marker[1])
            elif owner and (macro := re.match(r"#define (\w+)(\(?)[^ ]* ?(.*)", line)):
                name, arguments, body = macro.groups()
                if arguments or not body:
                    self.others.add(name + arguments + ")" * bool(arguments))
                    continue
                bodies[name] = body
                if re.match(r"_IO[RW]*\s*\(", body):
                    self.requests[name] = owner
        asked = "".join(f"@ {name}\n" for name in bodies)
        expanded = re.findall(r"^@ (.*)$", self._preprocess(self.source + asked, "-P"), re.MULTILINE)
        for name, text in zip(bodies, expanded, strict=True):
            if text.startswith('"'):
                self.strings.append(name)
            elif self._is_number(text):
                self.numbers.append(name)
            else:
                self.others.add(name)

    def _is_number(self, text: str) -> bool:
        """Whether a macro expands to a value that the compiler can compute, and not to a type or a part of a statement."""
        names = _names_in(text)
        return names is not None and names <= set(self.enumerators)

    def _read_types(self) -> None:
        for node in CParser().parse(self._preprocess(self.source, *PLAIN_C)):
            if not self._own(str(node.coord.file)):
                continue
            if isinstance(node, c_ast.Decl) and node.name is None:
                self._read_type(node.type)
            elif isinstance(node, c_ast.Typedef):
                self.others.add(f"typedef {node.name}")
            elif isinstance(node, c_ast.FuncDef):
                self.others.add(f"{node.decl.name}()")
            else:
                self.others.add(f"{type(node).__name__} {getattr(node, 'name', '')}".rstrip())

    def _read_type(self, node: c_ast.Node) -> None:
        if isinstance(node, c_ast.Enum) and node.values:
            names = [value.name for value in node.values.enumerators]
            self.enumerators += names
            if node.name:
                self.enums[f"enum {node.name}"] = names
        elif isinstance(node, (c_ast.Struct, c_ast.Union)) and node.decls:
            self.structs[_type_name(node)] = list(self._members(node, ""))

    def _members(self, node: c_ast.Node, prefix: str) -> Iterator[_Member]:
        """Return the fields of a struct or union, and those of unnamed types inside it."""
        for decl in node.decls:
            inner, dimensions, flexible = decl.type, 0, False
            while isinstance(inner, c_ast.ArrayDecl):
                flexible |= inner.dim is None
                dimensions, inner = dimensions + 1, inner.type
            pointer = isinstance(inner, c_ast.PtrDecl)
            while isinstance(inner, (c_ast.TypeDecl, c_ast.PtrDecl)):
                inner = inner.type
            record = isinstance(inner, (c_ast.Struct, c_ast.Union))
            if (record and inner.name) or isinstance(inner, c_ast.Enum):
                self._read_type(inner)
            inside = prefix
            if decl.name:
                kind = "pointer" if pointer else _type_name(inner) if record else "integer"
                member = _Member(prefix + decl.name, kind, dimensions, flexible, bool(decl.bitsize))
                inside = f"{member.element}."
                yield member
            if record and not inner.name and not pointer:
                yield from self._members(inner, inside)

    def measure(self) -> Abi:
        """Return the declarations with the compiler's numbers."""
        abi = Abi(requests=self.requests, others=self.others)
        for line in self._run_program("".join(self._probes())).splitlines():
            what, name, *values = line.split("\t")
            match what:
                case "string":
                    abi.constants[name] = values[0]
                case "number":
                    abi.constants[name] = int(values[0])
                case "struct":
                    size, alignment = map(int, values)
                    abi.structs[name] = Struct(size, alignment)
                case "field":
                    kind, offset, size, element = values[1], *map(int, values[2:])
                    abi.structs[name].fields[values[0]] = Field(offset, size, element, kind)
        for name, members in self.enums.items():
            abi.enums[name] = {member: int(abi.constants[member]) for member in members}
        return abi

    def _probes(self) -> Iterator[str]:
        yield from (f"STRING({name})\n" for name in self.strings)
        yield from (f"NUMBER({name})\n" for name in (*self.numbers, *self.enumerators))
        for struct, members in self.structs.items():
            yield f"STRUCT({struct})\n"
            for member in members:
                if member.bits:
                    yield f"BITS({struct}, {member.name}, {member.path})\n"
                    continue
                kind = f"SIGN({struct}, {member.element})" if member.kind == "integer" else f'"{member.kind}"'
                size = "0" if member.flexible else f"SIZE({struct}, {member.path})"
                sizes = f"{size}, SIZE({struct}, {member.element})"
                yield f"FIELD({struct}, {member.name}, {member.path}, {kind}, {sizes})\n"

    def _run_program(self, probes: str) -> str:
        with tempfile.TemporaryDirectory() as directory:
            program = Path(directory) / "probe"
            text = f"{PROBE}{self.source}int main(void)\n{{\n{probes}return 0;\n}}\n"
            _run(["gcc", "-w", *self.flags, "-o", str(program), "-xc", "-"], text)
            return _run([str(program)], "")


PROBE = r"""
#include <stddef.h>
#include <stdio.h>
#include <string.h>

static void field(const char *type, const char *name, const char *kind,
	size_t offset, size_t size, size_t element)
{
	printf("field\t%s\t%s\t%s\t%zu\t%zu\t%zu\n", type, name, kind, offset, size, element);
}

static void bits(const char *type, const char *name, const unsigned char *byte, size_t size, int negative)
{
	size_t first = 0, count = 0;

	for (size_t bit = 8 * size; bit-- > 0; )
		if (byte[bit / 8] >> bit % 8 & 1)
			first = bit, count++;
	field(type, name, negative ? "signed" : "unsigned", first, count, count);
}

#define VALUE(type, path) (((type *)0)->path)
#define SIZE(type, path) sizeof(VALUE(type, path))
#define SIGN(type, path) ((__typeof__(VALUE(type, path)))-1 < 0 ? "signed" : "unsigned")
#define STRING(name) printf("string\t%s\t%s\n", #name, name);
#define NUMBER(name) \
	printf((name) < 0 ? "number\t%s\t%lld\n" : "number\t%s\t%llu\n", #name, (long long)(name));
#define STRUCT(type) printf("struct\t%s\t%zu\t%zu\n", #type, sizeof(type), _Alignof(type));
#define FIELD(type, name, path, kind, size, element) \
	field(#type, #name, kind, 8 * offsetof(type, path), 8 * (size_t)(size), 8 * element);
#define BITS(type, name, path) { \
	union { type value; unsigned char byte[sizeof(type)]; } u; \
	memset(&u, 0, sizeof(u)); \
	u.value.path = -1; \
	bits(#type, #name, u.byte, sizeof(u), u.value.path < 0); \
}
"""


def _type_name(node: c_ast.Node) -> str:
    return f"{type(node).__name__.lower()} {node.name or ''}".rstrip()


@cache
def _names_in(expression: str) -> frozenset[str] | None:
    """Return the names in a text if it is an expression, otherwise None."""
    try:
        tree = CParser().parse(f"int value = {expression};")
    except ParseError:
        return None
    return frozenset(_names(tree)) if len(tree.ext) == 1 else None


def _names(node: c_ast.Node) -> Iterator[str]:
    if isinstance(node, c_ast.ID):
        yield node.name
    for _, child in node.children():
        yield from _names(child)


def _run(command: list[str], text: str) -> str:
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{result.stderr}")
    return result.stdout


# ---- The extension ----


def extension(ffi: Any, lib: Any, declarations: Declarations) -> Abi:
    """Return the names of pyvfio's declarations, with the numbers in the built extension."""
    abi = Abi(others=declarations.others)
    for name in (*declarations.numbers, *declarations.enumerators):
        abi.constants[name] = getattr(lib, name)
    for name in declarations.strings:
        abi.constants[name] = ffi.string(getattr(lib, name)).decode()
    for name in declarations.enums:
        abi.enums[name] = dict(ffi.typeof(name).relements)
    for name in declarations.structs:
        fields = dict(_fields(ffi, ffi.typeof(name), "", 0))
        abi.structs[name] = Struct(ffi.sizeof(name), ffi.alignof(name), fields)
    return abi


def _fields(ffi: Any, ctype: Any, prefix: str, base: int) -> Iterator[tuple[str, Field]]:
    for name, member in ctype.fields:
        inner, flexible = member.type, False
        while inner.kind == "array":
            flexible |= inner.length is None
            inner = inner.item
        element = 8 * ffi.sizeof(inner)
        size = 0 if flexible else 8 * ffi.sizeof(member.type)
        offset = base + 8 * member.offset
        if member.bitsize >= 0:
            offset, size, element = offset + member.bitshift, member.bitsize, member.bitsize
        unnamed = "$" in inner.cname
        if name:
            match inner.kind:
                case "primitive" | "enum":
                    kind = "signed" if int(ffi.cast(inner, -1)) < 0 else "unsigned"
                case "struct" | "union" if not unnamed:
                    kind = inner.cname
                case _:
                    kind = inner.kind
            yield prefix + name, Field(offset, size, element, kind)
        if unnamed and inner.kind in ("struct", "union"):
            yield from _fields(ffi, inner, f"{prefix}{name}." if name else prefix, offset)
