# SPDX-License-Identifier: MIT
"""vmtest.apt reads sources and versions of Debian packages."""

from __future__ import annotations

from pathlib import Path

import pytest
from vmtest.apt import AptSource, Package, install, parse_deb822, parse_madison, parse_one_line_style, version_key
from vmtest.problems import Missing

DEB822 = """\
# The mirror of the provider.
Types: deb
URIs: http://mirror.example/debian http://second.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb
URIs: http://mirror.example/security
Suites: bookworm-security
Trusted: yes
"""


def test_deb822_source_has_first_mirror_and_keyring(tmp_path: Path) -> None:
    expected = AptSource("http://mirror.example/debian", "signed-by=/usr/share/keyrings/debian.gpg")
    assert parse_deb822(DEB822, "bookworm", tmp_path / "key") == expected


def test_deb822_source_is_found_in_a_later_stanza(tmp_path: Path) -> None:
    expected = AptSource("http://mirror.example/security", "trusted=yes")
    assert parse_deb822(DEB822, "bookworm-security", tmp_path / "key") == expected


def test_deb822_without_the_suite_gives_none(tmp_path: Path) -> None:
    assert parse_deb822(DEB822, "trixie", tmp_path / "key") is None


def test_deb822_source_that_is_disabled_is_passed_over(tmp_path: Path) -> None:
    assert parse_deb822("Enabled: no\n" + DEB822.split("\n\n")[0], "bookworm", tmp_path / "key") is None


def test_deb822_keyring_in_the_text_is_written_to_a_file(tmp_path: Path) -> None:
    key = "Signed-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF\n -----END PGP PUBLIC KEY BLOCK-----\n"
    text = "Types: deb\nURIs: http://mirror.example\nSuites: trixie\nComponents: main\n" + key
    source = parse_deb822(text, "trixie", tmp_path / "key")
    assert source == AptSource("http://mirror.example", f"signed-by={tmp_path / 'key'}")
    lines = (tmp_path / "key").read_text().splitlines()
    assert lines == ["-----BEGIN PGP PUBLIC KEY BLOCK-----", "", "mQINBF", "-----END PGP PUBLIC KEY BLOCK-----"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("deb http://m.example/debian trixie main", AptSource("http://m.example/debian", "")),
        (
            "deb [arch=amd64 signed-by=/k.gpg] http://m.example trixie main",
            AptSource("http://m.example", "signed-by=/k.gpg"),
        ),
        ("deb-src http://m.example/debian trixie main", None),
        ("# deb http://m.example/debian trixie main", None),
        ("deb http://m.example/debian trixie-updates main", None),
    ],
)
def test_one_line_style(line: str, expected: AptSource | None) -> None:
    assert parse_one_line_style(f"deb http://other.example sid main\n{line}\n", "trixie") == expected


def test_madison_gives_suites_and_sorts_by_number() -> None:
    text = """\
linux-source-7.3 | 7.3.10-1~bpo13+1 | http://m.example/debian trixie-backports/main amd64 Packages
linux-source-7.3 |  7.3.4-1~bpo13+1 | http://m.example/debian trixie-backports/main amd64 Packages
linux-source-6.1 |    6.1.140-1 | http://m.example/debian bookworm/main amd64 Packages
"""
    assert parse_madison(text) == [
        Package("linux-source-6.1", "6.1.140-1", "bookworm"),
        Package("linux-source-7.3", "7.3.4-1~bpo13+1", "trixie-backports"),
        Package("linux-source-7.3", "7.3.10-1~bpo13+1", "trixie-backports"),
    ]


def test_version_key_compares_numbers() -> None:
    assert version_key("1:10.0.13+ds-0+deb13u1") > version_key("1:10.0.2+ds-2+deb13u1~bpo12+1")


def test_install_without_root_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmtest.apt.shutil.which", lambda _: "/usr/bin/tool")
    monkeypatch.setattr("vmtest.apt.is_installed", lambda package: package == "make")
    monkeypatch.setattr("vmtest.apt.os.geteuid", lambda: 1000)
    with pytest.raises(Missing, match=r"as root run: apt-get install flex bc$"):
        install("make", "flex", "bc")


def test_install_of_nothing_missing_runs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmtest.apt.shutil.which", lambda _: "/usr/bin/tool")
    monkeypatch.setattr("vmtest.apt.is_installed", lambda _: True)
    monkeypatch.setattr("vmtest.apt.subprocess.run", lambda *_, **__: pytest.fail("a command was run"))
    install("make", "flex")
