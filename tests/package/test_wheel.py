# SPDX-License-Identifier: MIT
"""The wheel as it would be uploaded, and two builds of the same source."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.package.conftest import Built, build_wheel
from tests.package.toolchain import TOOLCHAINS, Environment, Toolchain, run


def test_the_wheel_is_a_manylinux_wheel(repaired: Path) -> None:
    """Of glibc 2.17, which is older than every supported Python's."""
    assert re.fullmatch(r"pyvfio-[\d.]+-cp311-abi3-manylinux2014_\w+\.manylinux_2_17_\w+\.whl", repaired.name)


def test_the_wheel_keeps_to_the_stable_abi(audit: Environment, repaired: Path) -> None:
    output = run(audit.python.parent / "abi3audit", "--strict", "--summary", repaired, cwd=repaired.parent)
    assert "2 extensions scanned; 0 ABI version mismatches and 0 ABI violations" in " ".join(output.split())


@pytest.mark.parametrize("toolchain", [TOOLCHAINS[0], TOOLCHAINS[-1]], ids=lambda toolchain: toolchain.name)
def test_two_builds_give_the_same_bytes(
    toolchain: Toolchain,
    build: Callable[[Toolchain], Built],
    environment: Callable[[Toolchain], Environment],
    tmp_path: Path,
) -> None:
    """pip unpacks the sdist into another folder each time."""
    python = environment(toolchain).python
    digests = set()
    for name in ("one", "two"):
        build_wheel(python, build(toolchain).sdist, tmp_path / name, SOURCE_DATE_EPOCH="1700000000")
        [wheel] = (tmp_path / name).iterdir()
        digests.add(hashlib.sha256(wheel.read_bytes()).hexdigest())
    assert len(digests) == 1


def test_two_sdists_are_the_same_bytes(
    checkout: Path, environment: Callable[[Toolchain], Environment], tmp_path: Path
) -> None:
    """The second is made of a copy whose files are newer."""
    python = environment(TOOLCHAINS[-1]).python
    build = "import sys, setuptools.build_meta as backend; print(backend.build_sdist(sys.argv[1]))"
    digests = set()
    for name in ("one", "two"):
        shutil.copytree(checkout, tmp_path / f"source-{name}", copy_function=shutil.copy)
        (tmp_path / name).mkdir()
        run(python, "-c", build, tmp_path / name, cwd=tmp_path / f"source-{name}", SOURCE_DATE_EPOCH="1700000000")
        [sdist] = (tmp_path / name).iterdir()
        digests.add(hashlib.sha256(sdist.read_bytes()).hexdigest())
    assert len(digests) == 1
