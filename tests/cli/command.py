# SPDX-License-Identifier: MIT
"""Running the command in this process, with its JSON checked against the schema that the package ships."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

import jsonschema
import pytest

from pyvfio import mock
from pyvfio.cli import program


class Ran(NamedTuple):
    """A call of the command: its exit code and what it printed."""

    code: int
    out: str
    err: str


class Command:
    """The command on one mock kernel, so that one call sees what another has changed."""

    def __init__(self, capsys: pytest.CaptureFixture[str], kernel: mock.Kernel) -> None:
        self._capsys = capsys
        self.kernel = kernel

    def __call__(self, *arguments: str) -> Ran:
        """Run a call and return what became of it."""
        self._capsys.readouterr()
        code = program.main(arguments, kernel=self.kernel)
        return Ran(code, *self._capsys.readouterr())

    def json(self, *arguments: str, code: int = 0) -> Any:
        """Run a call with `--json`, check its exit code and its document, and return the document."""
        ran = self("--json", *arguments)
        assert ran.code == code, ran
        document = json.loads(ran.out)
        validate(document, "error" if "error" in document else arguments[0])
        return document

    def lines(self, *arguments: str, code: int = 0) -> list[Any]:
        """Run a call whose `--json` prints a document a line; see :meth:`json`."""
        ran = self(*arguments, "--json")
        assert ran.code == code, ran
        documents = [json.loads(line) for line in ran.out.splitlines()]
        for document in documents:
            validate(document, arguments[0])
        return documents


@cache
def schema(name: str) -> Any:
    """Return the schema of a subcommand, as the package ships it."""
    text = (resources.files("pyvfio.cli") / "schemas" / f"{name}.json").read_text()
    return json.loads(text)


def validate(document: object, name: str) -> None:
    """Check a document against the schema of a subcommand."""
    jsonschema.Draft202012Validator(schema(name)).validate(document)
