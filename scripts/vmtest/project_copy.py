# SPDX-License-Identifier: MIT
"""Copy the project to another folder, so that experiments there do not change this one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from vmtest.environment import ROOT


def copy_project(folder: Path, *, built: bool = True) -> Path:
    """Copy every file that git tracks, or that is untracked and not ignored, into a folder. Return the folder.

    :param built: copy the built extensions too
    """
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
