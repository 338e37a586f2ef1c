# SPDX-License-Identifier: MIT
"""Run episodes on a real kernel and on the mock, and compare every answer. The substance of scripts/differential."""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.differential import generate, replay, systematic, systematic_no_iommu, systematic_programs
from tests.differential.compare import disagreements, figures
from tests.differential.reached import Branches
from tests.differential.shrink import shrunk
from tests.differential.steps import Answer, Episode, load, save

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "tests" / "differential" / "recorded"
PROFILES = {"intel": "intel-39", "amd": "amd", "virtio": "virtio", "none": "none"}
#: the interpreter in the machine, which finds the packages of scripts as pytest does
PYTHON = ("env", f"PYTHONPATH={ROOT / 'scripts'}", sys.executable)
#: steps that one machine replays, which take it some minutes
BATCH = 20_000
#: steps that are recorded of a subject
STEPS = 8_000
#: the exit code of scripts/vm when the kernel complained in its log of what replay.WARNINGS does not expect
COMPLAINED = 200
#: a warning in the kernel's log: the file and line, and the function if it is named
_WARNING = re.compile(r"WARNING: (?:CPU: \d+ PID: \d+ at )?(\S+(?: at \w+)?)")
#: the subjects that are not random; the last is for the machine without an IOMMU, and there is no other for that
SYSTEMATIC: dict[str, Any] = {
    "systematic": systematic,
    "programs": systematic_programs,
    "no_iommu": systematic_no_iommu,
}


class Machine:
    """A real kernel, booted for each batch of episodes, whose log is judged too.

    :param command: scripts/vm, or what stands in for it

    :ivar complaints: how many machines ended with a complaint in the kernel's log
    :ivar warnings: how often the kernel warned, expected or not, by place
    """

    def __init__(self, command: str, iommu: str, devices: list[str]) -> None:
        self._command = [*shlex.split(command), "--iommu", iommu, "--timeout", "900"]
        self._devices = devices
        self.complaints = 0
        self.warnings: Counter[str] = Counter()

    def __call__(self, episodes: list[Episode]) -> list[list[Answer]]:
        # Below the current directory, for that is what a machine can write to.
        place = Path(tempfile.mkdtemp(prefix=".differential-", dir=ROOT))
        try:
            trace, answers, log = place / "trace.json", place / "answers.json", place / "kernel.log"
            save(trace, {"devices": self._devices, "episodes": episodes})
            command = [*PYTHON, "-m", "tests.differential.replay", str(trace), str(answers)]
            code = subprocess.run([*self._command, "--log", str(log), "--", *command], cwd=ROOT, check=False).returncode
            if log.exists():
                self.warnings.update(warnings_in(log.read_text(errors="replace")))
            if code == COMPLAINED and answers.exists():
                self.complaints += 1  # the machine has shown what it was
            elif code:
                sys.exit(code)  # the machine has said why
            loaded: list[list[Answer]] = load(answers)
            return loaded
        finally:
            shutil.rmtree(place)


def warnings_in(log: str) -> Iterator[str]:
    """Yield the place of each warning in a kernel's log."""
    for line in log.splitlines():
        if "pyvfio-vm: expect" not in line and (match := _WARNING.search(line)):
            yield match[1]


class Work(NamedTuple):
    """Episodes of some subjects.

    :ivar devices: what must be bound to VFIO drivers for them
    :ivar spaces: which of them the mock has by their configuration space alone
    :ivar recorded: what a kernel answered when they were recorded, if they were
    """

    episodes: dict[str, list[Episode]]
    devices: list[str]
    spaces: list[str]
    recorded: list[list[Answer]] | None = None

    @property
    def all_episodes(self) -> list[Episode]:
        """The episodes of all subjects, in their order."""
        return [episode for several in self.episodes.values() for episode in several]


def devices_of(subjects: list[str]) -> list[str]:
    """Return what must be bound to VFIO drivers for these subjects."""
    every = {**generate.SUBJECTS, **SYSTEMATIC}
    return sorted({name for subject in subjects for name in every[subject].DEVICES})


def spaces_of(subjects: list[str]) -> list[str]:
    """Return what the mock has by its configuration space alone for these subjects."""
    every = {**generate.SUBJECTS, **SYSTEMATIC}
    return sorted({name for subject in subjects for name in getattr(every[subject], "SPACES", ())})


def file_of(iommu: str, subject: str) -> Path:
    """Return the file in which a subject is recorded."""
    return RECORDED / f"{iommu}-{subject}.json.gz"


def new_random(subjects: list[str], seed: int, steps: int) -> Work:
    """Return new random episodes of these subjects together, of about so many steps."""
    random = [subject for subject in subjects if subject not in SYSTEMATIC]
    return Work({"random": generate.episodes(seed, steps, random)}, devices_of(random), spaces_of(random))


def to_record(subjects: list[str], seed: int, steps: int) -> Work:
    """Return new episodes of each subject, of about so many steps."""
    episodes: dict[str, list[Episode]] = {}
    for subject in subjects:
        module = SYSTEMATIC.get(subject)
        episodes[subject] = module.episodes() if module else generate.episodes(seed, steps, [subject])
    return Work(episodes, devices_of(subjects), spaces_of(subjects))


def recorded(subjects: list[str], iommu: str) -> Work:
    """Return the recorded episodes of the subjects that are recorded behind this IOMMU."""
    files = {subject: file_of(iommu, subject) for subject in subjects}
    records: dict[str, Any] = {subject: load(file) for subject, file in files.items() if file.exists()}
    return Work(
        {subject: record["episodes"] for subject, record in records.items()},
        sorted({name for record in records.values() for name in record["devices"]}),
        sorted({name for record in records.values() for name in record.get("spaces", ())}),
        [answer for record in records.values() for answer in record["answers"]],
    )


def batches(episodes: list[Episode], steps: int) -> Iterator[list[Episode]]:
    """Yield batches of about so many steps."""
    batch: list[Episode] = []
    for episode in episodes:
        if batch and sum(map(len, batch)) >= steps:
            yield batch
            batch = []
        batch.append(episode)
    yield batch


def compare(
    episodes: list[Episode], answers: list[list[Answer]], work: Work, profile: str, machine: Machine | None
) -> int:
    """Print what the mock answers differently, and return how much that is; shrunk if there is a machine to do it on."""
    with replay.on_mock(work.devices, profile, work.spaces) as replayer:
        found = disagreements(episodes, answers, [replayer.episode(episode) for episode in episodes])
        for disagreement in found:
            print(disagreement)
        if found and machine is not None:
            for short, disagreement in shrunk([episodes[one.episode] for one in found[:10]], machine, replayer.episode):
                print(f"shrunk to {len(short)} steps:\n{short}\n{disagreement}")
    return len(found)


def write_records(work: Work, answers: list[list[Answer]], iommu: str) -> None:
    """Write a file for each subject, with the kernel's answers."""
    at = 0
    for subject, episodes in work.episodes.items():
        file = file_of(iommu, subject)
        file.parent.mkdir(exist_ok=True)
        theirs = answers[at : at + len(episodes)]
        record = {"profile": PROFILES[iommu], "devices": work.devices, "episodes": episodes, "answers": theirs}
        save(file, record | ({"spaces": work.spaces} if work.spaces else {}))
        at += len(episodes)


def parse_arguments(description: str) -> argparse.Namespace:
    """Read the command line of scripts/differential."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--iommu", choices=PROFILES, default="intel")
    parser.add_argument("--subject", action="append", choices=[*generate.SUBJECTS, *SYSTEMATIC])
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--no-shrink", action="store_true")
    parser.add_argument("--vm", default=f"{ROOT}/scripts/vm")
    return parser.parse_args()


def main(description: str) -> int:
    """Run what the command line asks for; return 1 if mock and kernel disagree."""
    arguments = parse_arguments(description)
    iommu = arguments.iommu
    subjects = arguments.subject or (
        ["no_iommu"] if iommu == "none" else [*generate.SUBJECTS, "systematic", "programs"]
    )
    if arguments.record:
        work = to_record(subjects, arguments.seed, arguments.steps or STEPS)
    elif arguments.steps is not None:
        work = new_random(subjects, arguments.seed, arguments.steps)
    else:
        work = recorded(subjects, iommu)
    machine = Machine(arguments.vm, iommu, work.devices)
    found = 0
    every: list[list[Answer]] = []
    branches = Branches()
    for batch in batches(work.all_episodes, BATCH):
        answers = machine(batch)
        every += answers
        with branches:
            found += compare(batch, answers, work, PROFILES[iommu], None if arguments.no_shrink else machine)
    print(figures(work.all_episodes, every))
    print(branches)
    if arguments.record:
        write_records(work, every, iommu)
    elif work.recorded and every != work.recorded:
        print("the kernel does not answer as it did when this was recorded: scripts/differential --record")
        found += 1
    print(
        "the kernel's log: "
        + (", ".join(f"{place} {n}x" for place, n in sorted(machine.warnings.items())) or "no warning")
    )
    print(f"{found} disagreements, {machine.complaints} complaints of the kernel")
    return int(found + machine.complaints > 0)
