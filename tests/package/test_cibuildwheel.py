# SPDX-License-Identifier: MIT
"""The configuration of cibuildwheel, as the tool itself reads it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.package.conftest import found
from tests.package.toolchain import Environment, run, wheels

TOOL = ("cibuildwheel",)


@pytest.fixture(scope="session")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with cibuildwheel."""
    made = Environment(tmp_path_factory.mktemp("cibuildwheel") / "venv", found("3.11"))
    made.install(*TOOL, wheels=wheels("cibuildwheel", made, TOOL))
    return made


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_one_wheel_for_each_libc_would_be_built(tool: Environment, checkout: Path, architecture: str) -> None:
    """The tool names its builds and does not start one, which would take containers from a network."""
    command = tool.python.parent / "cibuildwheel"
    output = run(command, "--platform", "linux", "--archs", architecture, "--print-build-identifiers", cwd=checkout)
    assert output.split() == [f"cp311-manylinux_{architecture}", f"cp311-musllinux_{architecture}"]


def test_the_images_of_the_configuration_exist(tool: Environment, checkout: Path) -> None:
    """A name that the tool has no image for would be taken for a registry's."""
    program = (
        "import configparser, importlib.resources, tomllib\n"
        "settings = tomllib.load(open('pyproject.toml', 'rb'))['tool']['cibuildwheel']\n"
        "images = configparser.ConfigParser()\n"
        "images.read_string((importlib.resources.files('cibuildwheel') / 'resources/pinned_docker_images.cfg').read_text())\n"
        "for key, image in settings.items():\n"
        "    if key.endswith('-image'):\n"
        "        _, architecture, _ = key.split('-', 2)\n"
        "        print(image in images[architecture])\n"
    )
    assert run(tool.python, "-c", program, cwd=checkout).split() == ["True", "True"]
