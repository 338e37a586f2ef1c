# SPDX-License-Identifier: MIT
"""The command `python -m pyvfio.tracing`."""

from __future__ import annotations

import argparse
import sys

from pyvfio.kernels import named
from pyvfio.tracing import Replay, load


def main(arguments: list[str] | None = None) -> int:
    """The command `python -m pyvfio.tracing`."""
    parser = argparse.ArgumentParser(prog="python -m pyvfio.tracing", description="Traces of requests.")
    commands = parser.add_subparsers(dest="command", required=True)
    replay = commands.add_parser(
        "replay", help="make the requests of a trace again, and print where the answers differ"
    )
    replay.add_argument("file", metavar="FILE")
    replay.add_argument("--kernel", default="mock:amd", help="as PYVFIO_KERNEL takes it (default: %(default)s)")
    replay.add_argument(
        "--device", action="append", default=[], metavar="OLD=NEW", help="take NEW for the trace's device OLD"
    )
    given = parser.parse_args(arguments)
    again = Replay(named(given.kernel), dict(one.split("=", 1) for one in given.device))
    differences = list(again.run(load(given.file)))
    for difference in differences:
        print(difference)
    for line in again.skipped:
        print(f"skipped: {line}")
    print(f"{again.made} requests made again, {len(differences)} answered otherwise, {len(again.skipped)} skipped")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
