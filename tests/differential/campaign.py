# SPDX-License-Identifier: MIT
"""Run episodes on a real kernel and on the mock, and compare every answer. scripts/differential calls this module."""

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

from tests.differential import generate, replay, selftest, systematic, systematic_no_iommu, systematic_programs
from tests.differential.compare import disagreements, figures
from tests.differential.reached import Branches
from tests.differential.shrink import shrunk
from tests.differential.steps import Answer, Episode, load, save

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / "tests" / "differential" / "recorded"
PROFILES = {"intel": "intel-39", "amd": "amd", "virtio": "virtio", "none": "none"}
#: The Python command in the machine, with scripts/ on the path as for pytest.
PYTHON = ("env", f"PYTHONPATH={ROOT / 'scripts'}", sys.executable)
#: Number of steps that one machine replays, in some minutes.
BATCH = 20_000
#: Number of steps that are recorded for each subject.
STEPS = 8_000
#: Exit code of scripts/vm if the kernel's log has a complaint that replay.WARNINGS does not match.
COMPLAINED = 200
#: A warning in the kernel's log: file and line, and the function if the line has it.
_WARNING = re.compile(r"WARNING: (?:CPU: \d+ PID: \d+ at )?(\S+(?: at \w+)?)")
#: The subjects that are not random. `no_iommu` is the only subject for the machine without an IOMMU.
SYSTEMATIC: dict[str, Any] = {
    "systematic": systematic,
    "programs": systematic_programs,
    "no_iommu": systematic_no_iommu,
}


class Machine:
    """A real kernel, booted for each batch of episodes. Its log is checked too.

    :param command: scripts/vm, or a replacement

    :ivar complaints: number of machines that ended with an unexpected complaint in the kernel's log
    :ivar warnings: number of the kernel's warnings, expected or not, by place
    :ivar left: lines about episodes after which pages stayed pinned in the kernel, without those that
        :func:`selftest.may_leave` expects
    """

    def __init__(self, command: str, iommu: str, devices: list[str]) -> None:
        self._command = [*shlex.split(command), "--iommu", iommu, "--timeout", "900"]
        self._devices = devices
        self.complaints = 0
        self.warnings: Counter[str] = Counter()
        self.left: list[str] = []

    def __call__(self, episodes: list[Episode]) -> list[list[Answer]]:
        # A folder below the current directory, because a machine can write only there.
        place = Path(tempfile.mkdtemp(prefix=".differential-", dir=ROOT))
        try:
            trace, answers, log = place / "trace.json", place / "answers.json", place / "kernel.log"
            save(trace, {"devices": self._devices, "episodes": episodes})
            command = [*PYTHON, "-m", "tests.differential.replay", str(trace), str(answers)]
            code = subprocess.run([*self._command, "--log", str(log), "--", *command], cwd=ROOT, check=False).returncode
            if log.exists():
                self.warnings.update(warnings_in(log.read_text(errors="replace")))
            if code == COMPLAINED and answers.exists():
                self.complaints += 1  # the machine has printed the complaint
            elif code:
                sys.exit(code)  # the machine has printed the reason
            left = place / replay.LEFT
            self.left += left_lines(episodes, load(left) if left.exists() else {})
            loaded: list[list[Answer]] = load(answers)
            return loaded
        finally:
            shutil.rmtree(place)


def warnings_in(log: str) -> Iterator[str]:
    """Yield the place of each warning in a kernel's log."""
    for line in log.splitlines():
        if "pyvfio-vm: expect" not in line and (match := _WARNING.search(line)):
            yield match[1]


def left_lines(episodes: list[Episode], left: dict[str, int]) -> list[str]:
    """Return a line for each episode after which a real kernel still has pages pinned, if that is not expected.

    :param left: number of an episode -> pages
    """
    return [
        f"episode {number} leaves {pages} pages pinned in the kernel"
        for number, pages in left.items()
        if not selftest.may_leave(episodes[int(number)])
    ]


class Work(NamedTuple):
    """Episodes of some subjects.

    :ivar devices: devices that must be bound to VFIO drivers for the episodes
    :ivar spaces: those of them for which the mock has only a saved configuration space, and no model
    :ivar recorded: the real kernel's recorded answers; None for new episodes
    """

    episodes: dict[str, list[Episode]]
    devices: list[str]
    spaces: list[str]
    recorded: list[list[Answer]] | None = None

    @property
    def all_episodes(self) -> list[Episode]:
        """The episodes of all subjects, in the order of the subjects."""
        return [episode for several in self.episodes.values() for episode in several]


def devices_of(subjects: list[str]) -> list[str]:
    """Return the devices that must be bound to VFIO drivers for these subjects."""
    every = {**generate.SUBJECTS, **SYSTEMATIC}
    return sorted({name for subject in subjects for name in every[subject].DEVICES})


def spaces_of(subjects: list[str]) -> list[str]:
    """Return the devices of these subjects for which the mock has only a saved configuration space."""
    every = {**generate.SUBJECTS, **SYSTEMATIC}
    return sorted({name for subject in subjects for name in getattr(every[subject], "SPACES", ())})


def file_of(iommu: str, subject: str) -> Path:
    """Return the file with the recorded episodes of a subject."""
    return RECORDED / f"{iommu}-{subject}.json.gz"


def chosen_subjects(named: list[str] | None, iommu: str, *, random: bool) -> list[str]:
    """Return the subjects of a run: those that are named, or all that the machine has.

    :param random: only new random episodes are wanted, which the other subjects do not have
    """
    if named:
        return named
    if iommu == "none":
        return ["no_iommu"]
    return [*generate.SUBJECTS] if random else [*generate.SUBJECTS, "systematic", "programs"]


def anew(subjects: list[str], seed: int, steps: int) -> Work:
    """Return episodes that no recording needs: new random ones, a mixture, and those of the subjects that are not random."""
    random = [subject for subject in subjects if subject not in SYSTEMATIC]
    episodes = {subject: SYSTEMATIC[subject].episodes() for subject in subjects if subject in SYSTEMATIC}
    if random:
        episodes["random"] = generate.episodes(seed, steps, random)
    return Work(episodes, devices_of(subjects), spaces_of(subjects))


def to_record(subjects: list[str], seed: int, steps: int) -> Work:
    """Return new episodes for each subject: for a random subject with at least `steps` steps."""
    episodes: dict[str, list[Episode]] = {}
    for subject in subjects:
        module = SYSTEMATIC.get(subject)
        episodes[subject] = module.episodes() if module else generate.episodes(seed, steps, [subject])
    return Work(episodes, devices_of(subjects), spaces_of(subjects))


def recorded(subjects: list[str], iommu: str) -> Work:
    """Return the recorded episodes of those subjects that have a recording with this IOMMU."""
    files = {subject: file_of(iommu, subject) for subject in subjects}
    records: dict[str, Any] = {subject: load(file) for subject, file in files.items() if file.exists()}
    return Work(
        {subject: record["episodes"] for subject, record in records.items()},
        sorted({name for record in records.values() for name in record["devices"]}),
        sorted({name for record in records.values() for name in record.get("spaces", ())}),
        [answer for record in records.values() for answer in record["answers"]],
    )


def batches(episodes: list[Episode], steps: int) -> Iterator[list[Episode]]:
    """Yield batches of episodes with at least `steps` steps; the last may have fewer."""
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
    """Print the steps that the mock answers differently, and the episodes that leave pages pinned; return their number.

    With a machine, shrink the first ten of these episodes.
    """
    with replay.on_mock(work.devices, profile, work.spaces) as replayer:
        found = disagreements(episodes, answers, [replayer.episode(episode) for episode in episodes])
        for disagreement in found:
            print(disagreement)
        left = dict(replayer.left)
        for episode, pages in left.items():
            print(f"episode {episode} leaves {pages} pages pinned in the mock")
        if found and machine is not None:
            for short, disagreement in shrunk([episodes[one.episode] for one in found[:10]], machine, replayer.episode):
                print(f"shrunk to {len(short)} steps:\n{short}\n{disagreement}")
    return len(found) + len(left)


def write_records(work: Work, answers: list[list[Answer]], iommu: str) -> None:
    """Write the episodes of each subject, with the kernel's answers, to its file."""
    at = 0
    for subject, episodes in work.episodes.items():
        file = file_of(iommu, subject)
        file.parent.mkdir(exist_ok=True)
        theirs = answers[at : at + len(episodes)]
        record = {"profile": PROFILES[iommu], "devices": work.devices, "episodes": episodes, "answers": theirs}
        save(file, record | ({"spaces": work.spaces} if work.spaces else {}))
        at += len(episodes)


def parse_arguments(description: str) -> argparse.Namespace:
    """Parse the command line of scripts/differential."""
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
    """Run the command. Return 1 if the mock and the kernel disagree."""
    arguments = parse_arguments(description)
    iommu = arguments.iommu
    subjects = chosen_subjects(arguments.subject, iommu, random=arguments.steps is not None and not arguments.record)
    if arguments.record:
        work = to_record(subjects, arguments.seed, arguments.steps or STEPS)
    elif arguments.steps is not None or not any(file_of(iommu, subject).exists() for subject in subjects):
        work = anew(subjects, arguments.seed, arguments.steps or STEPS)
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
        "\n".join(machine.left)
        or "no page stays pinned in the kernel, but by selftest devices that are attached with a PASID at the end"
    )
    print(
        "the kernel's log: "
        + (", ".join(f"{place} {n}x" for place, n in sorted(machine.warnings.items())) or "no warning")
    )
    print(f"{found} disagreements, {machine.complaints} complaints of the kernel")
    return int(found + machine.complaints + len(machine.left) > 0)
