# SPDX-License-Identifier: MIT
"""Extended interrupt causes: which vectors of MSI-X a network function sends."""

from __future__ import annotations

from collections.abc import Callable

CAUSE, CAUSE_SET, MASK_SET, MASK_CLEAR, AUTO_CLEAR, AUTO_MASK = 0x1580, 0x1520, 0x1524, 0x1528, 0x152C, 0x1530
REGISTERS = (CAUSE, CAUSE_SET, MASK_SET, MASK_CLEAR, AUTO_CLEAR, AUTO_MASK)


class Causes:
    """The registers EICR, EICS, EIMS, EIMC, EIAC and EIAM of a function: a bit for each vector.

    :param send: sends a vector
    """

    def __init__(self, send: Callable[[int], None]) -> None:
        self._send = send
        self.reset()

    def reset(self) -> None:
        """Mask all vectors, with no cause."""
        self._cause = self._mask = self._auto_clear = self._auto_mask = 0
        #: vectors that were sent for a cause that is still there
        self._sent = 0

    def read(self, register: int) -> int:
        """Return a register. Those that set and clear the mask read as the mask."""
        return {CAUSE: self._cause, AUTO_CLEAR: self._auto_clear, AUTO_MASK: self._auto_mask}.get(register, self._mask)

    def write(self, register: int, value: int) -> None:
        """Set a register."""
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
        """Something has happened that a vector is for."""
        self._cause |= 1 << vector
        self._update()

    def _update(self) -> None:
        active = self._cause & self._mask
        self._sent &= active
        new = active & ~self._sent
        self._sent |= new
        # Before they are sent: the driver may act at once.
        self._cause &= ~(new & self._auto_clear)
        self._mask &= ~(new & self._auto_mask)
        self._sent &= self._cause & self._mask
        for vector in range(new.bit_length()):
            if new >> vector & 1:
                self._send(vector)


#: the bit of a read cause register that says that an interrupt was asserted for it
ASSERTED = 1 << 31


class CauseRegister:
    """The registers ICR, ICS, IMS, IMC and IAM of a card: a bit for each cause.

    :param interrupt: interrupts, by INTx until `deassert`, or by a message
    :param deassert: ends INTx

    :ivar cause: what has happened; `mask` is the causes that interrupt
    :ivar auto_mask: the causes that a read masks, where the card is told to do that
    """

    def __init__(self, interrupt: Callable[[], None], deassert: Callable[[], None]) -> None:
        self._interrupt, self._deassert = interrupt, deassert
        self.cause = self.mask = self.auto_mask = 0

    def reset(self) -> None:
        """Mask all causes, of which there is none."""
        self.cause = self.mask = self.auto_mask = 0
        self._deassert()

    def add(self, bits: int) -> None:
        """Something has happened."""
        self.cause |= bits
        if bits & self.mask:
            self._interrupt()

    def allow(self, bits: int) -> None:
        """Let causes interrupt, at once if they are there."""
        self.mask |= bits
        if self.cause & self.mask:
            self._interrupt()

    def forbid(self, bits: int) -> None:
        """Mask causes."""
        self.mask &= ~bits
        self._update()

    def clear(self, bits: int) -> None:
        """Forget causes."""
        self.cause &= ~bits
        self._update()

    def take(self, *, masks: bool) -> int:
        """Return the causes and forget them.

        :param masks: mask those of `auto_mask` if there was an interrupt
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
