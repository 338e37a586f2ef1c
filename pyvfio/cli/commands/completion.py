# SPDX-License-Identifier: MIT
"""Print the completions of bash, zsh or tcsh, which shtab (extra `cli`) makes from the parser. For bash:

pyvfio completion bash > ~/.local/share/bash-completion/completions/pyvfio"""

from __future__ import annotations

from argparse import ArgumentParser

from pyvfio.cli import exit_code
from pyvfio.cli.call import Call
from pyvfio.errors import Unsupported


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("shell", metavar="SHELL", choices=("bash", "zsh", "tcsh"), help="bash, zsh or tcsh")


def execute(call: Call) -> int:
    """Print the completions."""
    try:
        import shtab
    except ImportError:
        raise Unsupported("completions are made by shtab: pip install 'pyvfio[cli]'") from None
    script: str = shtab.complete(call.parser(), call.arguments.shell)
    if call.out.json:
        call.out.document({"shell": call.arguments.shell, "script": script})
    else:
        call.out.raw(script)
    return exit_code.DONE
