# SPDX-License-Identifier: MIT
"""Marks that several modules of the contract suite use."""

from __future__ import annotations

import pytest

#: For tests that need no device of the machine: one cell of one machine is enough.
one_cell = [pytest.mark.only(iommu="none", mode="iommufd", device="edu"), pytest.mark.require("linux")]
