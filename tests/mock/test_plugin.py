# SPDX-License-Identifier: MIT
"""The fixtures and marks that pytest has wherever pyvfio is installed."""

from __future__ import annotations

import pytest

from pyvfio import Device, IovaRange
from pyvfio.mock import Kernel
from pyvfio.spaces.base import AddressSpace

pytest_plugins = ["pytester"]


@pytest.mark.vfio(profile="mlx5")
@pytest.mark.vfio_require("dirty_log", "pci", "iommu")
def test_two_wide_ranges_are_refused(vfio_device: Device) -> None:
    with pytest.raises(OSError, match=r"2\^46"):
        vfio_device.dirty_log([IovaRange(0, 0x807FFFFF), IovaRange(0x100000000, 0x3838000FFFFF)])


def test_the_usual_device_logs(vfio_device: Device) -> None:
    mapping = vfio_device.address_space.alloc(1 << 20)
    with vfio_device.dirty_log([mapping.range]) as log:
        assert not log.read()


@pytest.mark.vfio(profile="amd", memlock=1 << 20, mode="type1v2", device="0000:00:03.0")
def test_the_mark_chooses(vfio_kernel: Kernel, vfio_space: AddressSpace, vfio_device: Device) -> None:
    assert isinstance(vfio_kernel, Kernel)
    assert (vfio_kernel.profile.name, vfio_kernel.profile.memlock) == ("amd", 1 << 20)
    assert (vfio_space.mode, vfio_device.address) == ("type1v2", "0000:00:03.0")
    assert vfio_device.address_space is vfio_space


TESTS = """
    import pytest

    @pytest.mark.vfio(device="0000:00:03.0")
    @pytest.mark.vfio_require("{ability}")
    def test_it({fixture}):
        pass
"""


@pytest.mark.parametrize(
    ("ability", "reason"),
    [
        ("dirty_log", "0000:00:03.0 cannot log DMA"),
        ("migration", "0000:00:03.0 cannot be migrated"),
        ("msix", "0000:00:03.0 has no MSI-X"),
        ("reset", "0000:00:03.0 has no reset of its own"),
    ],
)
def test_what_a_device_lacks_is_the_reason_of_a_skip(pytester: pytest.Pytester, ability: str, reason: str) -> None:
    pytester.makepyfile(TESTS.format(ability=ability, fixture="vfio_device"))
    result = pytester.runpytest("-rs")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines([f"*{reason}*"])


@pytest.mark.parametrize("ability", ["intx", "iommu", "msi", "pci"])
def test_what_a_device_has_is_no_reason(pytester: pytest.Pytester, ability: str) -> None:
    pytester.makepyfile(TESTS.format(ability=ability, fixture="vfio_device"))
    pytester.runpytest().assert_outcomes(passed=1)


def test_an_unknown_ability_is_an_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS.format(ability="wings", fixture="vfio_device"))
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*'wings'*dirty_log*"])


def test_a_requirement_of_no_device_is_an_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS.format(ability="pci", fixture="vfio_kernel"))
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*does not use*"])


def test_a_real_device_is_looked_for_on_the_real_kernel(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(vfio_kernel):\n    assert vfio_kernel.name == 'linux'")
    pytester.runpytest("--vfio-device", "0000:41:10.1").assert_outcomes(passed=1)
