# SPDX-License-Identifier: MIT
"""Try a few thousand mutated messages. `python -m tests.vfio_user.mutate 1000000` tries more."""

from __future__ import annotations

import random

from tests.vfio_user import mutate


def test_a_server_survives_mutated_messages() -> None:
    mutate.attack_server(5000, random.Random(7))


def test_a_client_survives_mutated_answers() -> None:
    mutate.attack_client(2000, random.Random(7))
