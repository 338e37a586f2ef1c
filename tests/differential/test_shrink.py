# SPDX-License-Identifier: MIT
"""Shrinking of episodes, with two mocks instead of a machine and a mock."""

from __future__ import annotations

from tests.differential import generate, replay
from tests.differential.compare import disagreements
from tests.differential.shrink import shrunk
from tests.differential.steps import Answer, Episode


def test_a_disagreement_is_shrunk_to_the_steps_that_it_takes() -> None:
    episodes = [
        one
        for one in generate.episodes(3, 250, ["type1"])
        if any(step.get("request") == "VFIO_IOMMU_MAP_DMA" for step in one)
    ]
    with (
        replay.on_mock(generate.devices(["type1"]), "intel-39") as mock,
        replay.on_mock(generate.devices(["type1"]), "intel-39") as other,
    ):

        def wrong(episode: Episode) -> list[Answer]:
            """Answer as the mock does, but with EIO for every map that fails because of an existing mapping."""
            answers = other.episode(episode)
            return [
                {**answer, "r": -5} if answer["r"] == -17 and step.get("request") == "VFIO_IOMMU_MAP_DMA" else answer
                for step, answer in zip(episode, answers, strict=True)
            ]

        found = disagreements(episodes, [mock.episode(one) for one in episodes], [wrong(one) for one in episodes])
        assert found
        wanted = [min((episodes[one.episode][: one.step + 1] for one in found), key=len)]
        ((short, disagreement),) = shrunk(wanted, lambda several: [mock.episode(one) for one in several], wrong)
    assert disagreement.expected["r"] == -17
    # The shortest episode: a container, a group in it, an IOMMU, and two maps.
    assert len(short) <= 8


def test_the_same_seed_makes_the_same_episodes() -> None:
    assert generate.episodes(5, 500) == generate.episodes(5, 500)
