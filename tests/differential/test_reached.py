"""Every errno that the mock can raise has been seen from a real kernel, or there is a reason why not."""

from __future__ import annotations

import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import replay
from reached import noted, unreached
from steps import load

HERE = Path(__file__).parent
REASONS: dict[str, str] = tomllib.loads((HERE / "unreached.toml").read_text())


def test_what_no_kernel_has_answered_is_listed_with_the_reason() -> None:
    with noted() as places:
        for file in sorted((HERE / "recorded").glob("*.json.gz")):
            record = load(file)
            with replay.on_mock(record["devices"], record["profile"]) as replayer:
                for episode in record["episodes"]:
                    replayer.episode(episode)
    missing = [site.name for site in unreached(places)]
    unlisted = [name for name in missing if not any(fnmatchcase(name, pattern) for pattern in REASONS)]
    assert not unlisted, "\n".join(unlisted)
    stale = [pattern for pattern in REASONS if not any(fnmatchcase(name, pattern) for name in missing)]
    assert not stale, f"reached after all: {stale}"
