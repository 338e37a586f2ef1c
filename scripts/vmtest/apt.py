# SPDX-License-Identifier: MIT
"""Install Debian packages on this machine, or download them from suites that the machine does not use.

`Apt` runs apt-get with separate sources, lists and archives. It uses the machine's mirror and keyring, so apt checks
the signatures. It uses none of the machine's other sources, changes nothing of the machine's apt, and does not need
root.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from vmtest.problems import Missing, Problem, say

# Suites to search in addition to the machine's own release. The newest release's backports have the newest kernel and
# QEMU.
SUITES = ("stable", "trixie", "bookworm")


class AptSource(NamedTuple):
    """A mirror, and the options in brackets of its line in sources.list."""

    uri: str
    options: str


class Package(NamedTuple):
    """A binary package in a suite."""

    name: str
    version: str
    suite: str


def version_key(version: str) -> tuple[int, ...]:
    """Return the numbers in a version as a sort key among versions of the same package."""
    return tuple(int(number) for number in re.findall(r"\d+", version))


def suites_of_interest() -> tuple[str, ...]:
    """Return the machine's own release and SUITES, each once."""
    return tuple(dict.fromkeys((machine_codename(), *SUITES)))


# --- the machine's own apt ----------------------------------------------------------------------------------------------


def install(*packages: str) -> None:
    """Install those of the packages that are missing.

    :raises Missing: the user is not root, or the system is not Debian. The text names the command to run as root.
    """
    for tool in ("dpkg-query", "apt-get"):
        if shutil.which(tool) is None:
            raise Missing(f"{tool} not found; packages are installed on Debian only. Install: {' '.join(packages)}")
    missing = [package for package in packages if not is_installed(package)]
    if not missing:
        return
    if os.geteuid() != 0:
        raise Missing(f"packages are missing; as root run: apt-get install {' '.join(missing)}")
    say(f"installing {' '.join(missing)}")
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *missing]
    quiet = subprocess.run(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
    ).returncode
    if quiet:
        # The lists may be absent (a fresh container) or too old to name files that still exist.
        subprocess.run(["apt-get", "update", "-qq"], stdout=sys.stderr, check=False)
        if subprocess.run(command, env=environment, stdout=sys.stderr, check=False).returncode:
            raise Missing(f"could not install {' '.join(missing)}")


def is_installed(package: str) -> bool:
    query = ["dpkg-query", "-W", "-f", "${Status}", package]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.endswith(" installed")


def machine_codename() -> str:
    """Return the codename of the machine's release, such as bookworm."""
    for line in Path("/etc/os-release").read_text().splitlines():
        if line.startswith("VERSION_CODENAME="):
            return line.partition("=")[2].strip('"')
    return "stable"


def machine_source(directory: Path) -> AptSource:
    """Return the mirror and keyring of the machine's own release.

    :param directory: where to write a keyring that is embedded in a .sources file
    :raises Missing: the machine has no apt source for its release
    """
    codename = machine_codename()
    folder = Path("/etc/apt/sources.list.d")
    for path in sorted(folder.glob("*.sources")):
        if source := parse_deb822(path.read_text(), codename, directory / "keyring.asc"):
            return source
    for path in [Path("/etc/apt/sources.list"), *sorted(folder.glob("*.list"))]:
        if path.exists() and (source := parse_one_line_style(path.read_text(), codename)):
            return source
    raise Missing(f"no apt source of {codename} on this machine: kernels and QEMUs are taken from Debian's packages")


def parse_deb822(text: str, suite: str, keyring: Path) -> AptSource | None:
    """Return the first enabled source of a suite in a .sources file. An embedded keyring is written to `keyring`."""
    for stanza in re.split(r"\n\s*\n", text):
        lines = "\n".join(line for line in stanza.splitlines() if not line.startswith("#"))
        fields = {name.lower(): value for name, value in re.findall(r"^([\w-]+):((?:.*)(?:\n[ \t].*)*)", lines, re.M)}
        if fields.get("enabled", "yes").strip() == "no" or suite not in fields.get("suites", "").split():
            continue
        options = []
        if key := fields.get("signed-by", "").strip():
            if key.startswith("-----BEGIN"):
                unfolded = [line.removeprefix(" ") for line in key.splitlines()]
                keyring.write_text("\n".join("" if line.strip() == "." else line for line in unfolded) + "\n")
                key = str(keyring)
            options.append(f"signed-by={','.join(key.split())}")
        if trusted := fields.get("trusted", "").strip():
            options.append(f"trusted={trusted}")
        return AptSource(fields["uris"].split()[0], " ".join(options))
    return None


def parse_one_line_style(text: str, suite: str) -> AptSource | None:
    """Return the first source of a suite in a sources.list."""
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[(.*?)\]\s+)?(\S+)\s+(\S+)\s", line + " ")
        if match and match[3] == suite:
            kept = [option for option in (match[1] or "").split() if option.startswith(("signed-by=", "trusted="))]
            return AptSource(match[2], " ".join(kept))
    return None


# --- an apt of our own --------------------------------------------------------------------------------------------------


class Apt:
    """apt with a separate list of sources, so that the machine's is neither used nor changed.

    :param directory: directory for apt's lists; only one object at a time may use it
    :param suites: suites such as trixie-backports; suites that the mirror does not have are skipped
    :param architecture: Debian's name of an architecture other than the machine's own, such as arm64
    """

    def __init__(
        self, directory: Path, source: AptSource, suites: tuple[str, ...], architecture: str | None = None
    ) -> None:
        (directory / "lists" / "partial").mkdir(parents=True, exist_ok=True)
        self.source = source
        options = f"[{source.options}] " if source.options else ""
        sources = directory / "sources.list"
        sources.write_text("".join(f"deb {options}{source.uri} {suite} main\n" for suite in suites))
        # An empty status file: no package counts as installed, so all dependencies of a package are downloaded with it.
        status = directory / "status"
        status.write_text("")
        self._settings: list[str] = []
        for setting in (
            f"Dir::Etc::SourceList={sources}",
            "Dir::Etc::SourceParts=/dev/null",
            "Dir::Etc::PreferencesParts=/dev/null",
            f"Dir::State::Lists={directory / 'lists'}",
            f"Dir::State::status={status}",
            f"Dir::State::extended_states={directory / 'extended_states'}",
            "Dir::Cache::pkgcache=",
            "Dir::Cache::srcpkgcache=",
            "APT::Sandbox::User=",
            "Acquire::Languages=none",
            "Acquire::Retries=3",
        ):
            self._settings += ["-o", setting]
        if architecture:
            self._settings += ["-o", f"APT::Architecture={architecture}", "-o", f"APT::Architectures={architecture}"]

    def update(self) -> None:
        """Download the lists of packages."""
        # If the mirror lacks a suite, apt-get update fails, but only after it has fetched the other suites.
        subprocess.run(
            ["apt-get", *self._settings, "-qq", "update"], stdout=sys.stderr, stderr=subprocess.DEVNULL, check=False
        )

    def packages(self, pattern: str) -> list[Package]:
        """Return the packages whose name matches a regular expression, the newest last."""
        found = self._ask("--names-only", "search", pattern)
        names = [line.split()[0] for line in found.splitlines()]
        return parse_madison(self._ask("madison", *names)) if names else []

    def _ask(self, *arguments: str) -> str:
        command = ["apt-cache", *self._settings, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def download(self, package: Package, directory: Path) -> Path:
        """Download one package to a directory, and remove its older versions there."""
        with tempfile.TemporaryDirectory(dir=directory) as fresh:
            self._get(["-q", "download", f"{package.name}={package.version}"], Path(fresh))
            deb = next(Path(fresh).glob("*.deb"))
            for old in directory.glob(f"{package.name}_*.deb"):
                old.unlink()
            return deb.rename(directory / deb.name)

    def download_with_dependencies(self, package: Package, directory: Path) -> None:
        """Download a package and all its dependencies, down to the C library."""
        self.download_all(["-t", package.suite, f"{package.name}={package.version}"], directory)

    def download_all(self, words: Sequence[str], directory: Path) -> None:
        """Download packages and all their dependencies, down to the C library.

        :param words: the packages, as for `apt-get install`
        """
        (directory / "partial").mkdir()
        options = ["-qq", "-y", "--no-install-recommends", "--download-only"]
        archives = ["-o", f"Dir::Cache::archives={directory}"]
        self._get([*options, *archives, "install", *words], directory)
        (directory / "lock").unlink(missing_ok=True)
        (directory / "partial").rmdir()

    def _get(self, arguments: list[str], directory: Path) -> None:
        command = ["apt-get", *self._settings, *arguments]
        if subprocess.run(command, cwd=directory, stdout=sys.stderr, check=False).returncode:
            raise Problem(f"apt-get could not download {arguments[-1]} from {self.source.uri}")


def parse_madison(text: str) -> list[Package]:
    """Return the packages in the output of `apt-cache madison`, the newest last."""
    packages = []
    for line in text.splitlines():
        name, version, where = (field.strip() for field in line.split("|"))
        _, suite_and_component, _ = where.split(maxsplit=2)
        packages.append(Package(name, version, suite_and_component.rpartition("/")[0]))
    return sorted(packages, key=lambda package: version_key(package.version))
