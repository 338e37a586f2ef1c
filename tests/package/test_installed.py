# SPDX-License-Identifier: MIT
"""The suites that need no machine, on what was installed and without the source of the package."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.package.conftest import Built, unpack
from tests.package.toolchain import TOOLCHAINS, Environment, Toolchain, run, wheels

SUITES = ("tests/unit", "tests/vectors", "tests/mock")
DEBIAN_12, UBUNTU_24_04, DEBIAN_13, OLD_SETUPTOOLS, OLD_CFFI, NEWEST = TOOLCHAINS


@pytest.mark.parametrize("toolchain", [DEBIAN_12, UBUNTU_24_04, NEWEST], ids=lambda toolchain: toolchain.python)
def test_the_suites_pass_on_the_wheel_that_is_uploaded(
    toolchain: Toolchain, repaired: Path, newest: Built, environment: Callable[[Toolchain], Environment], tmp_path: Path
) -> None:
    """The wheel is built with the newest cffi, and runs with the cffi of each Python, which may be older."""
    installed = environment(toolchain)
    installed.install("--no-deps", "--force-reinstall", repaired, wheels=repaired.parent)
    tests = unpack(newest.sdist, tmp_path)
    shutil.rmtree(tests / "pyvfio")

    where = run(installed.python, "-c", "import pyvfio; print(pyvfio.__file__)", cwd=tests)
    assert Path(where.strip()).is_relative_to(installed.path)
    run(installed.python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *SUITES, cwd=tests)


@pytest.mark.parametrize("toolchain", [DEBIAN_12, DEBIAN_13], ids=lambda toolchain: toolchain.name)
def test_the_suites_pass_in_the_unpacked_sdist(
    toolchain: Toolchain,
    build: Callable[[Toolchain], Built],
    environment: Callable[[Toolchain], Environment],
    tmp_path: Path,
) -> None:
    """The sdist is built in place, as packagers of distributions do before they run the tests."""
    python = environment(toolchain).python
    source = unpack(build(toolchain).sdist, tmp_path)
    run(python, "scripts/build_abi.py", cwd=source)
    run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pyvfio.pytest_plugin", *SUITES, cwd=source)


def test_a_wheel_of_the_oldest_cffi_works_with_the_newest(
    build: Callable[[Toolchain], Built], environment: Callable[[Toolchain], Environment], tmp_path: Path
) -> None:
    installed = environment(NEWEST)
    wheel = build(OLD_CFFI).wheel
    site = tmp_path / "site"
    run(installed.python, "-m", "pip", "install", "--no-index", "--no-deps", "--target", site, wheel, cwd=tmp_path)
    program = (
        "import pyvfio\n"
        "from pyvfio import _abi, mock\n"
        "kernel = mock.Kernel('amd')\n"
        "address = '0000:00:03.0'\n"
        "with pyvfio.host.bind(address, 'vfio-pci', kernel=kernel), pyvfio.open(address, kernel=kernel) as device:\n"
        "    print(hex(device.address_space.alloc(4096).size), _abi.lib.IOMMU_DESTROY)\n"
    )
    assert run(installed.python, "-c", program, cwd=tmp_path, PYTHONPATH=str(site)) == "0x1000 15232\n"


@pytest.mark.parametrize("toolchain", [DEBIAN_12, NEWEST], ids=lambda toolchain: toolchain.name)
def test_an_editable_install_uses_the_checkout(
    toolchain: Toolchain, checkout: Path, environment: Callable[[Toolchain], Environment], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(checkout, source)
    base = environment(toolchain)
    fresh = Environment(tmp_path / "venv", base.python)
    folder = wheels(toolchain.name, fresh, (*toolchain.tools, "pytest", "hypothesis", "numpy", "pyudev"))
    fresh.install(*toolchain.tools, "pyudev", wheels=folder)
    fresh.install("--no-deps", "--no-build-isolation", "--editable", source, wheels=folder)

    [extension] = (source / "pyvfio").glob("_abi.*.so")
    found = run(fresh.python, "-c", "from pyvfio import _abi; print(_abi.__file__)", cwd=tmp_path)
    assert found.strip() == str(extension)
