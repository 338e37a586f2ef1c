# SPDX-License-Identifier: MIT
"""The mock's file system answers by path as a real one does: the same trees are made in both, and each path is looked at in both."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from pyvfio.mock.fs.tree import Link, Special, Text, Tree
from pyvfio.mock.machine.errno import Errno

NAMES = ("a", "b", "c", "d")
#: links that Linux follows in one path
MOST = 40


def outcome(call: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a call returns, or the errno that it fails with."""
    try:
        result = call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    except Errno as error:
        return errno.errorcode[error.number]
    return sorted(result) if isinstance(result, list) else result


class Both:
    """A tree, and the same one on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tree = Tree()

    def directory(self, path: str) -> None:
        self.tree.directory(path)
        Path(f"{self.root}{path}").mkdir(parents=True, exist_ok=True)

    def file(self, path: str, content: bytes) -> None:
        self.directory(path.rpartition("/")[0])
        self.tree.add(path, Text(content))
        Path(f"{self.root}{path}").write_bytes(content)

    def link(self, path: str, target: str) -> None:
        """An absolute target is one below the root of either."""
        self.directory(path.rpartition("/")[0])
        self.tree.add(path, Link(target))
        Path(f"{self.root}{path}").symlink_to(f"{self.root}{target}" if target.startswith("/") else target)

    def agree(self, path: str) -> None:
        """Compare every question about a path."""
        real = f"{self.root}{path}"
        assert outcome(self.tree.exists, path) == outcome(os.path.exists, real), f"exists {path}"
        assert outcome(self.tree.listdir, path) == outcome(os.listdir, real), f"listdir {path}"
        assert outcome(self.tree.read, path) == outcome(lambda: Path(real).read_bytes()), f"read {path}"
        target = outcome(os.readlink, real)
        assert outcome(self.tree.readlink, path) == target.removeprefix(str(self.root)), f"readlink {path}"
        if outcome(os.stat, real) != "ELOOP":
            there = os.path.realpath(real).removeprefix(str(self.root))
            assert self.tree.realpath(path) == (there or "/"), f"realpath {path}"


def random_tree(both: Both, random: Random) -> list[str]:
    """Make a tree, and return paths in it and beside it. A link goes up first, then down, as those of sysfs do."""
    taken: list[str] = []
    for _ in range(14):
        above = "".join(f"/{random.choice(NAMES)}" for _ in range(random.randrange(3)))
        path = f"{above}/{random.choice(NAMES)}"
        if any(one == path or one.startswith(f"{path}/") or path.startswith(f"{one}/") for one in taken):
            continue
        taken.append(path)
        kind = random.randrange(4)
        if kind == 0:
            both.directory(path)
        elif kind == 1:
            both.file(path, random.randbytes(5))
        else:
            down = random.choice(("", "./")) + "/".join(random.choices(NAMES, k=random.randrange(1, 4)))
            both.link(path, f"/{down}" if kind == 2 else "../" * random.randrange(above.count("/") + 1) + down)
    asked = [
        "".join(f"/{name}" for name in random.choices((*NAMES, "missing"), k=random.randrange(1, 5))) for _ in range(60)
    ]
    return [*taken, *(f"{path}/{name}" for path in taken for name in NAMES), *asked]


@pytest.mark.parametrize("seed", range(40))
def test_random_trees_answer_as_the_real_file_system(tmp_path: Path, seed: int) -> None:
    both = Both(tmp_path)
    for path in random_tree(both, Random(seed)):
        both.agree(path)


def test_a_link_up_and_through_another_link_leads_there(tmp_path: Path) -> None:
    both = Both(tmp_path)
    both.file("/sys/devices/pci/dev/vendor", b"0x1234\n")
    both.directory("/sys/bus/devices")
    both.link("/sys/bus/devices/dev", "../../devices/pci/dev")
    both.link("/sys/devices/pci/dev/driver", "../../../bus")
    both.link("/sys/bus/again", "./devices/../devices/dev")
    for path in (
        "/sys/bus/devices/dev/vendor",
        "/sys/bus/devices/dev/driver/devices/dev/vendor",
        "/sys/bus/again/vendor",
        "/sys/bus/again/driver",
        "/sys/bus/devices/dev/vendor/below",
        "/sys/bus/devices/nothing/vendor",
        "/",
    ):
        both.agree(path)
    for path in ("/sys/devices/pci/dev/vendor/", "/sys/devices/"):
        assert outcome(both.tree.readlink, path) == outcome(os.readlink, f"{tmp_path}{path}"), path


@pytest.mark.parametrize("count", [1, MOST - 1, MOST, MOST + 1])
def test_forty_links_are_followed_and_no_more(tmp_path: Path, count: int) -> None:
    both = Both(tmp_path)
    both.file("/0", b"end")
    for number in range(count):
        both.link(f"/{number + 1}", str(number))
    assert outcome(both.tree.read, f"/{count}") == (b"end" if count <= MOST else "ELOOP")
    both.agree(f"/{count}")


def test_a_link_to_itself_is_eloop(tmp_path: Path) -> None:
    both = Both(tmp_path)
    both.link("/a", "a")
    both.agree("/a")
    with pytest.raises(Errno) as caught:
        both.tree.realpath("/a")
    assert caught.value.number == errno.ELOOP


def test_what_is_written_arrives_where_it_may_be_written() -> None:
    written: list[bytes] = []
    tree = Tree()
    tree.add("/d/open", Text(b"", written.append))
    tree.add("/d/only", Text(b"x"))
    tree.add("/d/never", Text(None, written.append))
    tree.add("/d/node", Special(lambda flags: 5, None))
    tree.add("/d/file", Special(lambda flags: flags, lambda: b"inside"))
    tree.add("/d/link", Link("open"))
    for path, error in (
        ("/d", "EISDIR"),
        ("/d/open", None),
        ("/d/link", None),
        ("/d/only", "EACCES"),
        ("/d/node", "EACCES"),
        ("/d/missing", "ENOENT"),
        ("/d/open/below", "ENOTDIR"),
    ):
        assert outcome(tree.write, path, path.encode()) == error, path
    tree.write("/d/open", b"")  # as a write of no bytes, which does nothing
    assert written == [b"/d/open", b"/d/link"]
    for path, found in (
        ("/d/never", "EACCES"),
        ("/d/node", "EACCES"),
        ("/d/file", b"inside"),
        ("/d/only", b"x"),
        ("/d", "EISDIR"),
    ):
        assert outcome(tree.read, path) == found, path
    assert outcome(tree.special, "/d") == "EISDIR"
    assert outcome(tree.special, "/d/only") == "ENXIO"
    assert tree.special("/d/file").open(7) == 7


def test_a_node_is_replaced_and_removed_with_all_below() -> None:
    tree = Tree()
    tree.add("/a/b/c", Text(b"1"))
    tree.add("/a/b/c", Text(b"2"))
    assert tree.read("/a/b/c") == b"2"
    tree.add("/to", Link("a/b"))
    tree.add("/to/d", Text(b"3"))
    tree.add("/to/e/f", Text(b"4"))
    assert tree.read("/a/b/e/f") == b"4"
    assert sorted(tree.listdir("/a/b")) == ["c", "d", "e"]
    tree.remove("/to/e")
    assert outcome(tree.directory, "/a/b/c/d") == "ENOTDIR"
    for nothing in ("/a/b/x", "/x/y", "/a/b/c/z"):
        tree.remove(nothing)
    tree.remove("/to/d")
    assert tree.listdir("/a/b") == ["c"]
    tree.remove("/a")
    assert tree.listdir("/") == ["to"]
    assert not tree.exists("/to")
    assert tree.readlink("/to") == "a/b"
