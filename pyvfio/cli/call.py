# SPDX-License-Identifier: MIT
"""One call of a subcommand: its arguments, the kernel, and the output."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import NamedTuple

from pyvfio.cli.output import Output
from pyvfio.errors import Error
from pyvfio.kernel import Kernel


class UsageError(Exception):
    """The arguments are wrong in a way that argparse does not detect. The exit code is 2."""


class NothingFound(Error):
    """No device or other object that was asked for exists. The exit code is 3."""


class Call(NamedTuple):
    """One call of a subcommand.

    :ivar arguments: as argparse returned them
    :ivar kernel: the kernel to ask
    :ivar out: the output
    :ivar parser: returns the parser of the whole command
    """

    arguments: Namespace
    kernel: Kernel
    out: Output
    parser: Callable[[], ArgumentParser]
