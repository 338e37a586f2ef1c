# SPDX-License-Identifier: MIT
"""The contents and the metadata of the sdist and the wheel of every toolchain."""

from __future__ import annotations

import email
import re
import subprocess
import tarfile
import zipfile
from email.message import Message
from importlib.metadata import version
from pathlib import Path

import pyvfio
from tests.package.conftest import Built

#: Files in git that an sdist does not need.
NOT_SHIPPED = {".gitignore", ".ci/run"}


def sdist_names(built: Built) -> set[str]:
    with tarfile.open(built.sdist) as archive:
        return {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}


def sdist_metadata(built: Built) -> Message:
    with tarfile.open(built.sdist) as archive:
        file = archive.extractfile(f"pyvfio-{pyvfio.__version__}/PKG-INFO")
        assert file is not None
        return email.message_from_bytes(file.read())


def wheel_names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def wheel_metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        return email.message_from_bytes(archive.read(f"pyvfio-{pyvfio.__version__}.dist-info/METADATA"))


def licence(metadata: Message) -> str | None:
    """Return the field of PEP 639, or the one that older tools write."""
    return metadata["License-Expression"] or metadata["License"]


def test_the_version_has_one_source(built: Built) -> None:
    assert sdist_metadata(built)["Version"] == pyvfio.__version__
    assert wheel_metadata(built.wheel)["Version"] == pyvfio.__version__


def test_the_version_is_that_of_the_installed_package() -> None:
    assert version("pyvfio") == pyvfio.__version__


def test_the_sdist_has_what_the_checkout_has(built: Built, checkout: Path) -> None:
    there = {str(path.relative_to(checkout)) for path in checkout.rglob("*") if path.is_file()}
    assert there - NOT_SHIPPED - sdist_names(built) == set()


def test_the_sdist_has_nothing_that_was_built(built: Built) -> None:
    assert [name for name in sdist_names(built) if name.endswith((".so", ".pyc", ".o"))] == []


def test_the_sdist_names_both_licences_and_has_their_texts(built: Built) -> None:
    metadata = sdist_metadata(built)
    assert licence(metadata) == "MIT AND GPL-2.0-only"
    assert metadata.get_all("License-File") == ["LICENSE", "LICENSES/GPL-2.0-only.txt"]
    assert set(metadata.get_all("License-File", [])) <= sdist_names(built)


def test_the_wheel_is_mit_and_has_no_other_licence(built: Built) -> None:
    assert licence(wheel_metadata(built.wheel)) == "MIT"
    assert wheel_metadata(built.wheel).get_all("License-File") == ["LICENSE"]
    with zipfile.ZipFile(built.wheel) as archive:
        gpl = [name for name in archive.namelist() if re.search(rb"SPDX\S+ GPL|GNU GENERAL", archive.read(name))]
    assert gpl == []


def test_the_wheel_has_the_package_with_types_and_nothing_else(built: Built, checkout: Path) -> None:
    kinds = ("*.py", "*.pyi", "*.json")
    modules = {str(path.relative_to(checkout)) for kind in kinds for path in (checkout / "pyvfio").rglob(kind)}
    extensions = {"pyvfio/_abi.abi3.so", "pyvfio/_buffer.abi3.so"}
    package = {name for name in wheel_names(built.wheel) if not re.match(r"pyvfio-[\d.]+\.dist-info/", name)}
    data = {str(path.relative_to(checkout)) for path in (checkout / "pyvfio/cli/schemas").glob("*.json")}
    assert package == modules | extensions | data | {"pyvfio/py.typed", "pyvfio/conformance/pytest.ini"}


def test_the_wheel_is_for_every_cpython_from_3_11_on(built: Built) -> None:
    assert re.fullmatch(r"pyvfio-[\d.]+-cp311-abi3-linux_\w+\.whl", built.wheel.name)


def test_no_build_warns_of_what_a_later_setuptools_refuses(built: Built) -> None:
    # 66 calls all of [tool.setuptools] beta; that ended with 68.
    warnings = re.findall(r"^.*(?:[Dd]eprecat|[Ee]xperimental).*$", built.log, re.MULTILINE)
    assert [line for line in warnings if "pkg_resources" not in line] == []


def test_the_extension_is_optimised_for_every_interpreter(built: Built) -> None:
    [compilation] = re.findall(r"^.* -c \S*_abi\.c .*$", built.log, re.MULTILINE)
    assert re.findall(r" -O\w+", compilation)[-1] == " -O2"


def test_no_file_of_the_sdist_is_ignored_by_git(newest: Built, checkout: Path, tmp_path: Path) -> None:
    if not (checkout / ".gitignore").exists():
        return  # an unpacked sdist has none
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_bytes((checkout / ".gitignore").read_bytes())
    made = {"PKG-INFO", "setup.cfg"}
    names = [name for name in sdist_names(newest) - made if not name.startswith("pyvfio.egg-info/")]
    ignored = subprocess.run(
        ["git", "-C", str(tmp_path), "check-ignore", "--stdin"],
        input="\n".join(names),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ignored.stdout == ""
