# SPDX-License-Identifier: MIT
"""Interrupt causes of network cards: the extended ones, which select MSI-X vectors, and the others."""

from __future__ import annotations

from collections.abc import Callable

CAUSE, CAUSE_SET, MASK_SET, MASK_CLEAR, AUTO_CLEAR, AUTO_MASK = 0x1580, 0x1520, 0x1524, 0x1528, 0x152C, 0x1530
REGISTERS = (CAUSE, CAUSE_SET, MASK_SET, MASK_CLEAR, AUTO_CLEAR, AUTO_MASK)


class Causes:
    """The registers EICR, EICS, EIMS, EIMC, EIAC and EIAM of a function: one bit per vector.

    :param send: function that sends a vector
    """

    def __init__(self, send: Callable[[int], None]) -> None:
        self._send = send
        self.reset()

    def reset(self) -> None:
        """Mask all vectors, and clear all causes."""
        self._cause = self._mask = self._auto_clear = self._auto_mask = 0
        #: vectors that were sent and whose cause is still set
        self._sent = 0

    def read(self, register: int) -> int:
        """Return a register. EIMS and EIMC both read as the mask."""
        return {CAUSE: self._cause, AUTO_CLEAR: self._auto_clear, AUTO_MASK: self._auto_mask}.get(register, self._mask)

    def write(self, register: int, value: int) -> None:
        """Write a register."""
        if register == CAUSE:
            self._cause &= ~value
        elif register == CAUSE_SET:
            self._cause |= value
        elif register == MASK_SET:
            self._mask |= value
        elif register == MASK_CLEAR:
            self._mask &= ~value
        elif register == AUTO_CLEAR:
            self._auto_clear = value
        else:
            self._auto_mask = value
        self._update()

    def add(self, vector: int) -> None:
        """Set the cause of a vector."""
        self._cause |= 1 << vector
        self._update()

    def _update(self) -> None:
        active = self._cause & self._mask
        self._sent &= active
        new = active & ~self._sent
        self._sent |= new
        # Clear before sending: the driver may react immediately.
        self._cause &= ~(new & self._auto_clear)
        self._mask &= ~(new & self._auto_mask)
        self._sent &= self._cause & self._mask
        for vector in range(new.bit_length()):
            if new >> vector & 1:
                self._send(vector)


#: INT_ASSERTED: in ICR, whether an interrupt was asserted
ASSERTED = 1 << 31


class CauseRegister:
    """The registers ICR, ICS, IMS, IMC and IAM of a card: one bit per cause.

    :param interrupt: function that sends a message, or asserts INTx until `deassert`
    :param deassert: function that deasserts INTx

    :ivar cause: the causes that are set; `mask`: the causes that interrupt
    :ivar auto_mask: the causes that a read of ICR masks, if CTRL_EXT.IAME is set
    """

    def __init__(self, interrupt: Callable[[], None], deassert: Callable[[], None]) -> None:
        self._interrupt, self._deassert = interrupt, deassert
        self.cause = self.mask = self.auto_mask = 0

    def reset(self) -> None:
        """Clear and mask all causes."""
        self.cause = self.mask = self.auto_mask = 0
        self._deassert()

    def add(self, bits: int) -> None:
        """Set causes, and interrupt if one is not masked."""
        self.cause |= bits
        if bits & self.mask:
            self._interrupt()

    def allow(self, bits: int) -> None:
        """Unmask causes, and interrupt if one is set."""
        self.mask |= bits
        if self.cause & self.mask:
            self._interrupt()

    def forbid(self, bits: int) -> None:
        """Mask causes."""
        self.mask &= ~bits
        self._update()

    def clear(self, bits: int) -> None:
        """Clear causes."""
        self.cause &= ~bits
        self._update()

    def take(self, *, masks: bool) -> int:
        """Return the causes and clear them.

        :param masks: if an interrupt was asserted, mask the causes of `auto_mask`
        """
        found, self.cause = self.cause, 0
        if found & self.mask:
            found |= ASSERTED
            if masks:
                self.mask &= ~self.auto_mask
        self._update()
        return found

    def _update(self) -> None:
        if not self.cause & self.mask:
            self._deassert()
