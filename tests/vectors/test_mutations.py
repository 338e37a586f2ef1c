# SPDX-License-Identifier: MIT
"""Small changes of a vector's input must change the answer: a vector proves something only if its answer depends on its input."""

from __future__ import annotations

import struct
from functools import cache
from typing import Any

import pytest

from tests.vectors.adapters import ADAPTERS
from tests.vectors.mutations import Mutation, fields_of, mutations, words_of
from tests.vectors.vector_file import OWN, load

VECTORS = load(OWN)
WORDS = words_of(VECTORS)

ALSO: dict[str, dict[str, tuple[Any, ...]]] = {
    "dirty_ranges": {"sections": (VECTORS[0]["input"]["sections"],)},
    "iova_tree_insert": {"map.perm": ("NONE",), "existing": ([{"iova": "0x9ffff", "size": "0x0"}],)},
    "iova_tree_remove": {"remove": (["0x10000", "0x1ffff"],)},
    "mlx5_start": {"caps.log_min_addr_space": (50,)},
    "collapse_retry": {"device": ("mlx5 log_max 46",)},
    "map_failure_policy": {"when": ("init",), "device": ("0000:02:00.0",)},
    "page_size_mask": {"name": ("0000:02:00.0",)},
    "set_host_iova_ranges": {
        "steps.aliased": ("bus1/02.3",),
        "steps.bdf": ("02:00.0",),
    },
    "kernel_logging_start": {"generate.count": (1,)},
}
"""Values that no small change comes upon."""

WITHOUT_INPUT = {"dma_logging_stop_request", "constants"}

INERT = {
    "dirty_ranges": {
        "sections.has_ram_discard_manager": "virtio-mem counts whole, whatever is plugged",
        "sections.is_ram_device": "a RAM device counts as RAM; QEMU goes by the owner",
        "sections.readonly": "ROM counts as RAM",
    },
    "section_iova_range": {
        "section.has_ram_discard_manager": "virtio-mem counts whole, whatever is plugged",
        "section.is_ram_device": "a RAM device counts as RAM",
        "section.owner_is_vfio_pci_in_container": "which range it goes to comes later",
        "section.readonly": "ROM counts as RAM",
    },
    "kernel_logging_start": {
        "generate.first_iova": "too many ranges are refused before any is looked at",
        "generate.length": "likewise",
        "generate.stride": "likewise",
    },
    "map_failure_policy": {"errno": "QEMU goes by the region, not by the error"},
    "tracking_backend": {"devices.device_dirty_page_tracking": "in the one vector another device cannot log anyway"},
    "amd_1tb_rfc": {"pci_hole64_size": "all vectors leave it to the board"},
    "mlx5_page_size": {
        "log_min_page_size": "in the one vector the device has a single page size",
        "requested": "likewise",
    },
    "set_host_iova_ranges": {
        "steps.probe": "whichever device is meant, it is behind the same function",
        "steps.unset": "no vector plugs a second device that could go instead",
    },
}
"""Fields of which no change matters in any of the vectors, and why."""

REFUSED = (ValueError, IndexError, KeyError, struct.error)
"""A changed input may be none at all; that proves nothing, so it does not count."""


def answer(vector: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    found = ADAPTERS[vector["op"]](given, vector["variant"])
    return {field: found.get(field) for field in vector["expect"]}


@cache
def fields_that_matter(index: int) -> set[str]:
    """Return the fields whose change alters the answer.

    :param index: the number of the vector
    """
    vector = VECTORS[index]
    unchanged = answer(vector, vector["input"])
    op = vector["op"]

    def matters(mutation: Mutation) -> bool:
        try:
            return answer(vector, mutation.input) != unchanged
        except REFUSED:
            return False

    every = mutations(vector["input"], WORDS[op], ALSO.get(op, {}))
    return {mutation.field for mutation in every if matters(mutation)}


@pytest.mark.parametrize(
    "index", [pytest.param(index, id=str(vector["id"])) for index, vector in enumerate(VECTORS) if vector["input"]]
)
def test_changing_an_input_that_matters_changes_the_answer(index: int) -> None:
    assert fields_that_matter(index)


def test_only_constants_have_no_input() -> None:
    assert {vector["op"] for vector in VECTORS if not vector["input"]} == WITHOUT_INPUT


@pytest.mark.parametrize("op", sorted({vector["op"] for vector in VECTORS}))
def test_every_field_matters_in_some_vector_or_is_known_not_to(op: str) -> None:
    own = [index for index, vector in enumerate(VECTORS) if vector["op"] == op]
    fields = set().union(*(fields_of(VECTORS[index]["input"]) for index in own))
    matter = set().union(*(fields_that_matter(index) for index in own))
    assert fields - matter == set(INERT.get(op, {}))
