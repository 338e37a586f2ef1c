# SPDX-License-Identifier: MIT
"""The pytest fixtures and marks that an installed pyvfio provides."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

import pyvfio
from pyvfio import Device, IovaRange, pytest_plugin
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


def test_an_ability_that_is_not_named_is_an_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.vfio_require()\ndef test_it(vfio_device): pass")
    result = pytester.runpytest()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*vfio_require names no ability*"])
    result.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.vfio(profile="amd")
def test_the_amd_profile_gives_a_device_with_the_hole(vfio_device: Device) -> None:
    hole = IovaRange(0xFD00000000, 0xFFFFFFFFFF)
    assert vfio_device.address_space.iova_ranges
    with pytest.raises(OSError, match="reserved"):
        vfio_device.address_space.alloc(4096, iova=hole.start)


@pytest.mark.vfio_require("msix", "msi")
def test_a_device_is_chosen_by_what_is_required(vfio_device: Device) -> None:
    assert vfio_device.irqs.msix.count


@pytest.mark.vfio_require("dirty_log")
def test_an_emulated_device_has_no_iommu(vfio_device: Device) -> None:
    assert vfio_device.address == "vfio-mock.0"
    assert pytest_plugin._lacks(vfio_device, "iommu") == "vfio-mock.0 has no IOMMU that translates for it"
    assert pytest_plugin._lacks(vfio_device, "iommu_dirty")


def test_code_that_names_no_kernel_gets_the_kernel_of_the_test(vfio_kernel: Kernel) -> None:
    with pyvfio.host.bind("0000:00:03.0", "vfio-pci"), pyvfio.open("0000:00:03.0") as device:
        assert device.address == "0000:00:03.0"
    assert pyvfio.kernel.default() is vfio_kernel


def test_the_default_kernel_is_put_back(pytester: pytest.Pytester) -> None:
    before = pyvfio.kernel.default()
    pytester.makepyfile("def test_it(vfio_kernel): pass")
    pytester.runpytest().assert_outcomes(passed=1)
    assert pyvfio.kernel.default() is before


def test_a_device_is_bound_before_its_space_is_opened(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("""
        import pytest, pyvfio

        @pytest.fixture(autouse=True)
        def order(monkeypatch):
            really = pyvfio.address_space

            def checked(mode=None, *, kernel=None):
                assert pyvfio.host.device("0000:00:04.0", kernel).driver == "vfio-pci"
                return really(mode, kernel=kernel)

            monkeypatch.setattr(pyvfio, "address_space", checked)
    """)
    pytester.makepyfile("""
        import pytest

        @pytest.mark.vfio(device="0000:00:04.0")
        def test_it(vfio_space, vfio_device):
            pass
    """)
    pytester.runpytest().assert_outcomes(passed=1)


MODULE = """
    import pytest

    pytestmark = pytest.mark.vfio(profile="amd")
    seen = []

    @pytest.fixture(scope="module")
    def started(vfio_device):
        return vfio_device.dirty_log

    def test_one(started, vfio_device):
        seen.append(vfio_device)

    def test_two(vfio_device, vfio_kernel):
        assert seen == [vfio_device] and vfio_kernel.profile.name == "amd"
"""


def test_fixtures_can_live_as_long_as_a_module(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(MODULE)
    pytester.runpytest("--vfio-scope", "module").assert_outcomes(passed=2)
    pytester.makeini("[pytest]\nvfio_scope = module")
    pytester.runpytest().assert_outcomes(passed=2)
    pytester.makeini("[pytest]")
    pytester.runpytest().assert_outcomes(errors=1, failed=1)  # a module-scoped fixture cannot use a function-scoped one


def test_a_mark_inside_the_scope_of_the_fixtures_is_an_error(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS.format(ability="pci", fixture="vfio_device"))
    result = pytester.runpytest("--vfio-scope", "module")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*live as long as the module*"])


REAL = """
    import pytest
    import pyvfio

    def test_plain(vfio_device):
        assert vfio_device.address == "0000:00:03.0"

    def test_again(vfio_device):
        assert pyvfio.host.device("0000:00:03.0").driver == "vfio-pci"

    @pytest.mark.vfio(profile="amd")
    def test_profile(vfio_device): pass

    @pytest.mark.vfio(device="0000:00:04.0")
    def test_other(vfio_device): pass

    @pytest.mark.vfio_mock_only
    def test_mock(vfio_device): pass

    @pytest.mark.vfio_real_only
    def test_real(vfio_device): pass

    @pytest.mark.vfio_destructive
    def test_destructive(vfio_device): pass
"""


@pytest.fixture
def rehearsed() -> Iterator[Kernel]:
    """A mock that replaces the real kernel as the default."""
    kernel = Kernel("amd")
    with pyvfio.kernel.as_default(kernel):
        yield kernel


def test_a_real_device_is_bound_once_and_restored(pytester: pytest.Pytester, rehearsed: Kernel) -> None:
    pytester.makepyfile(REAL)
    result = pytester.runpytest("--vfio-device", "0000:00:03.0", "-rs")
    result.assert_outcomes(passed=3, skipped=4)
    result.stdout.fnmatch_lines(["pyvfio: *mock:amd*device 0000:00:03.0*", "*profile='amd'*", "*--vfio-destructive*"])
    assert pyvfio.host.device("0000:00:03.0", rehearsed).driver is None


def test_destructive_tests_run_on_request(pytester: pytest.Pytester, rehearsed: Kernel) -> None:
    pytester.makepyfile(REAL)
    result = pytester.runpytest("--vfio-device", "0000:00:03.0", "--vfio-destructive", "--vfio-mode", "type1v2")
    result.assert_outcomes(passed=4, skipped=3)


def test_tests_for_a_real_device_are_skipped_without_one(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("import pytest\n@pytest.mark.vfio_real_only\ndef test_it(vfio_device): pass")
    pytester.runpytest().assert_outcomes(skipped=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--vfio-device", "nonsense"], "*--vfio-device nonsense: *no device*"),
        (["--vfio-device", "0000:00:03.0", "--vfio-bind", "no-such-driver"], "*no-such-driver*"),
        (["--vfio-destructive"], "*name it with --vfio-device*"),
        (["--vfio-bind", "vfio-pci"], "*name it with --vfio-device*"),
        (["-o", "vfio_scope=week"], "*'week' is not one of*"),
    ],
)
def test_options_that_cannot_work_are_refused_at_the_start(
    pytester: pytest.Pytester, rehearsed: Kernel, options: list[str], message: str
) -> None:
    assert rehearsed.devices
    pytester.makepyfile(REAL)
    result = pytester.runpytest(*options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([message])


def test_a_device_that_another_program_keeps_bound_is_refused(pytester: pytest.Pytester, rehearsed: Kernel) -> None:
    pytester.makepyfile(REAL)
    with pyvfio.host.bind("0000:00:03.0", "vfio-pci", kernel=rehearsed):
        result = pytester.runpytest("--vfio-device", "0000:00:03.0")
    assert result.ret != 0
    assert "keeps" in result.stdout.str() + result.stderr.str()


def test_xdist_is_refused_with_a_real_device(pytester: pytest.Pytester, rehearsed: Kernel) -> None:
    assert rehearsed.devices
    pytester.makeconftest("def pytest_addoption(parser): parser.addoption('--numprocesses', type=int)")
    result = pytester.runpytest("--vfio-device", "0000:00:03.0", "--numprocesses", "2")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*one user at a time*"])


def test_reports_say_on_what_a_test_ran(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(TESTS.format(ability="pci", fixture="vfio_device"))
    pytester.runpytest("--junit-xml", "report.xml").assert_outcomes(passed=1)
    case = ElementTree.parse(pytester.path / "report.xml").getroot().find(".//testcase")
    assert case is not None
    found = {each.get("name"): each.get("value") for each in case.iterfind("properties/property")}
    assert str(found["vfio_kernel"]).startswith("mock:intel-39")
    assert (
        found.items()
        >= {
            "vfio_real": "no",
            "vfio_device": "0000:00:03.0",
            "vfio_driver": "vfio-pci",
            "vfio_identity": "1234:11e8 (rev 10)",
            "vfio_mode": "iommufd",
        }.items()
    )


def test_the_contract_suite_refuses_a_real_device(pytester: pytest.Pytester) -> None:
    folder = Path(__file__).parents[1]
    result = pytester.runpytest_subprocess(
        "--rootdir",
        folder.parent,
        "-c",
        folder.parent / "pyproject.toml",
        folder / "contract",
        "--vfio-device",
        "0000:00:03.0",
    )
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*pyvfio check ADDRESS*"])


def test_the_report_names_profiles_never_compared_with_hardware(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.vfio(profile="mlx5")
        def test_one(vfio_device):
            pass

        @pytest.mark.vfio(profile="amd")
        def test_two(vfio_device):
            pass
        """
    )
    result = pytester.runpytest_subprocess("--junitxml=report.xml")
    result.stdout.fnmatch_lines(["pyvfio: 1 of the tests are on mock:mlx5, a profile that was never compared*"])
    result.stdout.no_fnmatch_line("*mock:amd*")
    cases = ElementTree.parse(pytester.path / "report.xml").iterfind(".//testcase")
    compared = {
        str(case.get("name")): [
            each.get("value") for each in case.iterfind("properties/property[@name='vfio_compared']")
        ]
        for case in cases
    }
    assert compared == {"test_one": ["never with hardware"], "test_two": []}
