# SPDX-License-Identifier: MIT
"""Campaigns: the machine and what its log says, and what random episodes leave out."""

from __future__ import annotations

import re
import struct
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest

from pyvfio import mock
from pyvfio._abi import ffi
from tests.differential import campaign, generate, replay, selftest, systematic_programs
from tests.differential.steps import PAGE

#: First lines of warnings of Linux 7.3 and 6.1.
WARNING = "[ 2177.382604] WARNING: drivers/iommu/iommufd/main.c:389 at iommufd_fops_release+0xa6/0xf3, CPU#1: python/66"
OLDER = "[    2.6] WARNING: CPU: 0 PID: 7 at drivers/iommu/iommu.c:2 iommu_map+0x1/0x2"


def test_warnings_are_counted_by_place() -> None:
    log = (
        f"{WARNING}\n{OLDER}\n[ 1.2] pyvfio-vm: expect WARNING: drivers/iommu\n[ 1.3] vfio-pci 0000:00:06.0: reset done"
    )
    assert list(campaign.warnings_in(log)) == [
        "drivers/iommu/iommufd/main.c:389 at iommufd_fops_release",
        "drivers/iommu/iommu.c:2",
    ]


def test_a_warning_of_another_file_is_not_expected() -> None:
    assert re.search(replay.WARNINGS, WARNING)
    assert not re.search(replay.WARNINGS, WARNING.replace("iommufd/main.c", "iommufd/pages.c"))


#: A replacement for scripts/vm, which writes a log and answers, and ends with a given exit code.
MACHINE = """
import sys
log, answers = sys.argv[sys.argv.index("--log") + 1], sys.argv[-1]
open(log, "w").write({log!r})
if {answers}:
    open(answers, "w").write("[[]]")
sys.exit({code})
"""


def machine(tmp_path: Path, *, code: int, answers: bool = True) -> campaign.Machine:
    script = tmp_path / "vm.py"
    script.write_text(MACHINE.format(log=WARNING + "\n", answers=answers, code=code))
    return campaign.Machine(f"{sys.executable} {script}", "intel", [])


def test_a_complaint_of_the_kernel_is_a_failure(tmp_path: Path) -> None:
    ours = machine(tmp_path, code=campaign.COMPLAINED)
    assert ours([[]]) == [[]]
    assert ours.complaints == 1
    assert ours.warnings == {"drivers/iommu/iommufd/main.c:389 at iommufd_fops_release": 1}


@pytest.mark.parametrize(("code", "answers"), [(campaign.COMPLAINED, False), (201, True)])
def test_a_machine_that_fails_ends_the_campaign(tmp_path: Path, code: int, answers: bool) -> None:
    with pytest.raises(SystemExit) as caught:
        machine(tmp_path, code=code, answers=answers)([[]])
    assert caught.value.code == code


def test_the_interpreter_of_the_machine_finds_the_drivers() -> None:
    command = [*campaign.PYTHON, "-c", "import tests.contract.guest"]
    done = subprocess.run(command, cwd=campaign.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_several_pages_are_mapped_up_to_the_last_byte() -> None:
    # Linux 7.3's iommufd then maps other pages than the program's (scripts/upstream/iommufd_last_pages.py). Seed 4009 once did that.
    last = []
    for episode in generate.episodes(4009, 20_000, ["iommufd", "selftest"]):
        for step in episode:
            if step.get("request") in ("IOMMU_IOAS_MAP", "IOMMU_IOAS_MAP_FILE") and "arg" in step:
                asked = ffi.from_buffer("struct iommu_ioas_map *", bytes.fromhex(step["arg"]))
                if asked.iova + asked.length == 2**64:
                    last.append(asked.length)
    assert last
    assert max(last) <= PAGE


def test_episodes_that_are_not_random_need_no_recording() -> None:
    work = campaign.anew(["programs"], 1, 100)
    assert list(work.episodes) == ["programs"]
    assert set(work.devices) >= set(systematic_programs.DEVICES)
    assert work.all_episodes == systematic_programs.episodes()


def test_new_steps_are_random_unless_a_subject_is_named() -> None:
    assert campaign.chosen_subjects(None, "amd", random=True) == [*generate.SUBJECTS]
    assert campaign.chosen_subjects(None, "amd", random=False)[-1] == "programs"
    assert campaign.chosen_subjects(["programs"], "amd", random=True) == ["programs"]
    assert campaign.chosen_subjects(None, "none", random=True) == ["no_iommu"]
    work = campaign.anew(["type1", "programs"], 1, 100)
    assert list(work.episodes) == ["programs", "random"]
    assert sum(map(len, work.episodes["random"])) >= 100


#: As an argument of IOMMU_TEST_CMD: a device is attached with a PASID.
PASID_ATTACH = struct.pack("=4I", 72, selftest.PASID_ATTACH, 0, 0).hex()


def test_pages_that_stay_pinned_in_the_kernel_are_reported() -> None:
    plain = [{"do": "ioctl", "slot": "f", "request": "IOMMU_IOAS_MAP", "value": 0}]
    other = [{"do": "ioctl", "slot": "f", "request": selftest.TEST, "value": 0}]
    attached = [{"do": "ioctl", "slot": "f", "request": selftest.TEST, "arg": PASID_ATTACH}]
    left = {"0": 4, "1": 8, "2": 12}
    assert campaign.left_lines([plain, attached, other], left) == [
        "episode 0 leaves 4 pages pinned in the kernel",
        "episode 2 leaves 12 pages pinned in the kernel",
    ]


def test_pages_that_stay_pinned_in_the_mock_are_counted() -> None:
    with replay.on_mock([], "intel-39") as replayer:
        assert isinstance(replayer.kernel, mock.Kernel)
        with patch.object(replayer, "step", side_effect=[{"r": 0}, {"r": 0}]) as step:
            replayer.episode([{"do": "look"}])
            step.side_effect = lambda _: setattr(replayer.kernel, "pins", 3)
            replayer.episode([{"do": "look"}])
    assert replayer.left == {1: 3}
