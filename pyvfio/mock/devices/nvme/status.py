# SPDX-License-Identifier: MIT
"""Status codes of NVMe commands."""

from __future__ import annotations

from enum import IntEnum

#: Do Not Retry: the same command would fail again
DO_NOT_RETRY = 1 << 14


class Status(IntEnum):
    """Status code type and status code: bits 11 to 1 of the last 16 bits of a completion."""

    SUCCESS = 0x000
    INVALID_OPCODE = 0x001
    INVALID_FIELD = 0x002
    ABORT_REQUESTED = 0x007
    INVALID_NAMESPACE = 0x00B
    SEQUENCE_ERROR = 0x00C
    PRP_OFFSET_INVALID = 0x013
    LBA_OUT_OF_RANGE = 0x080
    COMPLETION_QUEUE_INVALID = 0x100
    INVALID_QUEUE = 0x101
    INVALID_QUEUE_SIZE = 0x102
    TOO_MANY_EVENT_REQUESTS = 0x105
    INVALID_VECTOR = 0x108
    INVALID_LOG_PAGE = 0x109
    INVALID_QUEUE_DELETION = 0x10C
    FEATURE_NOT_SAVEABLE = 0x10D
    FEATURE_NOT_CHANGEABLE = 0x10E


class CommandError(Exception):
    """The error that a command is completed with."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.name)
        self.status = status
