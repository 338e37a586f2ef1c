# SPDX-License-Identifier: MIT
"""The base class of all objects of an iommufd (struct iommufd_object): an id and a user count."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.context import Context


class Object:
    """An object of an iommufd.

    :ivar id: the lowest number that was free
    :ivar users: 1 for the table of objects, and 1 for each object created from this one and each device attached to it.
        An object with more than one user cannot be destroyed.
    """

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self.users = 1
        self.id = ctx.add(self)

    @property
    def busy(self) -> bool:
        return self.users != 1

    def destroyed(self) -> None:
        """Release the object's resources, when it is destroyed."""

    def drop(self) -> None:
        """Decrement the user count."""
        self.users -= 1
