# SPDX-License-Identifier: MIT
"""List the errnos in the sources of VFIO and iommufd, by file, function and line.

The command line of scripts/error_returns.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from vmtest.kernel import Wanted, find_package, source_package
from vmtest.problems import Missing, Problem, say

#: Directories to read: VFIO's core with its container, type1 and vfio-pci; iommufd without its selftest.
FOLDERS = ("drivers/vfio", "drivers/vfio/pci", "drivers/iommu/iommufd")
#: Files to skip: parts for other architectures, and code that no request reaches.
LEFT_OUT = ("selftest.c", "vfio_iommu_spapr_tce.c", "debugfs.c")
TABLE = Path(__file__).parents[2] / "tests" / "mock" / "error_returns" / "returns.tsv"

_COMMENT_OR_STRING = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', re.S)
_ERRNO = re.compile(r"-\s*(E[A-Z0-9]{2,})\b")
_DEFINED = re.compile(r"#\s*define\s+(\w+)")
_HEAD = re.compile(r"\b(\w+)\s*\(")


class Return(NamedTuple):
    """One errno of a function.

    :ivar file: path below the root of the kernel's tree
    :ivar lines: numbers of the lines that have the errno
    """

    file: str
    function: str
    errno: str
    lines: tuple[int, ...]

    def __str__(self) -> str:
        return "\t".join((self.file, self.function, self.errno, ",".join(map(str, self.lines))))


def read_table(path: Path = TABLE) -> list[Return]:
    """Return the stored list."""
    rows = [line.split("\t") for line in path.read_text().splitlines() if not line.startswith("#")]
    return [Return(file, function, errno, tuple(map(int, lines.split(",")))) for file, function, errno, lines in rows]


def write_table(returns: Iterable[Return], release: str, path: Path = TABLE) -> None:
    """Store the list.

    :param release: release of the kernel that the list was made from
    """
    head = f"# Linux {release}: file, function, errno, lines. Made by scripts/error_returns.\n"
    path.write_text(head + "".join(f"{one}\n" for one in returns))


def of_tree(tree: Path) -> list[Return]:
    """Return the errnos of all files of a kernel's tree that are in FOLDERS and not in LEFT_OUT."""
    found: list[Return] = []
    for folder in FOLDERS:
        for path in sorted((tree / folder).glob("*.c")):
            if path.name not in LEFT_OUT:
                found.extend(of_source(path.read_text(), f"{folder}/{path.name}"))
    return found


def of_source(text: str, file: str) -> Iterator[Return]:
    """Yield the errnos of one file, function by function, each with all its lines."""
    by_function: dict[tuple[str, str], list[int]] = {}
    for function, number, line in _lines(text):
        for errno in _ERRNO.findall(line):
            by_function.setdefault((function, errno), []).append(number)
    for (function, errno), lines in by_function.items():
        yield Return(file, function, errno, tuple(lines))


def _lines(text: str) -> Iterator[tuple[str, int, str]]:
    """Yield the lines of all functions and macros: name, number, text without comments and strings."""
    text = _COMMENT_OR_STRING.sub(lambda found: re.sub(r"[^\n]", " ", found.group()), text)
    function, depth = "", 0
    macro: str | None = None
    for number, line in enumerate(text.split("\n"), 1):
        if macro is None and (defined := _DEFINED.match(line)):
            macro = defined.group(1)
        if macro is not None:
            yield macro, number, line
            if not line.endswith("\\"):
                macro = None
            continue
        if line.startswith("#"):
            continue
        if not depth and line[:1].isalpha() and not line.endswith(";") and (head := _HEAD.search(line)):
            function = head.group(1)
        if depth:
            yield function, number, line
        depth += line.count("{") - line.count("}")


def main() -> int:
    """Make or compare the list, and return the exit code."""
    parser = argparse.ArgumentParser(description="List the errnos that VFIO and iommufd can return.")
    parser.add_argument("--source", type=Path, metavar="TREE", help="a kernel's tree; without it, Debian's newest")
    parser.add_argument("--check", action="store_true", help="compare with the stored list, and write nothing")
    arguments = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="pyvfio-source-") as directory:
            tree = arguments.source or unpacked(Path(directory))
            found, release = of_tree(tree), release_of(tree)
    except Problem as problem:
        say(str(problem))
        return 3 if isinstance(problem, Missing) else 1
    if not found:
        say(f"{tree} has no sources of VFIO")
        return 1
    say(f"Linux {release}: {sum(len(one.lines) for one in found)} places, {len(found)} errnos of functions")
    if not arguments.check:
        write_table(found, release)
        return 0
    stored = {one[:3] for one in read_table()}
    now = {one[:3] for one in found}
    for mark, rows in (("-", stored - now), ("+", now - stored)):
        for row in sorted(rows):
            print(mark, *row)
    return 4 if stored != now else 0


def unpacked(directory: Path) -> Path:
    """Unpack the needed files of the newest source package, and return the tree."""
    with tempfile.TemporaryDirectory(prefix="pyvfio-apt-") as lists:
        apt, package = find_package(Wanted(), Path(lists))
        deb = source_package(apt, package)
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(deb)], stdout=subprocess.PIPE) as inside:
        subprocess.run(
            ["tar", "-C", str(directory), "-xf", "-", "--wildcards", "./usr/src/*.tar.*"],
            stdin=inside.stdout,
            check=True,
        )
    tarball = next((directory / "usr" / "src").glob("linux-source-*.tar.*"))
    wanted = ["*/Makefile", *(f"*/{folder}/*.c" for folder in FOLDERS)]
    options = ["--wildcards", "--no-wildcards-match-slash"]
    subprocess.run(["tar", "-C", str(directory), "-xf", str(tarball), *options, *wanted], check=True)
    return next(directory.glob("linux-source-*"))


def release_of(tree: Path) -> str:
    """Return the release from a tree's Makefile, such as 7.3.4."""
    makefile = tree / "Makefile"
    fields = (
        dict(re.findall(r"^(VERSION|PATCHLEVEL|SUBLEVEL) = (\d+)$", makefile.read_text(), re.M))
        if makefile.exists()
        else {}
    )
    return (
        ".".join(fields[name] for name in ("VERSION", "PATCHLEVEL", "SUBLEVEL") if name in fields)
        or "of unknown release"
    )
