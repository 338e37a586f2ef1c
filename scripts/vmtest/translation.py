# SPDX-License-Identifier: MIT
"""Compile check_translation.c, which process 1 runs before the command to check that the IOMMU translates."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from vmtest.apt import install
from vmtest.cache import CACHE, lock, new_directory
from vmtest.exit_code import ExitCode, MachineError

SOURCE = Path(__file__).with_name("check_translation.c")
COMPILER = "gcc"
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror")

# The device that the check uses: edu, alone in its group.
DEVICE = "0000:00:03.0"


def require_check(cache: Path = CACHE, compiler: str = COMPILER, *flags: str) -> Path:
    """Return the compiled program.

    It is kept below `cache` under a key made from its source, the compiler and the flags.

    :param compiler: a compiler for the guest's processor
    :param flags: additional flags of the compiler
    :raises Missing: there is no compiler, and the user is not root
    :raises MachineError: the program does not compile
    """
    if shutil.which(compiler) is None:
        install("gcc", "libc6-dev")
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    key = hashlib.sha256("\0".join([SOURCE.read_text(), version, *FLAGS, *flags]).encode()).hexdigest()[:16]
    directory = cache / "check_translation" / key
    program = directory / "check_translation"
    if not program.exists():
        with lock("check_translation"):
            if not program.exists():
                with new_directory(directory) as unfinished:
                    _compile(unfinished / program.name, [compiler, *FLAGS, *flags])
    return program


def _compile(program: Path, command: Sequence[str]) -> None:
    result = subprocess.run(
        [*command, "-o", str(program), str(SOURCE)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode:
        raise MachineError(f"{SOURCE.name} does not compile:\n{result.stdout}", ExitCode.CANNOT_RUN)
