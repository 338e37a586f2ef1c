# SPDX-License-Identifier: MIT
"""The C code that needs no OS, compiled with strict warnings, and its functions with gcc's sanitizers."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import pytest

from pyvfio._abi import ffi, lib

CHECK = Path(__file__).with_name("native_check.c")
CDEFS = CHECK.parents[2] / "cdefs"

#: The features that the processor is made to report.
PROCESSORS = ("as it is", "without AVX-512", "portable C only")


def gcc(*arguments: object) -> None:
    subprocess.run(["gcc", "-Wall", "-Wextra", "-Werror", f"-I{CDEFS}", *map(str, arguments)], check=True)


@pytest.mark.parametrize("optimisation", ["-O0", "-O2", "-O3"])
@pytest.mark.parametrize("name", ["bitmap", "ranges"])
def test_it_compiles_without_a_warning(name: str, optimisation: str, tmp_path: Path) -> None:
    source = tmp_path / "alone.c"
    source.write_text(f'#include <stddef.h>\n#include <stdint.h>\n#include "{name}.h"\n#include "{name}.c"\n')

    gcc(optimisation, "-c", source, "-o", tmp_path / "alone.o")


@pytest.mark.parametrize("name", ["buffer", "door", "map_dma"])
def test_the_types_compile_without_a_warning(name: str, tmp_path: Path) -> None:
    python = sysconfig.get_path("include")

    gcc("-O2", "-DPy_LIMITED_API=0x030b0000", "-isystem", python, "-c", CDEFS / f"{name}.c", "-o", tmp_path / "types.o")


@pytest.mark.parametrize("source", sorted(path.name for path in (CDEFS.parent / "scripts").glob("*.c")))
def test_the_benchmarks_c_compiles_without_a_warning(source: str, tmp_path: Path) -> None:
    gcc("-O2", "-fPIC", "-c", CDEFS.parent / "scripts" / source, "-o", tmp_path / "bench.o")


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("native") / "check"
    gcc("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", CHECK, "-o", program)
    return program


@pytest.mark.parametrize("number", range(len(PROCESSORS)), ids=PROCESSORS)
def test_it_agrees_with_loops_over_bits_and_stays_in_bounds(number: int, check: Path) -> None:
    result = subprocess.run([check, str(number)], check=False, capture_output=True, text=True)

    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    ("rows", "hull"),
    [
        ([(0, 0x2000, 0x1000), (0, 0x8000, 0x3000), (0, 0, 0x1000)], (0, 0xAFFF)),
        ([(0, 2**64 - 4096, 4096), (0, 0x1000, 0)], (0x1000, 2**64 - 1)),
        ([(0, 2**64 - 4096, 8192)], (2**64 - 4096, 2**64 - 1)),
        ([(0, 0, 2**64 - 1)], (0, 2**64 - 2)),
    ],
)
def test_the_hull_of_rows_holds_each_of_them(rows: list[tuple[int, int, int]], hull: tuple[int, int]) -> None:
    found = ffi.new("uint64_t[2]")
    lib.pyvfio_hull(ffi.new("uint64_t[]", [value for row in rows for value in row]), len(rows), found)
    assert tuple(found) == hull


def test_places_are_the_same_in_every_row_and_both_columns() -> None:
    mapped = ffi.new("uint64_t[]", [7, 0x1000, 0x1000, 8, 0x4000, 0x2000])
    for places, same in (
        ([0x1000, 0x1000, 0x4000, 0x2000], 1),
        ([0x1000, 0x1000, 0x4000, 0x3000], 0),
        ([0x1000, 0x1000, 0x5000, 0x2000], 0),
        ([0x4000, 0x2000, 0x1000, 0x1000], 0),
    ):
        assert lib.pyvfio_same_places(mapped, ffi.new("uint64_t[]", places), 2) == same
