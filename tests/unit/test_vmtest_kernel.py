# SPDX-License-Identifier: MIT
"""Recipes of test kernels, and the choice of a finished kernel."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from vmtest import build_kernel, kernel, recipe
from vmtest.kernel import Wanted, finished_kernel, kernel_of, require_kernel
from vmtest.kernel_build import configure
from vmtest.modules import MODULES, Module
from vmtest.problems import Missing, Problem
from vmtest.ready_kernel import modules_with_dependencies
from vmtest.recipe import Option, digest, fragments, local_recipe, parse_fragment, without_effect


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setattr(kernel, "CACHE", tmp_path)
    return tmp_path


def finish(cache: Path, wanted: Wanted, version: str, package_version: str, **changes: Any) -> Path:
    """Put a finished kernel into the cache."""
    source = {"kernel": version, "package": f"linux-source-{version}", "package_version": package_version}
    contents = wanted.recipe | {"source": source} | changes
    directory = cache / "kernel" / f"{version}-{digest(contents)}"
    directory.mkdir(parents=True)
    (directory / "recipe.json").write_text(json.dumps(contents))
    (directory / "release").write_text(f"{version}.1\n")
    return directory


def test_debug_recipe_has_another_key_and_leaves_the_normal_one() -> None:
    normal, debug = local_recipe(None), local_recipe(None, debug=True)
    assert digest(normal) != digest(debug)
    assert normal.items() <= debug.items()
    assert debug.keys() - normal.keys() == {"debug_fragment"}


def test_recipe_follows_the_fragment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = digest(local_recipe(None))
    (tmp_path / "kernel.config").write_text("CONFIG_SMP=y\n")
    monkeypatch.setattr(recipe, "FRAGMENT", tmp_path / "kernel.config")
    assert digest(local_recipe(None)) != before


def test_recipe_of_a_ready_kernel_does_not_follow_the_fragment() -> None:
    assert "fragment" not in local_recipe("6.1")


def test_fragment_options() -> None:
    text = 'CONFIG_A=y\n# CONFIG_B is not set\n# A remark\nCONFIG_C="x y"\n# Not in every release: so\nCONFIG_D=m\n'
    assert parse_fragment(text) == [
        Option("CONFIG_A", "y", True),
        Option("CONFIG_B", None, True),
        Option("CONFIG_C", '"x y"', True),
        Option("CONFIG_D", "m", False),
    ]


def test_options_without_effect() -> None:
    options = parse_fragment("CONFIG_A=y\nCONFIG_B=y\n# CONFIG_C is not set\n# CONFIG_D is not set\n")
    left = without_effect(options, "CONFIG_A=y\nCONFIG_B=m\nCONFIG_C=y\n# CONFIG_D is not set\n")
    assert [option.name for option in left] == ["CONFIG_B", "CONFIG_C"]


def test_configure_refuses_an_option_that_every_release_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def make(tree: Path, targets: tuple[str, ...], log: Path, variables: Mapping[str, str]) -> None:
        config = tree / ".config"
        if targets == ("tinyconfig",):
            config.write_text("CONFIG_TINY=y\n")
        else:
            config.write_text(config.read_text().replace("CONFIG_KASAN=y\n", ""))

    monkeypatch.setattr("vmtest.kernel_build.run_make", make)
    with pytest.raises(Problem, match=r"lines of kernel\.debug\.config did not take effect: CONFIG_KASAN$"):
        configure(tmp_path, tmp_path / "log", fragments(debug=True))
    (tmp_path / ".config").unlink()
    configure(tmp_path, tmp_path / "log", fragments(debug=False))


@pytest.mark.parametrize(
    ("name", "expected"),
    [(None, Wanted()), ("6.12", Wanted("6.12")), ("debug", Wanted(debug=True))],
)
def test_names_of_kernels(name: str | None, expected: Wanted) -> None:
    assert Wanted.named(name) == expected


@pytest.mark.parametrize(
    ("package", "version"),
    [("linux-source-7.3", "7.3"), ("linux-source-6.12", "6.12"), ("linux-image-6.1.0-40-amd64", "6.1")],
)
def test_kernel_of_a_package(package: str, version: str) -> None:
    assert kernel_of(package) == version


def test_newest_package_of_a_version_is_taken(cache: Path) -> None:
    wanted = Wanted("6.12")
    finish(cache, wanted, "6.12", "6.12.9-1")
    newest = finish(cache, wanted, "6.12", "6.12.43-1~bpo12+1")
    finish(cache, wanted, "7.3", "7.3.4-1")
    assert finished_kernel(wanted) == newest


def test_kernel_of_another_recipe_is_not_taken(cache: Path) -> None:
    wanted = Wanted("6.12")
    finish(cache, wanted, "6.12", "6.12.43-1", compiler="gcc 1.0")
    finish(cache, Wanted("6.12", debug=True), "6.12", "6.12.43-1")
    assert finished_kernel(wanted) is None


def test_newest_kernel_is_what_the_link_leads_to(cache: Path) -> None:
    wanted = Wanted()
    directory = finish(cache, wanted, "7.3", "7.3.4-1")
    assert finished_kernel(wanted) is None
    wanted.newest_link.parent.mkdir()
    wanted.newest_link.symlink_to(directory)
    assert finished_kernel(wanted) == directory
    assert finished_kernel(Wanted(debug=True)) is None


def test_finished_kernel_needs_nothing_else(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "install", lambda *packages: pytest.fail("packages were asked for"))
    directory = finish(cache, Wanted("6.12"), "6.12", "6.12.43-1")
    assert require_kernel(Wanted("6.12")) == directory


def test_there_is_no_debug_kernel_of_a_ready_one(cache: Path) -> None:
    with pytest.raises(Problem, match=r"kernel 6\.1 is the distribution's own"):
        require_kernel(Wanted("6.1", debug=True))


def test_modules_come_with_what_they_depend_on(tmp_path: Path) -> None:
    for name, needed in (("a-b", "c_d"), ("c-d", "e"), ("e", ""), ("other", "a-b")):
        (tmp_path / f"{name}.ko").write_bytes(b"x\0depends=" + needed.encode() + b"\0y")
    found = modules_with_dependencies(tmp_path, ("a_b",))
    assert {path.stem: [other.stem for other in needed] for path, needed in found.items()} == {
        "e": [],
        "c-d": ["e"],
        "a-b": ["c-d", "e"],
    }


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
def test_sources_of_a_module_are_without_what_make_left(module: Module) -> None:
    names = module.sources()
    assert {"Kbuild", "main.c", "compat.h"} <= names.keys()
    assert not [name for name in names if name.endswith(".mod.c")]


# --- the command --------------------------------------------------------------------------------------------------------


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr("sys.argv", ["build_kernel", *arguments])
    return build_kernel.main()


def test_print_dir_without_a_kernel_is_4(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "--kernel", "6.12", "--print-dir") == 4


def test_print_dir_of_a_finished_kernel(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = finish(cache, Wanted("6.12"), "6.12", "6.12.43-1")
    assert run(monkeypatch, "--kernel", "6.12", "--print-dir") == 0
    assert capsys.readouterr().out == f"{directory}\n"


@pytest.mark.parametrize(("problem", "code"), [(Problem("it failed"), 1), (Missing("flex is missing"), 3)])
def test_exit_codes_of_problems(
    problem: Problem, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise problem

    monkeypatch.setattr(build_kernel, "require_kernel", fail)
    assert run(monkeypatch) == code
    assert capsys.readouterr().err == f"build_kernel: {problem}\n"


def test_a_module_that_does_not_build_exits_with_5(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = finish(cache, Wanted("6.12"), "6.12", "6.12.43-1")
    monkeypatch.setattr(Module, "build", lambda self, kernel: None)
    assert run(monkeypatch, "--kernel", "6.12", "--json") == 5
    paths = json.loads(capsys.readouterr().out)
    assert paths["kernel"] == str(directory)
    assert paths["release"] == "6.12.1"
    assert (paths["vfio_mock"], paths["edu_vfio_pci"]) == (None, None)
