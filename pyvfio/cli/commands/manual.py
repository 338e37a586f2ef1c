# SPDX-License-Identifier: MIT
"""Print the manual page, in roff, as it follows from the parser. To read it: pyvfio manual | man -l -"""

from __future__ import annotations

from argparse import ArgumentParser

from pyvfio.cli import exit_code, manual_page
from pyvfio.cli.call import Call


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand: none."""


def execute(call: Call) -> int:
    """Print the page."""
    page = manual_page.page(call.parser())
    if call.out.json:
        call.out.document({"page": page})
    else:
        call.out.raw(page.rstrip())
    return exit_code.DONE
