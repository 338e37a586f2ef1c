# SPDX-License-Identifier: MIT
"""The build of a kernel from the distribution's source package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from vmtest.problems import Problem, say
from vmtest.recipe import (
    KEPT_IN_TREE,
    LEFT_OUT_OF_TREE,
    MAKE_BUILD,
    MAKE_CONFIG,
    MAKE_VARIABLES,
    MODULES,
    fragments,
    parse_fragment,
    without_effect,
)

BUILD_PACKAGES = (
    "gcc",
    "libc6-dev",
    "make",
    "flex",
    "bison",
    "bc",
    "libelf-dev",
    "libssl-dev",
    "kmod",
    "perl",
    "xz-utils",
    "dpkg-dev",
)


def build_from_source(deb: Path, work: Path, out: Path, log: Path, *, debug: bool) -> None:
    """Unpack a source package below `work`, configure and build it, and copy the needed files to `out`.

    :param log: a file for make's output
    """
    tree = extract(deb, work)
    log.write_text("")
    say(f"building in {work}, about {30 if debug else 20} minutes of processor time; log in {log}")
    configure(tree, log, fragments(debug=debug))
    run_make(tree, MAKE_BUILD, log)
    collect(tree, out)


def extract(deb: Path, directory: Path) -> Path:
    """Unpack a package linux-source-*, and return the kernel's tree."""
    subprocess.run(["dpkg-deb", "-x", str(deb), str(directory / "package")], check=True)
    tarball = next((directory / "package" / "usr" / "src").glob("linux-source-*.tar.*"))
    subprocess.run(["tar", "-C", str(directory), "-xf", str(tarball)], check=True)
    shutil.rmtree(directory / "package")
    return next(directory.glob("linux-source-*"))


def configure(tree: Path, log: Path, parts: Sequence[Path], variables: Mapping[str, str] = MAKE_VARIABLES) -> None:
    """Make .config from the kernel's tinyconfig and the fragments.

    :param parts: the fragments, in the order of merging
    :raises Problem: an option that exists in every release did not take effect
    """
    for step in MAKE_CONFIG:
        if step == ("merge",):
            with (tree / ".config").open("a") as config:
                config.writelines(part.read_text() for part in parts)
        else:
            run_make(tree, step, log, variables)
    for part in parts:
        missing = without_effect(parse_fragment(part.read_text()), (tree / ".config").read_text())
        if absent := [option.name for option in missing if not option.is_in_every_release]:
            say(f"not in this release: {' '.join(absent)}")
        if failed := [option.name for option in missing if option.is_in_every_release]:
            raise Problem(f"these lines of {part.name} did not take effect: {' '.join(failed)}")


def run_make(tree: Path, targets: tuple[str, ...], log: Path, variables: Mapping[str, str] = MAKE_VARIABLES) -> None:
    """Run make with its output in the log, and report progress now and then."""
    command = ["make", "-C", str(tree), f"-j{os.cpu_count()}", *targets]
    command += [f"{name}={value}" for name, value in variables.items()]
    started = told = time.monotonic()
    files = 0
    with (
        log.open("a") as out,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"LC_ALL": "C"},
        ) as make,
    ):
        assert make.stdout is not None
        for line in make.stdout:
            out.write(line)
            files += line.startswith("  CC")
            now = time.monotonic()
            if now - told >= 20:
                told = now
                say(f"{now - started:4.0f} s, {files} files compiled, now at {line.split()[-1]}")
    if make.returncode:
        sys.stderr.write("".join(log.read_text().splitlines(keepends=True)[-40:]))
        raise Problem(f"make {' '.join(targets)} failed")


def collect(tree: Path, out: Path) -> None:
    """Copy the needed files of a built tree."""
    shutil.copy(tree / "arch" / "x86" / "boot" / "bzImage", out / "bzImage")
    shutil.copy(tree / "include" / "config" / "kernel.release", out / "release")
    shutil.copy(tree / ".config", out / "config")
    shutil.copytree(tree / "usr" / "include", out / "include", ignore=shutil.ignore_patterns(".*", "Makefile", "*.pl"))
    (out / "include" / "private").mkdir()
    shutil.copy(tree / "drivers" / "iommu" / "iommufd" / "iommufd_test.h", out / "include" / "private")
    (out / "modules").mkdir()
    for module in MODULES:
        shutil.copy(tree / module, out / "modules")
    keep_tree(tree, out / "tree", KEPT_IN_TREE)


def keep_tree(tree: Path, out: Path, kept: Sequence[str]) -> None:
    """Copy what modules need of a built tree.

    :param kept: patterns of paths in the tree
    """
    ignore = shutil.ignore_patterns(*LEFT_OUT_OF_TREE)
    for pattern in kept:
        for path in tree.glob(pattern):
            target = out / path.relative_to(tree)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                shutil.copytree(path, target, symlinks=True, ignore=ignore)
            else:
                shutil.copy2(path, target)
