# SPDX-License-Identifier: MIT
"""Every errno that the mock can return was seen from a real kernel, or is listed as one that cannot be provoked there."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tests.differential import reached
from tests.differential.records import FILES, replayed

UNREACHED: dict[str, str] = tomllib.loads((Path(__file__).parent / "unreached.toml").read_text())["unreached"]


def test_each_error_of_the_mock_was_seen_or_is_listed() -> None:
    places = {place for file in FILES for place in replayed(file).places}
    missing = {site.name for site in reached.unreached(places)}
    unlisted, reached_after_all = missing - UNREACHED.keys(), UNREACHED.keys() - missing
    assert not unlisted, "neither recorded nor in unreached.toml"
    assert not reached_after_all, "in unreached.toml, and yet reached, or no more there"


def test_each_reason_is_given() -> None:
    assert all(reason and not reason.endswith(".") for reason in UNREACHED.values())


def test_sites_have_names_of_their_own() -> None:
    names = [site.name for site in reached.sites()]
    assert len(names) == len(set(names))
