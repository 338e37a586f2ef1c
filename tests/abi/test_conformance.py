# SPDX-License-Identifier: MIT
"""The extension agrees with the kernel's exported headers."""

from __future__ import annotations

import re
from pathlib import Path

from tests.abi.abi import HEADERS, IOMMUFD, VFIO, Abi, differences


def test_the_extension_has_the_kernels_names_numbers_and_offsets(kernel: Abi, ours: Abi, excluded: set[str]) -> None:
    assert differences(kernel, ours, excluded) == []


def test_the_kernel_has_34_requests_of_vfio_and_22_of_iommufd(kernel: Abi, ours: Abi, excluded: set[str]) -> None:
    requests = {name: {key for key, header in kernel.requests.items() if header == name} for name in HEADERS}

    assert [len(names) for names in requests.values()] == [34, 0, 22]
    assert len(requests[VFIO] - excluded) == 24
    assert requests[IOMMUFD] <= ours.constants.keys()


def test_a_plain_search_of_the_headers_finds_nothing_more(kernel: Abi, kernel_headers: Path) -> None:
    text = "".join((kernel_headers / name).read_text() for name in HEADERS)
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    found = set(re.findall(r"^\s*#\s*define\s+(\w+)", text, re.MULTILINE))
    found |= {f"{kind} {name}" for kind, name in re.findall(r"\b(struct|union|enum)\s+(\w+)\s*\{", text)}
    words = {
        word for body in re.findall(r"\benum\b[^{;]*\{([^}]*)\}", text) for word in re.findall(r"\b[A-Z]\w+", body)
    }
    members = {word for struct in kernel.structs.values() for path in struct.fields for word in path.split(".")}
    fields = set(re.findall(r"\b__(?:aligned_)?[a-z]+\d+\s+\**(\w+)\s*[;\[]", text))

    assert len(found) > 250
    assert len(words) > 100
    assert len(fields) > 150
    assert (found | words) - {name.removesuffix("()") for name in kernel.names()} == set()
    assert fields - members == set()
