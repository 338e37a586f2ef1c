# SPDX-License-Identifier: MIT
"""Get the distribution's binary kernel, and make an initramfs that loads the modules that a machine needs."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from pathlib import Path

from vmtest.apt import Apt, Package
from vmtest.recipe import READY_INIT, READY_MODULES


def collect_ready(apt: Apt, image: Package, version: str, work: Path, out: Path) -> None:
    """Download a package linux-image-* and the packages for building modules, and write a finished kernel to `out`."""
    contents, headers, busybox = _unpack(apt, image, version, work)
    modules = next(contents.rglob("modules/*/kernel")).parent
    release = modules.name
    shutil.copy(contents / "boot" / f"vmlinuz-{release}", out / "bzImage")
    shutil.copy(contents / "boot" / f"config-{release}", out / "config")
    (out / "release").write_text(f"{release}\n")
    make_initramfs(modules, busybox, work / "initramfs", out / "initramfs")
    tree = Path("headers", "usr", "src", f"linux-headers-{release}")
    headers.rename(out / "headers")
    (out / "tree").symlink_to(tree)
    # These files contain the paths of installed packages, and the version of the distribution's compiler.
    for name, pattern, replacement in (("Makefile", "/usr/src/", "../"), (".kernelvariables", r"\bgcc-\d+", "gcc")):
        path = out / tree / name
        path.write_text(re.sub(pattern, replacement, path.read_text()))


def _unpack(apt: Apt, image: Package, version: str, work: Path) -> tuple[Path, Path, Path]:
    """Unpack the packages.

    Return the directories of the kernel's package and of those for building modules, and the path of busybox.
    """
    release = image.name.removeprefix("linux-image-")
    common = release.rpartition("-")[0] + "-common"
    packages = {image: "image"}
    for name in (f"linux-headers-{release}", f"linux-headers-{common}", f"linux-kbuild-{version}"):
        packages[image._replace(name=name)] = "headers"
    packages[apt.packages("^busybox-static$")[-1]] = "busybox"
    for package, directory in packages.items():
        subprocess.run(["dpkg-deb", "-x", str(apt.download(package, work)), str(work / directory)], check=True)
    return work / "image", work / "headers", next((work / "busybox").rglob("bin/busybox"))


def make_initramfs(modules: Path, busybox: Path, root: Path, out: Path) -> None:
    """Write an initramfs with READY_MODULES and busybox to `out`. Its files are put together below `root`."""
    release = modules.name
    target = root / "lib" / "modules" / release
    target.mkdir(parents=True)
    lines = []
    for path, needed in modules_with_dependencies(modules, READY_MODULES).items():
        shutil.copy(path, target)
        lines.append(f"{path.name}: {' '.join(other.name for other in needed)}\n")
    (target / "modules.dep").write_text("".join(lines))
    for name in ("proc", "root"):
        (root / name).mkdir()
    shutil.copy(busybox, root)
    (root / "init").write_text(READY_INIT.replace("@MODULES@", " ".join(READY_MODULES)))
    (root / "init").chmod(0o755)
    names = "".join(f"{path.relative_to(root)}\n" for path in sorted(root.rglob("*")))
    archive = subprocess.run(
        [str(busybox), "cpio", "-o", "-H", "newc"], cwd=root, input=names.encode(), capture_output=True, check=True
    ).stdout
    out.write_bytes(gzip.compress(archive, 1, mtime=0))


def modules_with_dependencies(directory: Path, names: tuple[str, ...]) -> dict[Path, list[Path]]:
    """Return these modules and their dependencies, each with all its own dependencies, in reverse order of loading."""
    files = {path.stem.replace("-", "_"): path for path in directory.rglob("*.ko")}
    found: dict[Path, list[Path]] = {}

    def add(name: str) -> Path:
        path = files[name]
        if path not in found:
            match = re.search(rb"\0depends=([^\0]*)\0", path.read_bytes())
            needed = match[1].decode().replace("-", "_").split(",") if match else []
            direct = [add(module) for module in needed if module]
            everything = {deeper for module in direct for deeper in (module, *found[module])}
            found[path] = [other for other in reversed(found) if other in everything]
        return path

    for name in names:
        add(name)
    return found
