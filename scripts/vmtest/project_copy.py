# SPDX-License-Identifier: MIT
"""A copy of the project in another folder, so that what is tried there touches nothing here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from vmtest.environment import ROOT


def copy_project(folder: Path, *, built: bool = True) -> Path:
    """Copy every file that git tracks or would track into a folder, with the built extensions if wanted, and return it."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    names = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    if built:
        names += [str(path.relative_to(ROOT)) for path in (ROOT / "pyvfio").glob("*.so")]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder
