# SPDX-License-Identifier: MIT
"""The root file system of the arm64 machine: Debian's packages for arm64, unpacked.

They are unpacked and not installed: nothing of them runs on this machine, whose processor cannot run it. So their
scripts have not run either, and what those create is missing: users but for root, alternatives such as awk, Python's
compiled modules.

The packages stay in ~/.cache/pyvfio/arm64/packages/KEY, the root is ~/.cache/pyvfio/arm64/root/KEY. KEY is a hash of
this file's lists. `manifest` in the root names the packages with their versions.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from vmtest.apt import Apt, machine_source
from vmtest.cache import CACHE, lock, new_directory
from vmtest.problems import Problem, say
from vmtest.recipe import digest

# The release with the oldest pytest that the tests accept.
SUITE = "trixie"
PACKAGES = (
    "base-files",
    "coreutils",
    "dash",
    "findutils",
    "gcc",
    "grep",
    "iproute2",
    "kmod",
    "libc6-dev",
    "mount",
    "procps",
    "python3",
    "python3-cffi",
    "python3-dev",
    "python3-hypothesis",
    "python3-jsonschema",
    "python3-numpy",
    "python3-pytest",
    "python3-pytest-timeout",
    "python3-pyudev",
    "python3-setuptools",
    "sed",
    "util-linux",
)
NOT_UNPACKED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian")

# Where the machine sees its own files, and the copy of the project.
MACHINE = Path("/machine")
PROJECT = Path("/project")
# Python's compiled modules: they are kept between runs, because to compile them takes longer than most tests.
PYCACHE = Path("/pycache")
# The kernel starts this; it mounts the machine's files, which are those of one run, and continues with process 1 there.
LAUNCHER = f"""#!/bin/sh
mount -t 9p -o trans=virtio,version=9p2000.L,ro machine {MACHINE} && exec {MACHINE}/init
"""
LAUNCHER_PATH = Path("/sbin/pyvfio-launcher")
FILES = {
    str(LAUNCHER_PATH.relative_to("/")): LAUNCHER,
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
}

DIRECTORY = CACHE / "arm64"


def key() -> str:
    """Return the key of the current lists in the cache."""
    return digest([SUITE, PACKAGES, NOT_UNPACKED, FILES])


def require_root() -> Path:
    """Download and unpack the packages, unless that has been done, and return the root's directory.

    :raises Problem: a package is not available
    """
    root = DIRECTORY / "root" / key()
    if not root.exists():
        with lock("arm64-root"):
            if not root.exists():
                packages = _require_packages()
                with new_directory(root) as unfinished:
                    fill(unfinished, sorted(packages.glob("*.deb")))
    return root


def _require_packages() -> Path:
    packages = DIRECTORY / "packages" / key()
    if not packages.exists():
        say(f"getting {len(PACKAGES)} packages of {SUITE} for arm64, and what they depend on")
        with tempfile.TemporaryDirectory(prefix="pyvfio-apt-") as directory, new_directory(packages) as unfinished:
            apt = Apt(Path(directory), machine_source(Path(directory)), (SUITE, f"{SUITE}-updates"), "arm64")
            apt.update()
            apt.download_all(PACKAGES, unfinished)
    return packages


def fill(root: Path, debs: list[Path]) -> None:
    """Unpack packages into an empty directory, and add the files and directories that a machine needs.

    :raises Problem: a package cannot be unpacked
    """
    # base-files has the links from /bin to /usr/bin and the like, through which the others are unpacked.
    for deb in sorted(debs, key=lambda path: not path.name.startswith("base-files_")):
        if subprocess.run(["dpkg-deb", "-x", str(deb), str(root)], check=False).returncode:
            raise Problem(f"{deb} cannot be unpacked; remove {deb.parent} and try again")
    for name in NOT_UNPACKED:
        shutil.rmtree(root / name, ignore_errors=True)
    for directory in (MACHINE, PROJECT, PYCACHE):
        (root / directory.relative_to("/")).mkdir()
    for name, text in FILES.items():
        (root / name).write_text(text)
        (root / name).chmod(0o755 if text.startswith("#!") else 0o644)
    (root / "manifest").write_text("".join(f"{deb.stem}\n" for deb in debs))
