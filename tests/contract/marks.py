# SPDX-License-Identifier: MIT
"""Marks that several modules of the suite have. Only the suite itself knows them."""

from __future__ import annotations

import pytest

#: Where what needs no device of the machine's is tested: one cell of one machine is enough.
one_cell = [pytest.mark.only(iommu="none", mode="iommufd", device="edu"), pytest.mark.require("linux")]
