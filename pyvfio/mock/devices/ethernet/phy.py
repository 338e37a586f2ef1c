# SPDX-License-Identifier: MIT
"""The PHY of a network card, which the card accesses by MDIO."""

from __future__ import annotations

_CONTROL, _STATUS, _ID_HIGH, _ID_LOW, _PAGE = 0, 1, 2, 3, 31
_RESET, _POWER_DOWN, _RESTART = 1 << 15, 1 << 11, 1 << 9
_CONTROL_AT_RESET = 1 << 12 | 1 << 8 | 1 << 6  # autonegotiation; full duplex; 1 Gbit/s
_CAPABILITIES, _NEGOTIATED, _LINK = 0x7949, 1 << 5, 1 << 2
#: the first register that is paged; lower registers are the same in every page
_FIRST_PAGED = 16
_PAGE_SIZE = 32
# Registers that depend on the link: abilities of the link partner, 1000BASE-T status, port status.
_PARTNER, _GIGABIT_STATUS, _PORT_STATUS = 5, 10, 17
_WITH_LINK = {_PARTNER: 0x4DE1, _GIGABIT_STATUS: 0x7C00, _PORT_STATUS: 0xC200}
_AT_RESET = {4: 0x0DE1, 6: 0x0001, 9: 0x0300, 15: 0x3000}


class Phy:
    """A PHY for 1 Gbit/s over copper. The link is up whenever the PHY has power.

    :param identifier: registers 2 and 3
    """

    def __init__(self, identifier: int) -> None:
        self._identifier = identifier
        self.reset()

    def reset(self) -> None:
        """Set all registers to their values at power-on."""
        self._page = 0
        self._registers: dict[tuple[int, int], int] = {(0, register): value for register, value in _AT_RESET.items()}
        self._registers[0, _CONTROL] = _CONTROL_AT_RESET

    @property
    def link(self) -> bool:
        """Whether the link is up."""
        return not self._registers[0, _CONTROL] & _POWER_DOWN

    def _key(self, register: int) -> tuple[int, int]:
        return self._page if register >= _FIRST_PAGED else 0, register

    def read(self, register: int) -> int:
        """Return a register of the page that register 31 has selected."""
        key = self._key(register)
        if key == (0, _STATUS):
            return _CAPABILITIES | (_NEGOTIATED | _LINK if self.link else 0)
        if register == _ID_HIGH:
            return self._identifier >> 16
        if register == _ID_LOW:
            return self._identifier & 0xFFFF
        if key[0] == 0 and register in _WITH_LINK:
            return _WITH_LINK[register] if self.link else 0
        return self._registers.get(key, 0)

    def write(self, register: int, value: int) -> bool:
        """Write a register; return whether the link went down or up, or was renegotiated."""
        if register == _PAGE:
            self._page = value // _PAGE_SIZE * _PAGE_SIZE
            return False
        before = self.link
        if register == _CONTROL and value & _RESET:
            self.reset()
            return True
        again = register == _CONTROL and bool(value & _RESTART)
        self._registers[self._key(register)] = value & ~_RESTART if register == _CONTROL else value
        return self.link != before or (again and self.link)
