# SPDX-License-Identifier: MIT
"""The comparison of ABIs can fail: each test changes a header, and checks the reported difference."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.abi.abi import HEADERS, IOMMUFD, VFIO, Abi, Declarations, differences

GROUP_STATUS = r"(struct vfio_group_status \{)"
NEW_STRUCT = "struct vfio_new {\n\t__u32 argsz;\n};\n"


@pytest.fixture
def report(kernel_headers: Path, ours: Abi, excluded: set[str], tmp_path: Path) -> Callable[[str, str, str], list[str]]:
    """Return the report after a pattern in a header has been replaced."""

    def report(header: str, pattern: str, replacement: str) -> list[str]:
        text, count = re.subn(pattern, replacement, (kernel_headers / header).read_text(), flags=re.MULTILINE)
        assert count == 1, f"{pattern} is in {header} {count} times"
        (tmp_path / header).parent.mkdir()
        (tmp_path / header).write_text(text)
        return differences(Declarations(HEADERS, [tmp_path, kernel_headers]).measure(), ours, excluded)

    return report


@pytest.mark.parametrize(
    ("header", "pattern", "replacement", "lines"),
    [
        pytest.param(
            VFIO,
            r"^#define VFIO_API_VERSION\s+0",
            "#define VFIO_API_VERSION 1",
            ["VFIO_API_VERSION: is 0, the kernel's is 1"],
            id="a macro with another number",
        ),
        pytest.param(
            VFIO,
            '"vfio-amba"',
            '"vfio-umbra"',
            ["VFIO_DEVICE_API_AMBA_STRING: is 'vfio-amba', the kernel's is 'vfio-umbra'"],
            id="a macro with another text",
        ),
        pytest.param(
            VFIO,
            r"\(1 << 31\)",
            "(1 << 30)",
            ["VFIO_REGION_TYPE_PCI_VENDOR_TYPE: is 2147483648, the kernel's is 1073741824"],
            id="another number where ours is unsigned",
        ),
        pytest.param(
            VFIO,
            r"^#define VFIO_DEVICE_RESET\b.*",
            "#define VFIO_DEVICE_RESET _IO(VFIO_TYPE, VFIO_BASE + 42)",
            ["VFIO_DEVICE_RESET: is 15215, the kernel's is 15246"],
            id="a request with another number",
        ),
        pytest.param(
            VFIO,
            r"^#define VFIO_DEVICE_RESET\b.*",
            r"\g<0>\n#define VFIO_NEW _IO(VFIO_TYPE, VFIO_BASE + 42)",
            ["VFIO_NEW: in the kernel's headers, not declared"],
            id="a new request",
        ),
        pytest.param(
            VFIO,
            r"^#define VFIO_DEVICE_RESET\b.*",
            r"\g<0>\n#define VFIO_NEW ((enum vfio_device_mig_state)2)",
            ["VFIO_NEW: in the kernel's headers, not declared"],
            id="a macro with a cast",
        ),
        pytest.param(
            VFIO,
            r"^#define VFIO_DEVICE_RESET\b.*",
            r"\g<0>\n#define VFIO_NEW __u32",
            ["VFIO_NEW: in the kernel's headers, not declared"],
            id="a macro that is no number",
        ),
        pytest.param(
            VFIO,
            r"^#define VFIO_DEVICE_RESET\b.*",
            r"\g<0>\n#define VFIO_NEW",
            ["VFIO_NEW: in the kernel's headers, not declared"],
            id="a macro that is nothing",
        ),
        pytest.param(
            VFIO,
            r"^#define VFIO_DEVICE_RESET\b.*",
            r"\g<0>\n#define VFIO_NEW(x) (x)",
            ["VFIO_NEW(): in the kernel's headers, not declared"],
            id="a macro with arguments",
        ),
        pytest.param(
            VFIO,
            r"^#define VFIO_EEH\s+5",
            "",
            ["VFIO_EEH: excluded, not in the kernel's headers"],
            id="an excluded macro that is gone",
        ),
        pytest.param(
            VFIO,
            r"^#define VFIO_UNMAP_ALL\s+9",
            "",
            ["VFIO_UNMAP_ALL: declared, not in the kernel's headers"],
            id="a macro that is gone",
        ),
        pytest.param(
            VFIO,
            GROUP_STATUS,
            NEW_STRUCT + r"\1",
            ["struct vfio_new: in the kernel's headers, not declared"],
            id="a new struct",
        ),
        pytest.param(
            VFIO,
            GROUP_STATUS,
            "union vfio_new {\n\t__u32 a;\n\t__u64 b;\n};\n" + r"\1",
            ["union vfio_new: in the kernel's headers, not declared"],
            id="a new union",
        ),
        pytest.param(
            VFIO,
            GROUP_STATUS,
            "typedef struct {\n\t__u32 a;\n} vfio_new;\n" + r"\1",
            ["typedef vfio_new: in the kernel's headers, not declared"],
            id="a new typedef",
        ),
        pytest.param(
            VFIO,
            GROUP_STATUS,
            "static inline int vfio_new(void) { return 0; }\n" + r"\1",
            ["vfio_new(): in the kernel's headers, not declared"],
            id="a new function",
        ),
        pytest.param(
            VFIO,
            r"^\t__u32\s+num_irqs;.*",
            "",
            [
                "struct vfio_device_info: field cap_offset is unsigned of 32 bits, 32 in all, at bit 128, "
                "the kernel's is unsigned of 32 bits, 32 in all, at bit 96",
                "struct vfio_device_info: field num_irqs is not in the kernel's headers",
                "struct vfio_device_info: field pad is unsigned of 32 bits, 32 in all, at bit 160, "
                "the kernel's is unsigned of 32 bits, 32 in all, at bit 128",
                "struct vfio_device_info: size is 24, the kernel's is 20",
            ],
            id="a field that is gone",
        ),
        pytest.param(
            VFIO,
            GROUP_STATUS,
            r"\1" + "\n\tstruct vfio_new { __u8 x; } extra[0];",
            [
                "struct vfio_group_status: field extra is not declared",
                "struct vfio_new: in the kernel's headers, not declared",
            ],
            id="a new struct inside a struct",
        ),
        pytest.param(
            VFIO,
            GROUP_STATUS,
            r"\1" + "\n\tunion { __u8 x[0]; struct { __u8 z[0]; } y; };",
            [f"struct vfio_group_status: field {name} is not declared" for name in ("x", "y", "y.z")],
            id="new fields inside unnamed types",
        ),
        pytest.param(
            VFIO,
            r"^\t__s32\s+data_fd;.*",
            "\t__u32 data_fd;",
            [
                "struct vfio_device_feature_mig_state: "
                "field data_fd is signed of 32 bits, 32 in all, at bit 32, "
                "the kernel's is unsigned of 32 bits, 32 in all, at bit 32"
            ],
            id="a field of another sign",
        ),
        pytest.param(
            VFIO,
            r"^\t__s32\s+data_fd;.*",
            "\t__s32 data_fd : 7;",
            [
                "struct vfio_device_feature_mig_state: "
                "field data_fd is signed of 32 bits, 32 in all, at bit 32, "
                "the kernel's is signed of 7 bits, 7 in all, at bit 32"
            ],
            id="a field of bits",
        ),
        pytest.param(
            VFIO,
            r"^\t__s32\s+group_fds\[\];.*",
            "\t__u8 group_fds[];",
            [
                "struct vfio_pci_hot_reset: field group_fds is signed of 32 bits, 0 in all, at bit 96, "
                "the kernel's is unsigned of 8 bits, 0 in all, at bit 96"
            ],
            id="a flexible array of something else",
        ),
        pytest.param(
            IOMMUFD,
            r"__reserved\[3\]",
            "__reserved[2]",
            [
                "struct iommu_hw_info: field __reserved is unsigned of 8 bits, 24 in all, at bit 232, "
                "the kernel's is unsigned of 8 bits, 16 in all, at bit 232"
            ],
            id="a shorter array where padding hides it",
        ),
        pytest.param(
            IOMMUFD,
            r"IOMMU_VTD_INV_FLAGS_LEAF = 1 << 0,",
            r"\g<0> IOMMU_NEW = 2,",
            [
                "IOMMU_NEW: in the kernel's headers, not declared",
                "enum iommu_hwpt_vtd_s1_invalidate_flags: member IOMMU_NEW is not declared",
            ],
            id="a new member of an enum",
        ),
        pytest.param(
            IOMMUFD,
            r"^enum iommu_hw_queue_type \{",
            "enum iommu_queue_type {",
            [
                "enum iommu_hw_queue_type: declared, not in the kernel's headers",
                "enum iommu_queue_type: in the kernel's headers, not declared",
            ],
            id="an enum of another name",
        ),
        pytest.param(
            IOMMUFD,
            r"IOMMUFD_CMD_HW_QUEUE_ALLOC = 0x94",
            "IOMMUFD_CMD_HW_QUEUE_ALLOC = 0x99",
            [
                "IOMMUFD_CMD_HW_QUEUE_ALLOC: is 148, the kernel's is 153",
                "IOMMU_HW_QUEUE_ALLOC: is 15252, the kernel's is 15257",
            ],
            id="a member of an enum with another number",
        ),
    ],
)
def test_a_difference_is_reported(
    report: Callable[[str, str, str], list[str]],
    header: str,
    pattern: str,
    replacement: str,
    lines: list[str],
) -> None:
    assert report(header, pattern, replacement) == lines


@pytest.mark.parametrize(
    ("header", "pattern", "replacement"),
    [
        pytest.param(IOMMUFD, r"idr\[6\]", "idr[3][2]", id="an array of arrays"),
        pytest.param(VFIO, r"\(1 << 31\)", "0x80000000", id="an unsigned literal"),
        pytest.param(VFIO, GROUP_STATUS, "struct vfio_new;\n" + r"\1", id="a struct that is only named"),
    ],
)
def test_the_same_layout_in_other_words_is_no_difference(
    report: Callable[[str, str, str], list[str]], header: str, pattern: str, replacement: str
) -> None:
    assert report(header, pattern, replacement) == []


def test_a_name_that_is_both_excluded_and_declared_is_reported(kernel: Abi, ours: Abi, excluded: set[str]) -> None:
    assert differences(kernel, ours, excluded | {"VFIO_UNMAP_ALL"}) == ["VFIO_UNMAP_ALL: excluded, but declared"]


def test_a_name_that_is_not_excluded_any_more_is_reported(kernel: Abi, ours: Abi, excluded: set[str]) -> None:
    assert differences(kernel, ours, excluded - {"struct vfio_eeh_pe_op"}) == [
        "struct vfio_eeh_pe_op: in the kernel's headers, not declared"
    ]
