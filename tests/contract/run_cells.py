"""Run the cells of one machine, inside it: `python tests/contract/run_cells.py --results DIR [CELL ...]`.

A process for each cell, as always; but they are forked from one that has imported everything, which saves Python's start,
five seconds each under emulation.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import pytest  # noqa: E402
from matrix import NEWEST, Cell, Matrix  # noqa: E402

#: what the tests use, imported before the fork
WARM = (
    "pyvfio.opening", "pyvfio.container", "pyvfio.device", "pyvfio.irq", "pyvfio.pci", "pyvfio.dirty", "pyvfio.iommufd.ioas",
    "pyvfio.iommufd.hwpt", "pyvfio.host.binding", "tracing", "asyncio",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, required=True, metavar="DIR")
    parser.add_argument("-k", metavar="EXPRESSION", help="as for pytest")
    parser.add_argument("cells", nargs="*", metavar="CELL", help="all of this machine, if none is given")
    arguments = parser.parse_args()
    import guest

    matrix = Matrix()
    if arguments.cells:
        cells = [Cell.parse(text) for text in arguments.cells]
    else:
        named = guest.KERNEL if guest.KERNEL in matrix.kernels else NEWEST
        cells = [cell._replace(kernel=guest.KERNEL) for cell in matrix.cells(str(guest.IOMMU), named)]
    for name in WARM:
        importlib.import_module(name)
    failed = 0
    for cell in cells:
        started = time.monotonic()
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            file = arguments.results / (str(cell).replace("/", "-") + ".json")
            options = [str(HERE), f"--cell={cell}", f"--results={file}", "-q", "--no-header", "-p", "no:cacheprovider", "--tb=short"]
            if arguments.k:
                options += ["-k", arguments.k]
            code = 70
            try:
                code = int(pytest.main(options))
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        failed += code != 0
        print(f"== {cell}: {'ok' if code == 0 else f'FAILED ({code})'}, {time.monotonic() - started:.1f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
