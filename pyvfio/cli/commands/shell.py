# SPDX-License-Identifier: MIT
"""Open a device and start Python with it: `device`, `regions`, `bar0`, `config`, `irqs`, `space`, and `step("peek bar0 0")`.

Standard input that is no terminal is run as a Python program. The device is closed at the end."""

from __future__ import annotations

import code
import sys
from argparse import ArgumentParser
from typing import TYPE_CHECKING, Any

import pyvfio
from pyvfio.cli import addresses, exit_code, session, steps
from pyvfio.cli.call import Call

if TYPE_CHECKING:
    from pyvfio import Device


def add_arguments(parser: ArgumentParser) -> None:
    """Add the arguments of the subcommand."""
    addresses.add_address(parser)
    parser.add_argument("-c", "--code", metavar="CODE", help="run this Python code, and end")
    session.add_options(parser)


def execute(call: Call) -> int:
    """Run the shell."""
    with session.opened(call) as device:
        names = _names(device)
        if call.arguments.code is not None:
            exec(compile(call.arguments.code, "-c", "exec"), names)
        elif not sys.stdin.isatty():
            exec(compile(sys.stdin.read(), "stdin", "exec"), names)
        else:
            _interact(device, names)
    return exit_code.DONE


def _names(device: Device) -> dict[str, Any]:
    """Return the names that the shell defines: the device and its parts."""
    made = steps.Session(device)

    def step(line: str) -> dict[str, Any] | None:
        """Make a step of `pyvfio run`, print its text and return its result."""
        done = made.run(line)
        if done is None:
            return None
        if done.text:
            print(done.text)
        return done.document

    names: dict[str, Any] = {
        "__name__": "__main__",
        "pyvfio": pyvfio,
        "device": device,
        "regions": device.regions,
        "irqs": device.irqs,
        "space": device.address_space,
        "step": step,
    }
    if device.info.is_pci:
        names["config"] = device.config
        bars = [device.regions[index] for index in range(6)]
        names |= {bar.name.lower(): bar for bar in bars if bar.size}
    return names


def _interact(device: Device, names: dict[str, Any]) -> None:
    try:
        import readline  # importing it turns on line editing and completion
        import rlcompleter

        readline.set_completer(rlcompleter.Completer(names).complete)
        readline.parse_and_bind("tab: complete")
    except ImportError:
        pass
    shown = ", ".join(name for name in names if name[0] != "_")
    banner = f"{device!r}\nnames: {shown}; bus master is off; Ctrl-D closes the device"
    code.interact(banner=banner, local=names, exitmsg="")
