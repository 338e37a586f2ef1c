# SPDX-License-Identifier: MIT
"""A single step of `run`, for which the device is opened and closed."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pyvfio.cli import exit_code, session, steps
from pyvfio.cli.call import Call

NOTE = "the device was opened for this and is closed now, so its state is lost; `pyvfio run` keeps it open for several steps"


def make(call: Call, step: str, words: Sequence[str]) -> int:
    """Open the device, make the step, and print its result."""
    with session.opened(call) as device:
        done = steps.Session(device).step(step, words)
        resettable = device.info.resettable
        address = device.address
    if call.out.json:
        document = {name: value for name, value in done.document.items() if name != "step"}
        call.out.document({"address": address, **document, "reset": resettable})
    elif done.text:
        call.out.raw(done.text)
    if resettable and _writes(step, words) and not call.out.json:
        print(f"pyvfio: {NOTE}", file=sys.stderr)
    return exit_code.DONE


def _writes(step: str, words: Sequence[str]) -> bool:
    return step == "poke" or (step == "config" and any("=" in word for word in words))
