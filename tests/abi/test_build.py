"""From the checkout to an installed package, without the network."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import _cffi_backend
import pytest

from pyvfio._abi import ffi, lib

ROOT = Path(__file__).parents[2]
SHIPPED = (
    "LICENSES",
    "cdefs",
    "pyvfio",
    "scripts",
    "CHANGELOG.md",
    "LICENSE",
    "MANIFEST.in",
    "README.md",
    "pyproject.toml",
    "setup.py",
)


def run(*command: object, cwd: Path) -> str:
    result = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.fixture(scope="module")
def build_abi() -> Any:
    spec = importlib.util.spec_from_file_location("build_abi", ROOT / "scripts" / "build_abi.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_our_c_compiles_without_a_warning(build_abi: Any, tmp_path: Path) -> None:
    (tmp_path / "unit.c").write_text(build_abi.source())

    run("gcc", "-Wall", "-Wextra", "-Werror", "-O2", f"-I{ROOT / 'cdefs'}", "-c", "unit.c", cwd=tmp_path)


def test_the_types_are_those_of_the_extension(build_abi: Any) -> None:
    hint = "pyvfio/_abi.pyi or the extension is out of date: run scripts/build_abi.py"

    assert (ROOT / "pyvfio" / "_abi.pyi").read_text() == build_abi.stub(ffi, lib), hint


@pytest.mark.slow
def test_a_misspelt_name_of_c_is_found_by_mypy(tmp_path: Path) -> None:
    (tmp_path / "misspelt.py").write_text(
        "from pyvfio._abi import ffi, lib\n"
        "lib.VFIO_TYPE1v2_IOMMU + lib.IOMMU_DESTROY\n"
        "lib.VFIO_TYPE2_IOMMU\n"
        "lib.pyvfio_ioctl(ffi.NULL)\n"
        "lib.VFIO_API_VERSION = 1\n"
        'ffi.new("struct vfio_device_info *", {"argsz": 4})[0].argsz\n'
        'ffi.new("struct vfio_device_info *").arsgz\n'
        'ffi.cast("struct iommu_ioas_map *", 0).iova\n'
        'ffi.cast("struct iommu_ioas_map *", 0).ivoa = 1\n'
    )
    mypy = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "misspelt.py"]
    path = {"MYPYPATH": str(ROOT)}

    found = subprocess.run(mypy, cwd=tmp_path, env=path, capture_output=True, text=True, check=False)

    assert re.findall(r"misspelt.py:(\d+): error: .*\[([\w-]+)\]", found.stdout) == [
        ("3", "attr-defined"),
        ("4", "call-arg"),
        ("5", "misc"),
        ("7", "attr-defined"),
        ("9", "attr-defined"),
    ]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What git has of the package, and nothing that was built."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in SHIPPED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
        elif (ROOT / name).exists():
            shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def sdist(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sdist")
    program = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    run(sys.executable, "-W", "ignore", "-c", program, out, cwd=checkout)
    [archive] = out.iterdir()
    return archive


class Wheel:
    def __init__(self, sdist: Path, out: Path) -> None:
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--no-index", "--no-deps"]
        self.log = run(*pip, "--no-build-isolation", "--verbose", "--wheel-dir", out, sdist, cwd=out)
        [self.path] = out.iterdir()


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Wheel:
    """Built from the sdist alone."""
    return Wheel(sdist, tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_the_sdist_has_all_that_a_build_reads(sdist: Path, checkout: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}

    cdefs = {f"cdefs/{path.name}" for path in (checkout / "cdefs").iterdir()}
    modules = {str(path.relative_to(checkout)) for path in (checkout / "pyvfio").rglob("*.py*")}
    assert cdefs | modules | {"LICENSE", "pyproject.toml", "scripts/build_abi.py", "pyvfio/py.typed"} <= names


@pytest.mark.slow
def test_the_wheel_is_for_every_cpython_from_3_11_on(wheel: Wheel) -> None:
    if sysconfig.get_config_var("Py_GIL_DISABLED") or sysconfig.get_config_var("Py_DEBUG"):
        pytest.skip("this interpreter has no stable ABI, so its wheels are for itself")

    assert re.fullmatch(r"pyvfio-[\d.]+-cp311-abi3-linux_\w+\.whl", wheel.path.name)
    assert {"pyvfio/_abi.abi3.so", "pyvfio/_buffer.abi3.so"} <= set(zipfile.ZipFile(wheel.path).namelist())


@pytest.mark.slow
def test_the_wheel_has_the_package_with_its_types_and_nothing_else(wheel: Wheel, checkout: Path) -> None:
    names = set(zipfile.ZipFile(wheel.path).namelist())

    modules = {str(path.relative_to(checkout)) for path in (checkout / "pyvfio").rglob("*.py*")}
    others = {name for name in names - modules if not re.match(r"pyvfio-[\d.]+\.dist-info/", name)}
    assert modules | {"pyvfio/py.typed"} <= names
    assert {re.sub(r"\..*\.so$", ".so", name) for name in others} == {
        "pyvfio/_abi.so",
        "pyvfio/_buffer.so",
        "pyvfio/py.typed",
    }


@pytest.mark.slow
def test_the_extension_is_optimised_whatever_the_interpreter_was_built_with(wheel: Wheel) -> None:
    [compilation] = re.findall(r"^.* -c \S*_abi\.c .*$", wheel.log, re.MULTILINE)

    assert re.findall(r" -O\w+", compilation)[-1] == " -O2"


@pytest.mark.slow
def test_the_installed_wheel_works_without_the_checkout(wheel: Wheel, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel.path) as archive:
        archive.extractall(tmp_path)
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from pyvfio import _abi\n"
        "assert _abi.__file__.startswith(sys.argv[1]), _abi.__file__\n"
        "print(_abi.lib.IOMMU_DESTROY, _abi.ffi.sizeof('struct vfio_region_info'))\n"
    )

    assert run(sys.executable, "-c", program, tmp_path, cwd=tmp_path) == "15232 32\n"


@pytest.mark.slow
def test_an_editable_install_uses_the_checkout(checkout: Path, tmp_path: Path) -> None:
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--no-index",
        "--no-deps",
        "--ignore-installed",
    ]
    run(*pip, "--no-build-isolation", "--prefix", tmp_path, "--editable", checkout, cwd=tmp_path)

    [extension] = (checkout / "pyvfio").glob("_abi.*.so")
    [site] = tmp_path.glob("lib*/python*/site-packages")
    program = (
        "import site, sys; site.addsitedir(sys.argv[1]); sys.path.append(sys.argv[2])\n"
        "from pyvfio import _abi; print(_abi.__file__)\n"
    )
    dependencies = Path(_cffi_backend.__file__).parent  # appended bare: no other editable install comes with it
    assert run(sys.executable, "-I", "-S", "-c", program, site, dependencies, cwd=tmp_path) == f"{extension}\n"
