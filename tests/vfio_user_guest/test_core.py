# SPDX-License-Identifier: MIT
"""Models in a guest, driven by pyvfio through Linux's vfio-pci, and by Linux's own drivers."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vfio_user_guest.conftest import Serve, boot


@pytest.mark.timeout(600)
def test_adder_behind_intels_iommu(serve: Serve, tmp_path: Path) -> None:
    serve("adder", "adder")
    serve("adder", "messages", "--no-shared-memory")
    assert "sum 3" in boot("adder", [tmp_path / "adder", tmp_path / "messages"])


@pytest.mark.timeout(600)
def test_nvme_makes_a_file_system(serve: Serve, tmp_path: Path) -> None:
    serve("nvme", "nvme")
    boot("nvme", [tmp_path / "nvme"])
