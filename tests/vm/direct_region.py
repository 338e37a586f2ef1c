# SPDX-License-Identifier: MIT
"""Try to open devices in every mode, and write down what is said: `python tests/vm/direct_region.py FILE ADDRESS...` in a machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

import pyvfio
from pyvfio import host
from pyvfio.kernel import Kernel

MODES: tuple[Literal["type1v2", "iommufd-type1v2", "iommufd"], ...] = ("type1v2", "iommufd-type1v2", "iommufd")


def outcome(
    address: str, mode: Literal["type1v2", "iommufd-type1v2", "iommufd"], kernel: Kernel | str | None
) -> list[Any]:
    """Return request, errno and text of the refusal to open a device; "open", 0 and nothing if it opens."""
    try:
        pyvfio.open(address, mode=mode, kernel=kernel).close()
    except pyvfio.RequestError as error:
        return [error.request, error.errno, "\n".join([str(error), *getattr(error, "__notes__", ())])]
    return ["open", 0, ""]


def report(address: str, kernel: Kernel | str | None, modes: tuple[Any, ...]) -> dict[str, Any]:
    """Return what opening a device in each of some modes says, what doctor finds, and the regions that sysfs tells."""
    with host.bind(address, "vfio-pci", kernel=kernel):
        return {
            "outcomes": {mode: outcome(address, mode, kernel) for mode in modes},
            "findings": [finding.id for finding in host.diagnose(address, kernel).findings],
            "regions": [[one.range.start, one.range.last, one.type] for one in host.reserved_regions(address, kernel)],
        }


def main() -> None:
    file, *addresses = sys.argv[1:]
    # Before 6.2 there is no iommufd.
    modes = MODES if Path("/dev/iommu").exists() else MODES[:1]
    Path(file).write_text(json.dumps([report(address, None, modes) for address in addresses]))


if __name__ == "__main__":
    main()
