# SPDX-License-Identifier: MIT
"""Migration on a kernel that does not report the size of a device's state (VFIO_DEVICE_FEATURE_MIG_DATA_SIZE came with 6.2). In the machine with 6.1.

QEMU then assumes 100 GiB. So the migration never ends, unless the bandwidth that QEMU expects for the switchover is
raised.
"""

from __future__ import annotations

from collections.abc import Callable

from pyvfio.guest import qemu
from tests.qemu.client import ENDED, Client
from tests.qemu.conftest import FIRST, assigned


def test_a_raised_switchover_bandwidth_lets_a_migration_end(start: Callable[..., Client]) -> None:
    with start(*assigned(FIRST)) as client:
        client.place(4, 0xE0000000)
        assert client.begin() == {}
        # After the first round nothing is left to send, and yet the migration continues.
        account = client.wait_for_migration(lambda account: account.get("ram", {}).get("dirty-sync-count", 0) >= 8)
        assert account["status"] == "active"
        client.monitor.execute("migrate-set-parameters", **{"avail-switchover-bandwidth": 1 << 50})
        assert client.wait_for_migration(lambda account: account["status"] in ENDED)["status"] == "completed"
        client.close()
        assert qemu.track(qemu.read_sections(client.log), version=client.version).start_line == client.start_line
