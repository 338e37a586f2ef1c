# SPDX-License-Identifier: MIT
"""Builds: for each toolchain its environment, an sdist of the checkout, and a wheel of that sdist."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.package.toolchain import AUDIT, SUITES, TOOLCHAINS, Environment, Toolchain, interpreter, run, wheels

ROOT = Path(__file__).parents[2]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slow)


class Built(NamedTuple):
    """The sdist and the wheel that one toolchain makes of the checkout."""

    toolchain: Toolchain
    sdist: Path
    wheel: Path
    log: str


def found(version: str) -> Path:
    """Return the interpreter of that version, or skip the test."""
    python = interpreter(version)
    if python is None:
        pytest.skip(f"Python {version} is not here; install it with pyenv or apt")
    return python


@pytest.fixture(scope="session")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git has, or of an unpacked sdist, without anything that was built."""
    copy = tmp_path_factory.mktemp("checkout")
    if (ROOT / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            check=True,
        )
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (ROOT / name).exists():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, copy / name)
    else:
        built = shutil.ignore_patterns("*.so", "*.py[co]", "__pycache__", "*.egg-info", "build", ".*", "PKG-INFO")
        shutil.copytree(ROOT, copy, ignore=built, dirs_exist_ok=True)
    return copy


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Toolchain], Environment]:
    """A virtual environment by toolchain: its tools, and what the suites need."""

    @cache
    def make(toolchain: Toolchain) -> Environment:
        python = found(toolchain.python)
        made = Environment(tmp_path_factory.mktemp(toolchain.name) / "venv", python)
        requirements = (*toolchain.tools, *SUITES)
        made.install(*requirements, wheels=wheels(toolchain.name, made, requirements))
        return made

    return make


@pytest.fixture(scope="session")
def build(
    environment: Callable[[Toolchain], Environment], checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Toolchain], Built]:
    """Build by toolchain, once: the sdist from the checkout, the wheel from the sdist."""

    @cache
    def make(toolchain: Toolchain) -> Built:
        python = environment(toolchain).python
        folder = tmp_path_factory.mktemp(f"{toolchain.name}-built")
        source = folder / "source"
        shutil.copytree(checkout, source)
        sdist = build_sdist(python, source, folder)
        log = build_wheel(python, sdist, folder / "wheels")
        [wheel] = (folder / "wheels").iterdir()
        return Built(toolchain, sdist, wheel, log)

    return make


def build_sdist(python: Path, source: Path, folder: Path) -> Path:
    """Build an sdist without isolation, as a frontend does it."""
    program = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run(python, "-c", program, folder, cwd=source)
    [sdist] = folder.glob("*.tar.gz")
    return sdist


def build_wheel(python: Path, source: Path, folder: Path, **variables: str) -> str:
    """Build a wheel without isolation, index or dependencies, and return pip's output."""
    folder.mkdir()
    pip = [python, "-m", "pip", "wheel", "--verbose", "--no-index", "--no-deps", "--no-build-isolation"]
    return run(*pip, "--wheel-dir", folder, source, cwd=folder, **variables)


@pytest.fixture(scope="session", params=TOOLCHAINS, ids=lambda toolchain: toolchain.name)
def built(request: pytest.FixtureRequest, build: Callable[[Toolchain], Built]) -> Built:
    """The build of each toolchain."""
    return build(request.param)


@pytest.fixture(scope="session")
def newest(build: Callable[[Toolchain], Built]) -> Built:
    """The build of the newest tools."""
    return build(TOOLCHAINS[-1])


@pytest.fixture(scope="session")
def repaired(newest: Built, audit: Environment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The newest tools' wheel as it would be uploaded: auditwheel has given it the manylinux tag."""
    folder = tmp_path_factory.mktemp("repaired")
    path = f"{audit.python.parent}:/usr/bin:/bin"
    run(audit.python.parent / "auditwheel", "repair", "--wheel-dir", folder, newest.wheel, cwd=folder, PATH=path)
    [wheel] = folder.iterdir()
    return wheel


@pytest.fixture(scope="session")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with auditwheel and abi3audit."""
    made = Environment(tmp_path_factory.mktemp("audit") / "venv", found("3.11"))
    made.install(*AUDIT, wheels=wheels("audit", made, AUDIT))
    return made


def unpack(sdist: Path, into: Path) -> Path:
    """Unpack an sdist and return its folder."""
    run("tar", "-xf", sdist, "-C", into, cwd=into)
    [folder] = into.iterdir()
    return folder
