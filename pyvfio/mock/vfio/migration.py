# SPDX-License-Identifier: MIT
"""Migration v2: the state machine of VFIO's core (vfio_main.c)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio._abi import lib
from pyvfio.mock.machine.errno import Errno

if TYPE_CHECKING:
    from pyvfio.mock.machine.file import File

ERROR = lib.VFIO_DEVICE_STATE_ERROR
STOP = lib.VFIO_DEVICE_STATE_STOP
RUNNING = lib.VFIO_DEVICE_STATE_RUNNING
STOP_COPY = lib.VFIO_DEVICE_STATE_STOP_COPY
RESUMING = lib.VFIO_DEVICE_STATE_RESUMING
RUNNING_P2P = lib.VFIO_DEVICE_STATE_RUNNING_P2P
PRE_COPY = lib.VFIO_DEVICE_STATE_PRE_COPY
PRE_COPY_P2P = lib.VFIO_DEVICE_STATE_PRE_COPY_P2P

CAN_STOP_COPY, CAN_P2P, CAN_PRE_COPY = lib.VFIO_MIGRATION_STOP_COPY, lib.VFIO_MIGRATION_P2P, lib.VFIO_MIGRATION_PRE_COPY
#: state -> the VFIO_MIGRATION_* that it requires; ERROR is missing, because it cannot be requested
_NEEDS = {
    STOP: CAN_STOP_COPY,
    RUNNING: CAN_STOP_COPY,
    STOP_COPY: CAN_STOP_COPY,
    RESUMING: CAN_STOP_COPY,
    RUNNING_P2P: CAN_STOP_COPY | CAN_P2P,
    PRE_COPY: CAN_STOP_COPY | CAN_PRE_COPY,
    PRE_COPY_P2P: CAN_STOP_COPY | CAN_P2P | CAN_PRE_COPY,
}
#: state -> the states that it has an arc to, and the next state on the way to any other
_ARCS = {
    STOP: ({STOP_COPY, RESUMING}, RUNNING_P2P),
    RUNNING: ({PRE_COPY}, RUNNING_P2P),
    STOP_COPY: ({STOP}, STOP),
    RESUMING: ({STOP}, STOP),
    RUNNING_P2P: ({RUNNING, PRE_COPY_P2P, STOP}, STOP),
    PRE_COPY: ({RUNNING, PRE_COPY_P2P}, RUNNING),
    PRE_COPY_P2P: ({PRE_COPY, STOP_COPY}, RUNNING_P2P),
}
_DETOURS = {(RUNNING_P2P, PRE_COPY): RUNNING, (PRE_COPY, STOP_COPY): PRE_COPY_P2P}


def next_state(flags: int, state: int, wanted: int) -> int:
    """Return the next state on the way to another (vfio_mig_get_next_state).

    :param flags: VFIO_MIGRATION_* of the device; states that it does not support are skipped
    :param state: the present state
    :param wanted: the requested state
    :raises Errno: EINVAL, there is no path, or no such state
    """
    if wanted not in _NEEDS or _NEEDS[wanted] & ~flags:
        raise Errno(errno.EINVAL)
    while True:
        if state == ERROR or (state == STOP_COPY and wanted in (PRE_COPY, PRE_COPY_P2P)):
            raise Errno(errno.EINVAL)
        arcs, otherwise = _ARCS[state]
        state = wanted if wanted in arcs or wanted == state else _DETOURS.get((state, wanted), otherwise)
        if not _NEEDS[state] & ~flags:
            return state


class Migration:
    """The migration operations of a driver (struct vfio_migration_ops).

    :ivar flags: VFIO_MIGRATION_*
    :ivar second_info: the program has set VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2
    """

    flags = 0
    second_info = False

    def set_state(self, wanted: int) -> File | None:
        """Change the state, for VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE.

        :returns: the data file of a new session; None without one
        :raises Errno: EINVAL, there is no path; or that of a failed arc
        """
        raise NotImplementedError

    def get_state(self) -> int:
        raise NotImplementedError

    def data_size(self) -> int:
        """Return the bytes that STOP_COPY would send, for VFIO_DEVICE_FEATURE_MIG_DATA_SIZE."""
        raise NotImplementedError

    def close(self) -> None:
        """Reset the state, when the device is closed."""
        self.second_info = False
