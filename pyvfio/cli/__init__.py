# SPDX-License-Identifier: MIT
"""The `pyvfio` command. :mod:`pyvfio.cli.program` is the entry; each subcommand is one file of :mod:`pyvfio.cli.commands`.

A subcommand's file has `HELP`, a line; `add_arguments(parser)`; and `execute(call)`, which returns the exit code: one of :mod:`pyvfio.cli.exit_code`.
Only the file of the subcommand that was asked for is loaded, so that the command starts quickly.
"""
