# SPDX-License-Identifier: MIT
"""When everything is closed, nothing is left in the mock: its counts are those of a new host."""

from __future__ import annotations

from pyvfio import mock
from tests.differential import generate, replay

STEPS = 4000


def left(kernel: mock.Kernel) -> dict[str, object]:
    """Return the objects that a host on which nothing is open would not have."""
    groups = [group for group in kernel.groups.values() if group.file or group.owner is not None or group.cdevs]
    devices = [device for device in kernel.devices.values() if device.files or device.space is not None]
    found = {
        "files": kernel.files,
        "groups": [group.number for group in groups],
        "devices": [device.name for device in devices],
        "locked": kernel.locked.pages,
        "locked by user": kernel.locked_by_user.pages,
    }
    return {name: value for name, value in found.items() if value}


def test_nothing_is_left_of_an_episode() -> None:
    subjects = ["type1", "iommufd", "devices"]
    with replay.on_mock(generate.devices(subjects), "intel-39") as replayer:
        kernel = replayer.kernel
        assert isinstance(kernel, mock.Kernel)
        for number, episode in enumerate(generate.episodes(21, STEPS, subjects)):
            replayer.episode(episode)
            assert not left(kernel), f"episode {number}: {left(kernel)}"
