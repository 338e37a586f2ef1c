# SPDX-License-Identifier: MIT
"""VF tokens: the UUID that the owner of a physical function shares with the owners of its virtual functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvfio._core.arguments import wrong_type

if TYPE_CHECKING:
    from uuid import UUID


def uuid_of(token: UUID | str | bytes) -> UUID:
    """Return a VF token as a UUID.

    :param token: a UUID, as object, as text or as its 16 bytes
    :raises ValueError: it is not a UUID
    """
    import uuid

    if isinstance(token, uuid.UUID):
        return token
    if not isinstance(token, str | bytes):
        raise wrong_type(token, "vf_token", "a uuid.UUID, a str or 16 bytes")
    if isinstance(token, bytes):
        if len(token) != 16:
            raise ValueError(f"vf_token of {len(token)} bytes: a UUID has 16")
        return uuid.UUID(bytes=token)
    try:
        return uuid.UUID(token)
    except ValueError:
        raise ValueError(f"vf_token {token!r} is not a UUID such as 01234567-89ab-cdef-0123-456789abcdef") from None
