# SPDX-License-Identifier: MIT
"""Find the Python versions on which pyvfio is tested."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

PYTHONS = ("3.11", "3.12", "3.13")


def find_python(version: str) -> Path | None:
    """Return a Python of a version such as 3.12 that can create virtual environments: from pyenv, or from PATH."""
    installed = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python{version}"))
    on_path = shutil.which(f"python{version}")
    found: list[Path] = [*reversed(installed), *([Path(on_path)] if on_path else [])]
    for python in found:
        script = f"import ensurepip, venv, sys; sys.exit('%d.%d' % sys.version_info[:2] != {version!r})"
        if subprocess.run([python, "-c", script], capture_output=True, check=False).returncode == 0:
            return python
    return None
