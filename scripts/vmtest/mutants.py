# SPDX-License-Identifier: MIT
"""Try a sample of single mutations, and report those that no test finds: scripts/mutants."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import random
import select
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

from vmtest.cache import CACHE
from vmtest.environment import ROOT
from vmtest.line_map import LineMap, MeasuredTest, Session, environment, sessions
from vmtest.mutation import Mutation, mutations
from vmtest.problems import Problem, say
from vmtest.project_copy import copy_project

EQUIVALENT = ROOT / "tests" / "equivalent_mutants.toml"
#: Seconds that a session has to collect its tests.
START = 600


class Result(NamedTuple):
    """The outcome of a mutant.

    :ivar outcome: found, survived or equivalent
    :ivar by: the session and the test that found it, or the reason for another outcome
    :ivar tests: number of tests that were chosen; those after the first failure did not run
    :ivar seconds: how long the tests took
    """

    mutation: Mutation
    outcome: str
    by: str
    tests: int = 0
    seconds: float = 0

    def __str__(self) -> str:
        return f"{self.outcome:10} {self.seconds:6.1f} s  {self.mutation}\n{'':21}by {self.by}"


class Equivalents:
    """The mutants that behave like the original, so that no test can find them: a file that has a reason for each."""

    def __init__(self, file: Path) -> None:
        self._entries = tomllib.loads(file.read_text())["mutant"] if file.exists() else []

    def reason(self, mutation: Mutation) -> str | None:
        """Return the reason why a mutant is equivalent; None if it is not listed."""
        for entry in self._entries:
            if self._is(entry, mutation):
                return str(entry["reason"])
        return None

    @staticmethod
    def _is(entry: dict[str, str], mutation: Mutation) -> bool:
        return (
            (entry["file"], entry["scope"]) == (mutation.file, mutation.scope)
            and "".join(entry["before"].split()) == "".join(mutation.before.split())
            and "".join(entry["after"].split()) == "".join(mutation.after.split())
            and mutation.line_text.strip().startswith(entry.get("line", ""))
        )

    def stale(self, all_mutations: Sequence[Mutation]) -> list[str]:
        """Return the entries that match no mutant of the current source."""
        return [
            f"{entry['file']} {entry['scope']}: {entry['before']} -> {entry['after']}"
            for entry in self._entries
            if not any(self._is(entry, mutation) for mutation in all_mutations)
        ]


def all_mutations(under: str) -> list[Mutation]:
    """Return every mutation of the files below `under`. For `pyvfio`, the mock is left out."""
    found: list[Mutation] = []
    for path in sorted((ROOT / under).rglob("*.py")) if (ROOT / under).is_dir() else [ROOT / under]:
        name = str(path.relative_to(ROOT))
        if under != "pyvfio" or not name.startswith("pyvfio/mock/"):
            found += mutations(name, path.read_bytes())
    return found


def sample(found: Sequence[Mutation], seed: int, count: int) -> list[Mutation]:
    """Return a random sample of mutations that change the syntax tree, at most one for each line."""
    shuffled = list(found)
    random.Random(seed).shuffle(shuffled)
    chosen: dict[tuple[str, int], Mutation] = {}
    for mutation in shuffled:
        if len(chosen) == count:
            break
        place = (mutation.file, mutation.line)
        if place not in chosen and mutation.changes((ROOT / mutation.file).read_bytes()):
            chosen[place] = mutation
    return list(chosen.values())


# --- running ----------------------------------------------------------------------------------------------------------


class Serving:
    """A process that has collected tests, and runs some of them on request (vmtest.mutant_session).

    :param changed: the package in the copy has a mutant, so Python must not write compiled files

    :raises Problem: the tests cannot be collected
    """

    def __init__(self, copy: Path, session: Session, files: Sequence[str], *, changed: bool = False) -> None:
        requests, theirs = os.pipe()
        ours, answers = os.pipe()
        command = [sys.executable, "-m", "vmtest.mutant_session", "serve", str(requests), str(answers)]
        with (copy / ".log").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, *session.options, *files], cwd=copy, pass_fds=(requests, answers), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, env=environment(copy) | ({"PYTHONDONTWRITEBYTECODE": "1"} if changed else {}),
            )  # fmt: skip
        os.close(requests)
        os.close(answers)
        #: Processor time, in seconds, that each run gets in addition to three times the measured time of its tests.
        self.seconds = 15
        self._requests = os.fdopen(theirs, "w")
        self._answers = os.fdopen(ours)
        try:
            if self._answer(START)["failed"]:
                raise Problem("some tests cannot be collected")
        except Problem as problem:
            self.close()
            raise Problem(f"{session.name}: {problem}\n{(copy / '.log').read_text()[-3000:]}") from None

    def _answer(self, patience: float) -> dict[str, Any]:
        if not select.select([self._answers], [], [], patience)[0]:
            raise Problem("no answer")
        line = self._answers.readline()
        if not line:
            raise Problem("the process ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def run(
        self, tests: Sequence[MeasuredTest], file: Path | None = None, source: bytes | None = None
    ) -> dict[str, Any]:
        """Run tests up to the first failure.

        With a source, the functions of the module `file` are changed to it first.
        """
        expected = sum(test.seconds for test in tests)
        request = {
            "file": file and str(file),
            "source": source and source.decode(),
            "tests": [test.name for test in tests],
            "seconds": int(self.seconds + 3 * expected),
            "patience": 90 + 15 * expected,
        }
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()
        return self._answer(120 + 15 * expected)

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._requests.close()
        self._answers.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class Worker:
    """A worker that runs mutants one after the other, in its own copy of the project."""

    def __init__(self, copy: Path, line_map: LineMap, wanted: Sequence[Session], budget: float) -> None:
        self._copy = copy
        self._map = line_map
        self._sessions = wanted
        self._budget = budget
        self._serving: dict[str, Serving] = {}
        self._changes = 0
        #: Tests that sometimes fail on the unchanged package.
        self.unreliable: set[str] = set()

    def close(self) -> None:
        """End the processes."""
        for serving in self._serving.values():
            serving.close()

    def _server(self, session: Session) -> Serving:
        if session.name not in self._serving:
            self._serving[session.name] = Serving(self._copy, session, session.files(self._copy))
        return self._serving[session.name]

    def _affordable(self, tests: Sequence[MeasuredTest], session: Session) -> list[MeasuredTest]:
        """Return as many of a session's first tests as fit into the budget, but at least one."""
        chosen: list[MeasuredTest] = []
        seconds = 0.0
        for test in tests:
            if test.session == session.name and test.name not in self.unreliable:
                seconds += test.seconds
                if chosen and seconds > self._budget:
                    break
                chosen.append(test)
        return chosen

    def run(self, mutation: Mutation) -> Result:
        """Run the tests that can find a mutant, up to the first that finds it."""
        begun = time.monotonic()
        afresh = not mutation.in_function or self._map.runs_at_import(mutation.file, mutation.lines)
        find = self._map.executing if mutation.in_function else self._map.near
        tests = find(mutation.file, mutation.lines)
        count = 0
        for session in self._sessions:
            chosen = self._affordable(tests, session)
            if not chosen:
                continue
            count += len(chosen)
            answer = self._try(mutation, session, chosen, afresh=afresh)
            if answer["outcome"] != "survived":
                by = f"{session.name}: {answer['test']}"
                if answer["outcome"] != "found":
                    by += f" ({answer['outcome']})"
                return Result(mutation, "found", by, count, time.monotonic() - begun)
        by = f"{count} of {len(tests)} tests that execute it" if tests else "no test, since none executes it"
        return Result(mutation, "survived", by, count, time.monotonic() - begun)

    def _try(
        self, mutation: Mutation, session: Session, tests: Sequence[MeasuredTest], *, afresh: bool
    ) -> dict[str, Any]:
        file = self._copy / mutation.file
        source = file.read_bytes()
        changed = mutation.apply(source)
        if not afresh:
            try:
                answer = self._server(session).run(tests, file, changed)
            except Problem:
                # The mutant ended the serving process, or the process does not answer.
                self._serving.pop(session.name).close()
                return {"outcome": "crashed", "test": "the process that runs the tests"}
            if answer["outcome"] != "unchanged":
                return answer
        stat = file.stat()
        self._changes += 1
        try:
            file.write_bytes(changed)
            # Change the file's time by whole seconds: compiled files record it in seconds, and would seem up to date
            # otherwise.
            os.utime(file, (stat.st_atime, stat.st_mtime + 10 * self._changes))
            files = sorted({test.name.partition("::")[0] for test in tests})
            return self._run_once(session, files, tests)
        finally:
            file.write_bytes(source)
            os.utime(file, (stat.st_atime, stat.st_mtime))

    def _run_once(self, session: Session, files: Sequence[str], tests: Sequence[MeasuredTest]) -> dict[str, Any]:
        try:
            serving = Serving(self._copy, session, files, changed=True)
        except Problem:
            return {"outcome": "found", "test": "the package cannot be imported, or the tests cannot be collected"}
        try:
            return serving.run(tests)
        except Problem:
            return {"outcome": "crashed", "test": "the process that runs the tests"}
        finally:
            serving.close()

    def fails_unchanged(self, names: set[str]) -> list[str]:
        """Return those of the named tests that fail on the unchanged package."""
        failing = []
        for session in self._sessions:
            left = [test for test in self._map.tests if test.session == session.name and test.name in names]
            while left:
                answer = self._server(session).run(left)
                if answer["outcome"] == "survived":
                    break
                failing.append(answer["test"])
                left = [test for test in left if test.name != answer["test"]]
        return failing


# --- the command ------------------------------------------------------------------------------------------------------


class Workers:
    """Several workers, each with its own thread."""

    def __init__(self, workers: Sequence[Worker], out: IO[str] | None, *, loud: bool) -> None:
        self._workers = workers
        self._out = out
        self._loud = loud
        self._lock = threading.Lock()

    def run(self, chosen: Sequence[Mutation]) -> list[Result]:
        """Run mutants and print the outcome of each."""
        waiting: queue.SimpleQueue[Mutation] = queue.SimpleQueue()
        for mutation in chosen:
            waiting.put(mutation)
        results: dict[Mutation, Result] = {}
        failures: list[BaseException] = []

        def work(worker: Worker) -> None:
            with contextlib.suppress(queue.Empty):
                while not failures:
                    mutation = waiting.get_nowait()
                    try:
                        result = worker.run(mutation)
                    except BaseException as error:  # the main thread raises it
                        failures.append(error)
                        return
                    with self._lock:
                        results[mutation] = result
                        self._tell(result)

        threads = [threading.Thread(target=work, args=(worker,), daemon=True) for worker in self._workers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        return [results[mutation] for mutation in chosen]

    def _tell(self, result: Result) -> None:
        if self._loud or result.outcome != "found":
            print(result, flush=True)
        if self._out:
            self._out.write(json.dumps(result._asdict()) + "\n")
            self._out.flush()


@contextlib.contextmanager
def crew(jobs: int, budget: float, *, mock: bool) -> Iterator[list[Worker]]:
    """Yield workers, each with a copy of the project. The copies are removed at the end."""
    wanted = sessions(mock=mock)
    with tempfile.TemporaryDirectory(prefix="pyvfio-mutants-") as scratch:
        copies = [copy_project(Path(scratch) / str(number)) for number in range(jobs)]
        kept = CACHE / "mutants" / str(ROOT).strip("/").replace("/", "-")
        line_map = LineMap(copies[0], kept, wanted)
        workers = [Worker(copy, line_map, wanted, budget) for copy in copies]
        try:
            yield workers
        finally:
            for worker in workers:
                worker.close()


def run(chosen: Sequence[Mutation], arguments: argparse.Namespace) -> list[Result]:
    """Run mutants. If a test that found some also fails on the unchanged package, these run again without it."""
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(arguments.json.open("w")) if arguments.json else None
        mock = any(mutation.file.startswith("pyvfio/mock/") for mutation in chosen)
        workers = stack.enter_context(crew(arguments.jobs, arguments.budget, mock=mock))
        several = Workers(workers, out, loud=arguments.verbose)
        results = several.run(chosen)
        found_by = {result.by.partition(": ")[2].removesuffix(" (too slow)") for result in results}
        if failing := workers[0].fails_unchanged(found_by):
            say(f"these tests fail on the package as it is, now and then: {', '.join(failing)}")
            for worker in workers:
                worker.unreliable.update(failing)
            doubtful = [result for result in results if any(name in result.by for name in failing)]
            again = several.run([result.mutation for result in doubtful])
            results = [result for result in results if result not in doubtful] + again
        return results


def summary(results: Sequence[Result], equivalents: Sequence[Result]) -> str:
    """Return the survivors as diffs, the counts, and the percentage of mutants that were found."""
    survivors = [result for result in results if result.outcome == "survived"]
    lines = []
    for result in survivors:
        mutation = result.mutation
        lines.append(f"{mutation}\n{mutation.diff((ROOT / mutation.file).read_bytes())}")
    kinds = Counter(result.mutation.kind for result in results)
    missed = Counter(result.mutation.kind for result in survivors)
    lines.append(
        "survived of each kind: " + ", ".join(f"{kind} {missed[kind]}/{kinds[kind]}" for kind in sorted(kinds))
    )
    count = len(results) + len(equivalents)
    found = len(results) - len(survivors)
    share = found / len(results) if results else 1
    lines.append(
        f"{count} mutants: {found} found, {len(survivors)} survived, {len(equivalents)} equivalent "
        f"({len(equivalents) / count if count else 0:.1%}); {share:.1%} found of those that are not equivalent"
    )
    return "\n".join(lines)


def repeated(file: Path, found: Sequence[Mutation]) -> list[Mutation]:
    """Return the mutants that survived an earlier run, without those that the source does not have any more."""
    present = {mutation.name: mutation for mutation in found}
    # A mutant that ran again (because of an unreliable test) is in the file twice; the second entry counts.
    outcomes: dict[tuple[str, str, str, str, str, int], str] = {}
    for entry in map(json.loads, file.read_text().splitlines()):
        outcomes[Mutation(*entry["mutation"]).name] = entry["outcome"]
    survived = [name for name, outcome in outcomes.items() if outcome == "survived"]
    if gone := [name for name in survived if name not in present]:
        say(f"the source has {len(gone)} of {len(survived)} no more")
    return [present[name] for name in survived if name in present]


def main(description: str) -> int:
    """Run the command. The exit code is 1 if the tests found a smaller share of the mutants than required."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument(
        "--under", default="pyvfio", metavar="PATH", help="a folder or file; default: pyvfio but the mock"
    )
    parser.add_argument(
        "--budget", type=float, default=10, metavar="SECONDS", help="processor time of the tests of each session, for each mutant"
    )  # fmt: skip
    parser.add_argument("--at-least", type=float, default=90, metavar="PERCENT", help="for the exit code")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results, a line for each")
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="run the survivors of an earlier --json FILE again")
    parser.add_argument(
        "--line", type=int, metavar="N", help="every mutant of a line of the file --under, not a sample"
    )
    parser.add_argument("--list", action="store_true", help="print the sample and run nothing")
    parser.add_argument("-v", "--verbose", action="store_true", help="print those that were found, too")
    arguments = parser.parse_args()
    everything = all_mutations(arguments.under)
    if arguments.repeat:
        everything = all_mutations("pyvfio") + all_mutations("pyvfio/mock")
        chosen = repeated(arguments.repeat, everything)
    elif arguments.line:
        chosen = [m for m in everything if m.line == arguments.line and m.changes((ROOT / m.file).read_bytes())]
    else:
        chosen = sample(everything, arguments.seed, arguments.count)
    if arguments.list:
        print(*chosen, sep="\n")
        return 0
    listed = Equivalents(EQUIVALENT)
    equivalents = [Result(m, "equivalent", reason) for m in chosen if (reason := listed.reason(m))]
    settled = {result.mutation for result in equivalents}
    try:
        results = run([m for m in chosen if m not in settled], arguments)
    except Problem as problem:
        say(str(problem))
        return 2
    print(summary(results, equivalents))
    if arguments.under == "pyvfio":
        for entry in listed.stale(everything + all_mutations("pyvfio/mock")):
            print(f"PROBLEM: {EQUIVALENT.name} lists what is no mutant any more: {entry}")
    found = sum(result.outcome == "found" for result in results)
    return 0 if not results or 100 * found / len(results) >= arguments.at_least else 1
