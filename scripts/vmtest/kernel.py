# SPDX-License-Identifier: MIT
"""Get a test kernel: from the cache, by building the distribution's source package, or as the distribution's binary package.

A finished kernel is a directory below ~/.cache/pyvfio/kernel. It is renamed to its final name when it is complete:

    bzImage         the kernel; it boots without an initramfs, because all that a machine needs is built in
    initramfs       only for READY kernels, which are the distribution's binaries, with modules
    release         the output of `uname -r`
    config          the configuration
    include/        the exported user headers, as in /usr/include; private/iommufd_test.h is IOMMUFD_TEST's interface
    modules/        mdev.ko, and mtty.ko, the driver of a sample device
    tree/           the files that `make -C tree M=...` needs to build a module
    recipe.json     the source package, configuration and tools; the directory's name is a hash of this file

A READY kernel has no include/ and no modules/.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vmtest.apt import Apt, Package, install, machine_source, suites_of_interest, version_key
from vmtest.cache import CACHE, lock
from vmtest.kernel_build import BUILD_PACKAGES, build_from_source
from vmtest.problems import Problem, say
from vmtest.ready_kernel import collect_ready
from vmtest.recipe import DEBUG, READY, SOURCE, digest, local_recipe


@dataclass(frozen=True)
class Wanted:
    """The kernel that is asked for."""

    version: str | None = None
    """A version such as 6.12; None for the newest."""
    debug: bool = False
    """With lockdep, KASAN and kmemleak."""

    @classmethod
    def named(cls, name: str | None) -> Wanted:
        """Return the kernel that a name on the command line means: a version, or `debug`: the newest with debugging options."""
        return cls(debug=True) if name == DEBUG else cls(name)

    @property
    def is_ready(self) -> bool:
        """Whether the distribution's binary package is used instead of a build."""
        return self.version in READY

    @property
    def recipe(self) -> dict[str, object]:
        """All inputs of the build except the source package."""
        return local_recipe(self.version, debug=self.debug)

    @property
    def newest_link(self) -> Path:
        """The symbolic link to the newest kernel that was built by the current recipe."""
        return CACHE / "newest" / digest(self.recipe)


def finished_kernel(wanted: Wanted) -> Path | None:
    """Return the directory of a finished kernel that the current recipe built: of the wanted version, or the newest."""
    if wanted.version is None:
        newest = wanted.newest_link.resolve()
        return newest if newest.exists() else None
    found = []
    recipe_now = json.loads(json.dumps(wanted.recipe))
    for path in CACHE.glob("kernel/*/recipe.json"):
        recipe = json.loads(path.read_text())
        source = recipe.pop("source")
        if recipe == recipe_now and source["kernel"] == wanted.version:
            found.append((version_key(source["package_version"]), path.parent))
    return max(found)[1] if found else None


def kernel_of(package: str) -> str:
    """Return the kernel version, such as 6.12, from the name of a package linux-source-* or linux-image-*."""
    return ".".join(package.split("-")[2].split(".")[:2])


def require_kernel(wanted: Wanted, *, update: bool = False) -> Path:
    """Find or build the kernel, and return its directory.

    :param update: look for a newer package even if a kernel is built
    :raises Missing: packages for the build are missing, and the user is not root
    :raises Problem: there is no package of that version, or the build failed
    """
    if wanted.debug and wanted.is_ready:
        raise Problem(f"kernel {wanted.version} is the distribution's own; there is no debug kernel of it")
    if not update and (found := finished_kernel(wanted)):
        return found
    install(*BUILD_PACKAGES)
    # Separate locks: a ready kernel does not wait for a build, nor a normal kernel for the build of a debug kernel.
    suffix = "-ready" if wanted.is_ready else "-debug" if wanted.debug else ""
    with lock(f"kernel{suffix}"):
        # Look again: another process may have finished the build while this one waited, or install() may just have
        # installed a compiler.
        if not update and (found := finished_kernel(wanted)):
            return found
        return _make(wanted, suffix)


def _make(wanted: Wanted, suffix: str) -> Path:
    work = CACHE / f"unfinished{suffix}"
    shutil.rmtree(work, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="pyvfio-apt-") as directory:
        apt, package = find_package(wanted, Path(directory))
        version = kernel_of(package.name)
        source = {"kernel": version, "package": package.name, "package_version": package.version}
        recipe = wanted.recipe | {"source": source}
        kernel = CACHE / "kernel" / f"{version}-{digest(recipe)}"
        if not kernel.exists():
            finished = work / "finished"
            finished.mkdir(parents=True)
            if wanted.is_ready:
                say(f"getting {package.name} {package.version}")
                collect_ready(apt, package, version, work, finished)
            else:
                log = CACHE / f"build-{version}{suffix}.log"
                build_from_source(source_package(apt, package), work, finished, log, debug=wanted.debug)
            (finished / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n")
            kernel.parent.mkdir(exist_ok=True)
            finished.rename(kernel)
            shutil.rmtree(work)
    if wanted.version is None:
        link = wanted.newest_link
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(kernel)
    return kernel


def source_package(apt: Apt, package: Package) -> Path:
    """Return the .deb of a kernel's source. It is downloaded once and kept."""
    kept = CACHE / "apt"
    kept.mkdir(exist_ok=True)
    if deb := next(kept.glob(f"{package.name}_{package.version}_*.deb"), None):
        return deb
    say(f"getting {package.name} {package.version}")
    return apt.download(package, kept)


def find_package(wanted: Wanted, directory: Path) -> tuple[Apt, Package]:
    """Find the newest package of a kernel in any of the suites of interest on the machine's mirror."""
    source = machine_source(directory)
    suites = suites_of_interest()
    pattern = READY.get(wanted.version or "", SOURCE)
    offered: list[Package] = []
    # Search backports first: their lists are short, and they have the newest kernel.
    for choice in (tuple(f"{suite}-backports" for suite in suites), suites):
        apt = Apt(directory, source, choice)
        apt.update()
        packages = apt.packages(pattern)
        offered += packages
        if matching := [package for package in packages if wanted.version in (None, kernel_of(package.name))]:
            return apt, matching[-1]
    names = " ".join(dict.fromkeys(kernel_of(package.name) for package in offered)) or "none at all"
    raise Problem(f"no package of kernel {wanted.version}; {source.uri} offers {names}")
