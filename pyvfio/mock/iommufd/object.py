# SPDX-License-Identifier: MIT
"""The base of all objects of an iommufd: an id, and a count of who needs them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.context import Context


class Object:
    """An object of an iommufd.

    :ivar id: the lowest number that was free
    :ivar users: the table of objects is one; every object that was made from this one and every device that is attached to it is another.
        What has more than one user cannot be destroyed.
    """

    def __init__(self, ctx: Context) -> None:
        self.ctx = ctx
        self.users = 1
        self.id = ctx.add(self)

    @property
    def busy(self) -> bool:
        return self.users != 1

    def destroyed(self) -> None:
        """Its last user is gone."""

    def drop(self) -> None:
        """One user less."""
        self.users -= 1
