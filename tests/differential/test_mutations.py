"""The check of the check: what is wrong in the mock is found by what is recorded."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mutations import MUTATIONS

HERE = Path(__file__).parent
RECORDED = sorted((HERE / "recorded").glob("*.json.gz"))


def outcome(number: int | str) -> str:
    file = "" if isinstance(number, str) else MUTATIONS[number].file
    # Those that are about the file come first, for at the first disagreement it ends: `intel-type1.json.gz` for type1/iommu.py.
    records = sorted(RECORDED, key=lambda path: path.name.split(".")[0].partition("-")[2] not in file)
    command = [sys.executable, str(HERE / "mutations.py"), str(number), *map(str, records)]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=HERE).stdout


def test_every_planted_fault_is_found() -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        outcomes = list(pool.map(outcome, range(len(MUTATIONS))))
    missed = [mutation for mutation, said in zip(MUTATIONS, outcomes, strict=True) if said == "no disagreement\n"]
    assert not missed, "\n".join(f"{one.file}: {one.old!r} -> {one.new!r}" for one in missed)


def test_nothing_is_found_where_nothing_is_planted() -> None:
    assert outcome("none") == "no disagreement\n"
