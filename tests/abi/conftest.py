# SPDX-License-Identifier: MIT
from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

import pytest

from pyvfio._abi import ffi, lib
from tests.abi.abi import HEADERS, Abi, Declarations, extension

ROOT = Path(__file__).parents[2]
CACHE = Path.home() / ".cache" / "pyvfio" / "kernel"


def _release(headers: Path) -> tuple[int, ...]:
    """Return the kernel's release, as numbers, for headers in a directory of scripts/build_kernel."""
    return tuple(int(number) for number in re.findall(r"\d+", (headers.parent / "release").read_text()))


@pytest.fixture(scope="session")
def kernel_headers() -> Path:
    """The exported headers of the newest kernel for the VM: a directory like /usr/include."""
    if named := os.environ.get("PYVFIO_KERNEL_HEADERS"):
        return Path(named)
    built = [header.parent.parent for header in CACHE.glob("*/include/linux/vfio.h")]
    if not built:
        pytest.skip("no kernel headers: run scripts/build_kernel, or set PYVFIO_KERNEL_HEADERS to a directory")
    return max(built, key=_release)


@pytest.fixture(scope="session")
def kernel(kernel_headers: Path) -> Abi:
    """The declarations of the kernel's headers."""
    return Declarations(HEADERS, [kernel_headers]).measure()


@pytest.fixture(scope="session")
def ours() -> Abi:
    """The declarations of the built extension."""
    declarations = Declarations(("vfio.h", "iommufd.h"), [ROOT / "cdefs"], "#include <stdint.h>\n")
    return extension(ffi, lib, declarations)


@pytest.fixture(scope="session")
def excluded() -> set[str]:
    """The names that are intentionally left out."""
    lists = tomllib.loads((Path(__file__).parent / "excluded.toml").read_text())
    return {name for part in lists.values() for name in part["names"]}
