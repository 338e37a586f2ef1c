# SPDX-License-Identifier: MIT
"""A kernel for arm64 with pages of 64 KiB, cross-compiled from the distribution's source package.

A finished kernel is a directory below ~/.cache/pyvfio/arm64/kernel, named by a hash of its recipe:

    Image           the kernel; all that a machine needs is built in
    release         the output of `uname -r`
    config          the configuration
    tree/           the files that `make -C tree M=...` needs to build a module
    recipe.json     the source package, configuration and tools
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

from vmtest.apt import install, version_key
from vmtest.cache import CACHE, lock, new_directory
from vmtest.kernel import Wanted, find_package, kernel_of, source_package
from vmtest.kernel_build import BUILD_PACKAGES, configure, extract, keep_tree, run_make
from vmtest.problems import say
from vmtest.recipe import ARM64_BUILD, ARM64_FRAGMENT, ARM64_KEPT_IN_TREE, ARM64_VARIABLES, arm64_recipe, digest

COMPILER_PACKAGES = ("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross")
KERNELS = CACHE / "arm64" / "kernel"


def finished_kernel(kernels: Path = KERNELS) -> Path | None:
    """Return the newest kernel that the current recipe built, or None."""
    found = []
    recipe_now = json.loads(json.dumps(arm64_recipe()))
    for path in kernels.glob("*/recipe.json"):
        recipe = json.loads(path.read_text())
        source = recipe.pop("source")
        if recipe == recipe_now:
            found.append((version_key(source["package_version"]), path.parent))
    return max(found)[1] if found else None


def require_kernel() -> Path:
    """Find or build the kernel, and return its directory.

    :raises Missing: packages for the build are missing, and the user is not root
    :raises Problem: the build failed
    """
    install(*COMPILER_PACKAGES)
    if found := finished_kernel():
        return found
    install(*BUILD_PACKAGES)
    with lock("arm64-kernel"):
        return finished_kernel() or _build()


def _build() -> Path:
    with tempfile.TemporaryDirectory(prefix="pyvfio-apt-") as directory:
        apt, package = find_package(Wanted(), Path(directory))
        deb = source_package(apt, package)
    version = kernel_of(package.name)
    source = {"kernel": version, "package": package.name, "package_version": package.version}
    recipe = arm64_recipe() | {"source": source}
    log = CACHE / f"build-{version}-arm64.log"
    log.write_text("")
    kernel = KERNELS / digest(recipe)
    with (
        tempfile.TemporaryDirectory(prefix="unfinished-arm64-", dir=CACHE) as work,
        new_directory(kernel) as out,
    ):
        say(f"building in {work}, about 10 minutes of processor time; log in {log}")
        tree = extract(deb, Path(work))
        configure(tree, log, [ARM64_FRAGMENT], ARM64_VARIABLES)
        run_make(tree, ARM64_BUILD, log, ARM64_VARIABLES)
        collect(tree, out)
        (out / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")
    return kernel


def collect(tree: Path, out: Path) -> None:
    """Copy the needed files of a built tree."""
    shutil.copy(tree / "arch" / "arm64" / "boot" / "Image", out / "Image")
    shutil.copy(tree / "include" / "config" / "kernel.release", out / "release")
    shutil.copy(tree / ".config", out / "config")
    keep_tree(tree, out / "tree", ARM64_KEPT_IN_TREE)
