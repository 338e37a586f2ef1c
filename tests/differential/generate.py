# SPDX-License-Identifier: MIT
"""Generate random episodes. The same seed gives the same episodes."""

from __future__ import annotations

from random import Random
from typing import Any

from tests.differential import devices as devices_
from tests.differential import functions, iommufd, selftest, type1
from tests.differential.steps import Episode

SUBJECTS: dict[str, Any] = {
    "type1": type1,
    "iommufd": iommufd,
    "devices": devices_,
    "selftest": selftest,
    "functions": functions,
}


def episodes(seed: int, steps: int, subjects: list[str] | None = None) -> list[Episode]:
    """Return episodes that have `steps` steps in total, or a few more."""
    random = Random(seed)
    chosen = [SUBJECTS[name] for name in subjects or SUBJECTS]
    made: list[Episode] = []
    count = 0
    while count < steps:
        subject = random.choice(chosen)
        kinds, weights = zip(*subject.KINDS, strict=True)
        (kind,) = random.choices(kinds, weights)
        make = subject.MAKER(Random(random.getrandbits(64)))
        kind(make)
        made.append(make.steps)
        count += len(make.steps)
    return made


def devices(subjects: list[str] | None = None) -> list[str]:
    """Return the devices that must be bound to VFIO drivers for the subjects."""
    return sorted({name for subject in subjects or SUBJECTS for name in SUBJECTS[subject].DEVICES})
