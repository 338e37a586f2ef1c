# SPDX-License-Identifier: MIT
"""Print the completions of bash, zsh, fish or tcsh, which shtab (extra `cli`) makes from the parser. For bash and fish:

pyvfio completion bash > ~/.local/share/bash-completion/completions/pyvfio
pyvfio completion fish > ~/.config/fish/completions/pyvfio.fish"""

from __future__ import annotations

from argparse import ArgumentParser

from pyvfio.cli import exit_code
from pyvfio.cli.call import Call
from pyvfio.errors import Unsupported

SHELLS = ("bash", "zsh", "fish", "tcsh")


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    parser.add_argument("shell", metavar="SHELL", choices=SHELLS, help=f"one of {', '.join(SHELLS)}")


def execute(call: Call) -> int:
    """Print the completions."""
    try:
        import shtab
    except ImportError:
        raise Unsupported("completions are made by shtab: pip install 'pyvfio[cli]'") from None
    if call.arguments.shell not in shtab.SUPPORTED_SHELLS:
        raise Unsupported(
            f"shtab {shtab.__version__} does not know {call.arguments.shell}: pip install --upgrade shtab"
        )
    script: str = shtab.complete(call.parser(), call.arguments.shell)
    if call.out.json:
        call.out.document({"shell": call.arguments.shell, "script": script})
    else:
        call.out.raw(script)
    return exit_code.DONE
