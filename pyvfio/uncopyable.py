# SPDX-License-Identifier: MIT
"""The base of handles, which cannot be copied or pickled."""

from __future__ import annotations

from typing import NoReturn


class Uncopyable:
    """A handle: it stands for something of this process, so it refuses copy and pickle."""

    __slots__ = ()

    #: what it stands for
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
