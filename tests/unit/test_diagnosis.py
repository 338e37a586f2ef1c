# SPDX-License-Identifier: MIT
"""The catalogue of findings: each function's answers to plain facts."""

from __future__ import annotations

import errno
import os

import pytest

import pyvfio
from pyvfio import host, mock
from pyvfio.host import diagnosis
from pyvfio.host.diagnosis import CATALOGUE, Finding

VF = "0000:41:10.1"
MEMBERS = {VF: "vfio-pci", "0000:41:00.0": "mlx5_core", "0000:40:01.0": "pcieport", "0000:41:10.2": None}

#: One call for each id of a finding.
EVERY = [
    diagnosis.no_group(VF, []),
    diagnosis.no_group(VF, ["dmar0"]),
    diagnosis.interrupts_not_isolated(VF, "iommufd.allow_unsafe_interrupts"),
    diagnosis.direct_region(VF, [(0x1000, 0x1FFF)]),
    diagnosis.no_iommu_refused(VF, enabled=True),
    diagnosis.vfio_missing(),
    diagnosis.iommufd_missing(),
    diagnosis.driver_missing("vfio-pci", "pci", ["e1000e"]),
    diagnosis.bridge("0000:00:01.0", 0x060400),
    diagnosis.not_bound(VF, "pci", None),
    diagnosis.not_bound(VF, "pci", "mlx5_core"),
    diagnosis.not_bound("83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", "mdev", None),
    diagnosis.group_not_viable(7, MEMBERS),
    diagnosis.node_missing("/dev/vfio/7", in_sysfs=True),
    diagnosis.not_permitted("/dev/vfio/7", errno.EACCES, user=1000, owner=0, mode=0o600),
    diagnosis.not_permitted("/dev/vfio/7", errno.EACCES, user=1000, owner=1000, mode=0o600),
    diagnosis.not_permitted("/dev/vfio/7", errno.EPERM, user=1000),
    diagnosis.not_permitted("/dev/vfio/noiommu-0", errno.EPERM, user=1000, raw_io=False),
    diagnosis.held(VF, ["process 5 (qemu), descriptor 9"]),
    diagnosis.held("/dev/vfio/7", [], group=True),
    diagnosis.kept_bound(VF, 5),
    diagnosis.journal_full("/run/pyvfio/pci:0000:41:10.1"),
    diagnosis.used_by_system(VF, {"network:eth0": "the default route"}),
    diagnosis.not_root(1000),
    diagnosis.vf_token(VF, given=False, wanted=True),
    diagnosis.vf_token(VF, given=True, wanted=True),
    diagnosis.vf_token(VF, given=True, wanted=False),
    diagnosis.memory_limit(1 << 30, 8 << 20, 0, unlimited=False),
    diagnosis.mapping_limit(65535),
    diagnosis.no_group(VF, [], command_line="ro quiet intel_iommu=off"),
    diagnosis.no_group(VF, [], tables=["APIC", "DMAR"]),
    diagnosis.unsafe_interrupts(["iommufd.allow_unsafe_interrupts"]),
    diagnosis.module_blacklisted("vfio_pci", ["/etc/modprobe.d/x.conf has: blacklist vfio_pci"]),
    diagnosis.interfaces_missing(containers=False, iommufd=False, cdevs=None),
    diagnosis.interfaces_missing(containers=True, iommufd=True, cdevs=False),
    diagnosis.kernel_lacks("iommufd", "Linux 6.2 has it", ["/dev/iommu does not exist"]),
    diagnosis.variant_driver(VF, "vfio-pci", ["mlx5_vfio_pci"]),
    diagnosis.variant_driver(VF, "vfio-pci", [], needed=True),
    diagnosis.override_foreign(VF, "vfio-pci", "mlx5_core"),
    diagnosis.taken_back(VF, "vfio-pci", "mlx5_core"),
    diagnosis.no_reset(VF, ""),
    diagnosis.d3cold(VF, "D3cold"),
    diagnosis.no_answer(VF, b"\xff" * 64),
    diagnosis.group_shared(7, VF, [VF, "0000:41:00.0"]),
    diagnosis.vf_token_needed(VF, "0000:41:00.0"),
    diagnosis.guest_memory(1 << 40, [("0xfd00000000", "[0xfd00000000, 0xffffffffff] (reserved)")], []),
    diagnosis.guest_memory(1 << 40, [], [("0xfd00000000", "[0xfd00000000, 0xffffffffff] (reserved)")]),
    diagnosis.mapping_limit_low(100),
    diagnosis.memory_limit_low(8 << 20, unlimited=False),
    diagnosis.huge_pages(4 << 30, 0, 2 << 20),
    diagnosis.no_virtual_functions(VF, errno.ENOENT, count=2, driver="vfio-pci"),
    diagnosis.no_virtual_functions(VF, errno.ENOMEM, count=2, driver="mlx5_core"),
    diagnosis.no_virtual_functions(VF, errno.EBUSY, count=2, driver="mlx5_core", there=1),
    diagnosis.bar_unassigned(VF, "0x0 0x3fff 0x20040200\n0x0 0x0 0x0\n0x0 0xfffff 0x2014220c\n"),
    diagnosis.behind_vmd(VF, "0000:00:0e.0"),
    diagnosis.msi_off(VF, ["/proc/cmdline has pci=nomsi"]),
    diagnosis.acs_override("host", "ro pcie_acs_override=downstream quiet"),
    diagnosis.ids_too_late(
        VF, "mlx5_core", (0x15B3, 0x101E), ["/etc/modprobe.d/x.conf has: options vfio-pci ids=15B3:101e"]
    ),
    diagnosis.type1_missing(containers=True, iommufd=False, modules=["vfio"]),
    diagnosis.memory_cgroup(4 << 30, 1 << 30, "/sys/fs/cgroup/machine.slice"),
    diagnosis.huge_pages_node(4 << 30, 6 << 20, 1, 2 << 20),
]


def test_each_id_of_the_catalogue_is_found_by_some_facts() -> None:
    assert {finding.id for finding in EVERY if finding} == set(CATALOGUE)
    assert all(meaning.endswith(".") for meaning in CATALOGUE.values())


@pytest.mark.parametrize("finding", EVERY, ids=lambda finding: finding.id)
def test_a_finding_says_what_was_looked_at(finding: Finding) -> None:
    assert finding.evidence
    assert not finding.reason.endswith(".")
    assert finding.reason in str(finding)
    assert finding.cure is None or finding.cure in str(finding)


def test_facts_that_show_nothing_give_no_finding() -> None:
    assert diagnosis.group_not_viable(7, {VF: "vfio-pci", "0000:40:01.0": "pcieport", "0000:41:10.2": None}) is None
    assert diagnosis.group_not_viable(7, {VF: "mlx5_core"}, but=VF) is None
    assert diagnosis.bar_unassigned(VF, None) is None
    # Lines of an assigned BAR, an absent one, and one without a type. The seventh line is a virtual function's BAR.
    fine = ["0x1000 0x1fff 0x40200", "0x0 0x0 0x20040200", "0x0 0xfff 0x20000000", *["0x0 0x0 0x0"] * 3]
    assert diagnosis.bar_unassigned(VF, "\n".join([*fine, "0x0 0xfff 0x20040200"])) is None
    assert diagnosis.behind_vmd(VF, None) is None
    assert diagnosis.msi_off(VF, []) is None
    assert diagnosis.acs_override("host", "ro iommu=pt") is None
    places = ["/proc/cmdline has vfio-pci.ids=15b3:101e"]
    assert diagnosis.ids_too_late(VF, "mlx5_core", (0x15B3, 0x1019), places) is None
    assert diagnosis.ids_too_late(VF, "mlx5_vfio_pci", (0x15B3, 0x101E), places) is None
    assert diagnosis.ids_too_late(VF, None, (0x15B3, 0x101E), places) is None
    for containers, iommufd, modules in ((False, False, []), (True, True, []), (True, False, ["vfio_iommu_type1"])):
        assert diagnosis.type1_missing(containers=containers, iommufd=iommufd, modules=modules) is None
    assert diagnosis.memory_cgroup(1 << 30, 1 << 30, "/sys/fs/cgroup") is None
    assert diagnosis.huge_pages_node(1 << 30, 1 << 30, 0, 2 << 20) is None
    assert diagnosis.direct_region(VF, []) is None
    assert diagnosis.vfio_missing(modules=["vfio"]) is None
    assert diagnosis.driver_missing("vfio-pci", "pci", ["vfio-pci"]) is None
    assert diagnosis.node_missing("/dev/vfio/7", in_sysfs=False) is None
    assert diagnosis.used_by_system(VF, {}) is None
    assert diagnosis.vf_token(VF, given=False, wanted=False) is None
    assert diagnosis.memory_limit(1 << 30, None, 0, unlimited=False) is None
    assert diagnosis.memory_limit(1 << 30, 8 << 20, 0, unlimited=True) is None
    assert diagnosis.interrupts_by_command_line(VF, "ro intel_iommu=on") is None
    assert diagnosis.unsafe_interrupts([]) is None
    assert diagnosis.module_blacklisted("vfio_pci", []) is None
    assert diagnosis.interfaces_missing(containers=True, iommufd=True, cdevs=True) is None
    assert diagnosis.interfaces_missing(containers=False, iommufd=True, cdevs=None) is None
    assert diagnosis.variant_driver(VF, "mlx5_vfio_pci", ["mlx5_vfio_pci"], needed=True) is None
    assert diagnosis.variant_driver(VF, "vfio-pci", []) is None
    assert diagnosis.override_foreign(VF, "vfio-pci", "vfio-pci") is None
    assert diagnosis.taken_back(VF, "vfio-pci", "vfio-pci") is None
    assert diagnosis.no_reset(VF, "flr bus") is None
    assert diagnosis.no_reset(VF, None) is None
    assert diagnosis.d3cold(VF, "D3hot") is None
    assert diagnosis.no_answer(VF, b"\xff\xff\x86\x80") is None
    assert diagnosis.no_answer(VF, b"") is None
    assert diagnosis.group_shared(7, VF, [VF, "0000:41:10.2"]) is None
    assert diagnosis.guest_memory(1 << 40, [], []) is None
    assert diagnosis.mapping_limit_low(65535) is None
    assert diagnosis.memory_limit_low(8 << 20, unlimited=True) is None
    assert diagnosis.huge_pages(4 << 20, 4 << 20, 2 << 20) is None


def test_the_member_in_the_way_is_named_and_bridges_are_not() -> None:
    finding = diagnosis.group_not_viable(7, MEMBERS)
    assert finding is not None
    assert "0000:41:00.0 (mlx5_core)" in finding.reason
    assert "pcieport" not in finding.reason
    assert finding.cure is not None
    assert "pyvfio.host.bind('0000:41:00.0', 'vfio-pci')" in finding.cure


def test_a_driver_named_as_its_module_is_recognised() -> None:
    finding = diagnosis.driver_missing("vfio_pci", "pci", ["e1000e", "vfio-pci"])
    assert finding is not None
    assert finding.cure == "the driver is called 'vfio-pci'"


def test_a_virtual_machine_is_given_an_iommu_by_its_host() -> None:
    assert "-device intel-iommu" in str(diagnosis.no_group(VF, [], virtual=True))
    assert "intel_iommu=on" in str(diagnosis.no_group(VF, []))
    assert "dmar0" in str(diagnosis.no_group(VF, ["dmar0"]))


def test_a_finding_names_this_process_as_such() -> None:
    assert diagnosis.kept_bound(VF, os.getpid()).reason.endswith("by this process")
    assert diagnosis.kept_bound(VF, None).reason.endswith("by another program")


# Examining a device


def ids(machine: mock.Kernel, address: str) -> list[str]:
    return [finding.id for finding in host.examine(address, machine)]


EDU = "0000:00:03.0"


def test_an_unbound_device_is_bound_as_the_cure_says() -> None:
    kernel = mock.Kernel("amd")
    (finding,) = host.examine(EDU, kernel)
    assert finding.id == "not-bound"
    assert finding.cure == f"pyvfio.host.bind({EDU!r}, 'vfio-pci')"
    with host.bind(EDU, "vfio-pci", kernel=kernel) as binding:
        assert host.examine(binding.device, kernel) == []
        with pyvfio.open(EDU, kernel=kernel):
            assert ids(kernel, EDU) == ["device-held"]


def test_the_neighbour_in_the_way_is_found() -> None:
    kernel = mock.Kernel("amd")
    with host.bind("0000:02:00.1", "vfio-pci", kernel=kernel):
        (finding,) = host.examine("0000:02:00.1", kernel)
    assert finding.id == "group-not-viable"
    assert "0000:02:00.0" in finding.reason


def test_a_host_without_an_iommu_says_so_first() -> None:
    kernel = mock.Kernel("none")
    assert ids(kernel, EDU)[0] in ("iommu-off", "no-iommu-refused")


def test_a_missing_node_is_found() -> None:
    kernel = mock.Kernel("amd")
    with host.bind(EDU, "vfio-pci", kernel=kernel) as binding:
        assert binding.device.cdev is not None
        kernel.tree.remove(binding.device.cdev)
        assert ids(kernel, EDU) == ["node-missing"]


def test_a_node_that_may_not_be_opened_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = mock.Kernel("amd")

    def refuse(path: str, flags: int = 0) -> int:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), path)

    with host.bind(EDU, "vfio-pci", kernel=kernel):
        monkeypatch.setattr(kernel, "open", refuse)
        assert ids(kernel, EDU) == ["device-cgroup"]


def test_a_bridge_is_nothing_but_a_bridge() -> None:
    assert ids(mock.Kernel("amd"), "0000:00:08.0") == ["bridge"]
