# SPDX-License-Identifier: MIT
"""The extension: it compiles without a warning, and its types are those of the stub. tests/package has the builds."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pyvfio._abi import ffi, lib

ROOT = Path(__file__).parents[2]


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
