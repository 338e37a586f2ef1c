# SPDX-License-Identifier: MIT
"""Find the QEMU that runs the machines: the installed one, or another version in a private directory.

Another version is unpacked from Debian's packages, with all its libraries down to the C library. The packages are kept,
because backports drop old versions. The files are below ~/.cache/pyvfio/qemu:

    packages/VERSION/*.deb   QEMU and its dependencies; apt checked their signatures
    root/VERSION/            the same packages, unpacked
    newest                   symbolic link to the root of the version that was the newest at the last look
    devices/KEY.json         properties of devices, as one build of QEMU listed them

Such a QEMU is started through the dynamic loader in its own root, so it uses none of the host's libraries. Options and
environment variables point it to its own modules and firmware: QEMU refuses modules of another build, such as those of
the installed QEMU.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from vmtest.apt import Apt, Package, install, machine_source, suites_of_interest, version_key
from vmtest.cache import CACHE, lock, new_directory
from vmtest.problems import Problem, say

PROGRAM = "qemu-system-x86_64"
PACKAGE = "qemu-system-x86"
CHOICES = ("system", "10.0", "newest")
DIRECTORY = CACHE / "qemu"

# Directories that are removed from the root: 20 MB of files that QEMU does not read.
NOT_UNPACKED = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/info", "usr/share/lintian")
LOADER = "ld-linux-x86-64.so.2"
FIRMWARE = ("usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu")


@dataclass(frozen=True)
class Qemu:
    """A QEMU that can be started."""

    command: tuple[str, ...]
    """The program and its first arguments."""
    environment: dict[str, str] = field(compare=False)
    """Environment variables that it needs in addition to the caller's."""
    version: str
    """The version that it prints, such as 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)."""

    @property
    def release(self) -> tuple[int, ...]:
        """The upstream version, such as (11, 1, 3)."""
        return version_key(self.version.split()[0])

    def has_device(self, name: str) -> bool:
        """Whether this QEMU has `-device NAME`, built in or in an installed module."""
        return _properties(self, name) is not None

    def device_properties(self, name: str) -> frozenset[str]:
        """Return the names of the properties that `-device NAME,...` accepts.

        :raises Problem: this QEMU has no such device
        """
        properties = _properties(self, name)
        if properties is None:
            raise Problem(f"QEMU {self.version} has no device {name}")
        return properties


def require_qemu(choice: str = "system", *, update: bool = False) -> Qemu:
    """Return a QEMU. If necessary, install or download it first.

    :param choice: `system` for the installed one; otherwise a package from the suites of interest and their backports:
        with `newest` the newest, with a version such as `10.0` the newest of that version
    :param update: ask the mirror for a newer package even if one has been downloaded
    :raises Missing: `system` is not installed, and the user is not root
    :raises Problem: the package is not available, or does not run on this machine
    """
    if choice == "system":
        return installed()
    if choice != "newest" and not re.fullmatch(r"\d+\.\d+", choice):
        raise Problem(f"{choice!r} is no choice of QEMU; choose system, newest or a version such as 10.0")
    if not update and (root := _finished(choice)):
        return _in_root(root)
    with lock("qemu"):
        # Look again: another process may have unpacked it while this one waited.
        if not update and (root := _finished(choice)):
            return _in_root(root)
        return _in_root(_get(choice))


def installed(program: str = PROGRAM, package: str = PACKAGE) -> Qemu:
    """Return the installed QEMU of an architecture. If it is missing, install its package.

    :raises Missing: it is not installed, and the user is not root
    """
    if (path := shutil.which(program)) is None:
        install(package)
        path = shutil.which(program)
    if path is None:
        raise Problem(f"{program} is not on the PATH, though {package} is installed")
    return Qemu((path,), {}, _version((path,), {}))


def _version(command: tuple[str, ...], environment: dict[str, str]) -> str:
    result = subprocess.run(
        [*command, "--version"], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    if match := re.match(r"QEMU emulator version (.*)", result.stdout):
        return match[1].strip()
    raise Problem(f"{command[-1]} does not run: {result.stderr.strip() or f'exit code {result.returncode}'}")


# --- a QEMU in its own root ---------------------------------------------------------------------------------------------


def matches(choice: str, version: str) -> bool:
    """Whether a package version, such as 1:10.0.13+ds-0+deb13u1, matches a choice such as 10.0."""
    upstream = version.partition(":")[2] or version
    return choice == "newest" or re.match(re.escape(choice) + r"(?!\d)", upstream) is not None


def directory_name(version: str) -> str:
    """Return a package's version without its epoch: a colon is not possible in lists of paths."""
    return version.rpartition(":")[2]


def _finished(choice: str) -> Path | None:
    if choice == "newest":
        root = (DIRECTORY / "newest").resolve()
        return root if root.is_dir() else None
    roots = [path for path in (DIRECTORY / "root").glob("*") if is_complete(path) and matches(choice, path.name)]
    return max(roots, key=lambda path: version_key(path.name), default=None)


def is_complete(path: Path) -> bool:
    return path.suffix != ".unfinished"


def _get(choice: str) -> Path:
    """Find, download and unpack the newest package of a choice."""
    with tempfile.TemporaryDirectory(prefix="pyvfio-apt-") as directory:
        apt, package = _find(choice, Path(directory))
        name = directory_name(package.version)
        packages, root = DIRECTORY / "packages" / name, DIRECTORY / "root" / name
        if not packages.exists():
            say(f"getting QEMU {name} and its libraries from {package.suite}")
            with new_directory(packages) as unfinished:
                apt.download_with_dependencies(package, unfinished)
    if not root.exists():
        with new_directory(root) as unfinished:
            _unpack(packages, unfinished)
            _in_root(unfinished)
    if choice == "newest":
        link = DIRECTORY / "newest.new"
        link.unlink(missing_ok=True)
        link.symlink_to(Path("root", name))
        link.rename(DIRECTORY / "newest")
    return root


def _find(choice: str, directory: Path) -> tuple[Apt, Package]:
    source = machine_source(directory)
    found = []
    # Search each release separately, because the libraries must come from the release for which QEMU was built.
    for suite in suites_of_interest():
        private = directory / suite
        private.mkdir()
        apt = Apt(private, source, (suite, f"{suite}-updates", f"{suite}-backports"))
        apt.update()
        found += [(apt, package) for package in apt.packages(f"^{PACKAGE}$")]
    fitting = [(apt, package) for apt, package in found if matches(choice, package.version)]
    if not fitting:
        offered = ", ".join(sorted({package.version for _, package in found})) or "none at all"
        raise Problem(f"no package of QEMU {choice}; {source.uri} offers {offered}")
    return max(fitting, key=lambda pair: version_key(pair[1].version))


def _unpack(packages: Path, root: Path) -> None:
    for deb in sorted(packages.glob("*.deb")):
        if subprocess.run(["dpkg-deb", "-x", str(deb), str(root)], check=False).returncode:
            raise Problem(f"{deb} cannot be unpacked; remove {packages} and try again")
    for name in NOT_UNPACKED:
        shutil.rmtree(root / name, ignore_errors=True)


def _in_root(root: Path) -> Qemu:
    libraries = [path for name in ("usr/lib", "lib") if (path := root / name / "x86_64-linux-gnu").is_dir()]
    loader = next((path / LOADER for path in libraries if (path / LOADER).is_file()), None)
    if loader is None:
        raise Problem(f"{root} has no {LOADER}; remove it and try again")
    command = [str(loader), "--inhibit-cache", "--library-path", ":".join(map(str, libraries)), "--argv0", PROGRAM]
    command.append(str(root / "usr" / "bin" / PROGRAM))
    for name in FIRMWARE:
        if (root / name).is_dir():
            command += ["-L", str(root / name)]
    modules = next((path / "qemu" for path in libraries if (path / "qemu").is_dir()), root)
    environment = {"QEMU_MODULE_DIR": str(modules)}
    return Qemu(tuple(command), environment, _version(tuple(command), environment))


# --- its devices --------------------------------------------------------------------------------------------------------


@functools.cache
def _properties(qemu: Qemu, device: str) -> frozenset[str] | None:
    """Return a device's properties, from the cache or by asking QEMU; None if this QEMU has no such device."""
    known_to = DIRECTORY / "devices" / f"{_identity(qemu)}.json"
    known: dict[str, list[str] | None] = json.loads(known_to.read_text()) if known_to.exists() else {}
    if device not in known:
        known[device] = _ask_properties(qemu, device)
        known_to.parent.mkdir(parents=True, exist_ok=True)
        unfinished = known_to.with_name(f"{known_to.name}.{os.getpid()}")
        unfinished.write_text(json.dumps(known, indent=1) + "\n")
        unfinished.rename(known_to)
    names = known[device]
    return None if names is None else frozenset(names)


def _identity(qemu: Qemu) -> str:
    """Return a key for this build of QEMU. Another build of the same version may have other devices."""
    program = next(
        path for path in map(Path, qemu.command) if path.name.startswith("qemu-system-") and path.is_absolute()
    )
    stat = program.stat()
    return hashlib.sha256(f"{qemu.version} {program} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:16]


def _ask_properties(qemu: Qemu, device: str) -> list[str] | None:
    """Ask QEMU by QMP.

    (`-device help` would load every module, and a QEMU in its own root aborts at modules of the installed one.)
    """
    requests = (
        {"execute": "qmp_capabilities"},
        {"execute": "device-list-properties", "arguments": {"typename": device}},
        {"execute": "quit"},
    )
    result = subprocess.run(
        [
            *qemu.command,
            "-machine",
            "none",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-S",
            "-qmp",
            "stdio",
        ],
        input="".join(f"{json.dumps(request)}\n" for request in requests),
        env=os.environ | qemu.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    replies = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    answers = [reply for reply in replies if "return" in reply or "error" in reply]
    # A QEMU in its own root aborts here if it finds the device only in a module of the installed QEMU.
    if len(answers) == 1 and result.returncode == -signal.SIGABRT:
        return None
    if len(answers) < 2:
        raise Problem(f"QEMU {qemu.version} does not answer: {result.stderr.strip() or result.stdout.strip()}")
    if "error" in answers[1]:
        return None
    return sorted(entry["name"] for entry in answers[1]["return"])
