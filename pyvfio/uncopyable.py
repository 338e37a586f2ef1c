# SPDX-License-Identifier: MIT
"""The base of handles, which cannot be copied or pickled."""

from __future__ import annotations

from typing import NoReturn


class Uncopyable:
    """A handle on something that this process owns, such as a descriptor. It refuses copy and pickle."""

    __slots__ = ()

    #: what the handle stands for, for messages
    _stands_for = "an open descriptor"

    def __copy__(self) -> NoReturn:
        raise TypeError(f"cannot copy {type(self).__name__}: it stands for {self._stands_for}, which has one owner")

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__copy__()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            f"cannot pickle {type(self).__name__}: it stands for {self._stands_for} of this process; "
            "make a new one in the other process"
        )
