# SPDX-License-Identifier: MIT
"""The register region: the registers, their widths, and the effects of reads and writes.

Offsets and values are those of tests/vfio_mock/vfio_mock_regs.h.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from pyvfio.mock.devices.vfio_mock import failures
from pyvfio.mock.devices.vfio_mock.irqs import NO_IRQ
from pyvfio.mock.machine.errno import Errno

if TYPE_CHECKING:
    from pyvfio.mock.devices.vfio_mock.device import VfioMock

SIZE = 0x1000
MAGIC, VERSION = 0x4B434F4D, 1
CAP_LOG, CAP_MIGRATION, CAP_PIN = 1, 2, 4
COMBINE, REFUSE = 0, 1


class Register(NamedTuple):
    """A register that stores the value written.

    :ivar width: bytes; accesses of another width fail
    :ivar default: the value after a reset
    """

    offset: int
    width: int
    default: int = 0


#: the registers that store the value written, in the order of the migration stream
HELD = {
    "SCRATCH64": Register(0x010, 8),
    "DMA_IOVA": Register(0x100, 8),
    "DMA_LENGTH": Register(0x108, 8),
    "DMA_SOURCE": Register(0x110, 8),
    "DMA_MEMORY": Register(0x118, 8),
    "DMA_PATTERN": Register(0x120, 8),
    "DMA_COUNT": Register(0x128, 8),
    "DMA_STRIDE": Register(0x130, 8, 4096),
    "DMA_SEED": Register(0x138, 8),
    "PIN_IOVA": Register(0x300, 8),
    "PIN_COUNT": Register(0x308, 8),
    "SCRATCH32": Register(0x018, 4),
    "DMA_DELAY": Register(0x140, 4),
    "DMA_IRQ": Register(0x144, 4, NO_IRQ),
    "IRQ_RAISE": Register(0x180, 4, NO_IRQ),
    "SCRATCH16": Register(0x01C, 2),
    "SCRATCH8": Register(0x01E, 1),
}

#: status registers: offset -> width, and the function that returns the value
_SHOWN: dict[int, tuple[int, Callable[[VfioMock], int]]] = {
    0x000: (4, lambda _: MAGIC),
    0x004: (4, lambda _: VERSION),
    0x008: (4, lambda device: device.number),
    0x00C: (4, lambda device: CAP_LOG | CAP_PIN | (CAP_MIGRATION if device.migration is not None else 0)),
    0x020: (4, lambda device: device.transfer_max),
    0x148: (4, lambda device: device.engine.job.command),
    0x14C: (4, lambda device: device.engine.job.status),
    0x150: (4, lambda device: device.engine.job.error),
    0x158: (8, lambda device: device.engine.job.steps),
    0x160: (8, lambda device: device.engine.job.bytes_moved),
    0x168: (8, lambda device: device.engine.job.fault),
    0x170: (8, lambda device: device.engine.job.rounds),
    0x184: (4, lambda device: device.irqs.asserted),
    0x188: (4, lambda device: device.irqs.masked),
    0x200: (4, lambda device: device.log.limits.ranges),
    0x204: (4, lambda device: REFUSE if device.log.limits.refuse else COMBINE),
    0x208: (8, lambda device: device.log.limits.page_size_min),
    0x210: (8, lambda device: device.log.limits.page_size_max),
    0x218: (4, lambda device: device.log.limits.log2_size_min),
    0x21C: (4, lambda device: device.log.limits.log2_size_max),
    0x220: (4, lambda device: device.log.active),
    0x224: (4, lambda device: len(device.log.ranges)),
    0x228: (8, lambda device: device.log.page_size),
    0x230: (4, lambda device: device.log_selected),
    0x238: (8, lambda device: _range(device, 0)),
    0x240: (8, lambda device: _range(device, 1)),
    0x248: (8, lambda device: device.log.dirty),
    0x280: (8, lambda device: device.bytes_written),
    0x288: (8, lambda device: device.bytes_read),
    0x290: (8, lambda device: device.log.marked),
    0x298: (8, lambda device: device.irqs.signalled),
    0x2A0: (8, lambda device: device.unmaps),
    0x2A8: (8, lambda device: device.resets),
    0x318: (8, lambda device: len(device.pins.pages)),
    0x380: (4, lambda device: device.states.state),
    0x388: (8, lambda device: device.states.sent),
    0x390: (8, lambda device: device.states.received),
    0x398: (8, lambda device: device.states.path),
}


def _range(device: VfioMock, end: int) -> int:
    ranges = device.log.ranges
    return ranges[device.log_selected][end] if device.log_selected < len(ranges) else 0


# Registers whose writes have an effect.


def _transfer_max(device: VfioMock, value: int) -> None:
    device.transfer_max = value


def _command(device: VfioMock, value: int) -> None:
    device.engine.command(value)


def _raise(device: VfioMock, value: int) -> None:
    device.registers.held["IRQ_RAISE"] = value
    device.irqs.raise_(value)


def _line(device: VfioMock, value: int) -> None:
    if value & 1:
        device.irqs.deassert()


def _select(device: VfioMock, value: int) -> None:
    device.log_selected = value


def _pin(device: VfioMock, value: int) -> None:
    held = device.registers.held
    device.pins.command(value, held["PIN_IOVA"], held["PIN_COUNT"])


def _reinit(device: VfioMock, value: int) -> None:
    if value != 1:
        raise Errno(errno.EINVAL)
    device.states.reinit()


def _limit(field: str, allowed: Callable[[int], bool]) -> Callable[[VfioMock, int], None]:
    """Return the write function of a register that sets a limit of the log, which applies from the next start on."""

    def write(device: VfioMock, value: int) -> None:
        if not allowed(value):
            raise Errno(errno.EINVAL)
        kind = type(getattr(device.log.limits, field))
        device.log.limits = device.log.limits._replace(**{field: kind(value)})

    return write


def _is_page_size(value: int) -> bool:
    return value >= 4096 and not value & (value - 1)


_ACTING: dict[int, tuple[int, Callable[[VfioMock, int], None]]] = {
    0x020: (4, _transfer_max),
    0x148: (4, _command),
    0x180: (4, _raise),
    0x184: (4, _line),
    0x200: (4, _limit("ranges", lambda value: value > 0)),
    0x204: (4, _limit("refuse", lambda value: value in (COMBINE, REFUSE))),
    0x208: (8, _limit("page_size_min", _is_page_size)),
    0x210: (8, _limit("page_size_max", _is_page_size)),
    0x218: (4, _limit("log2_size_min", lambda value: value <= 64)),
    0x21C: (4, _limit("log2_size_max", lambda value: value <= 64)),
    0x230: (4, _select),
    0x310: (4, _pin),
    0x384: (4, _reinit),
}
_HELD_AT = {register.offset: (register.width, name) for name, register in HELD.items()}


class Registers:
    """The registers of one device.

    :ivar held: name -> value of the registers in :data:`HELD`
    """

    def __init__(self, device: VfioMock) -> None:
        self._device = device
        self.held: dict[str, int] = {}
        self.reset()

    def reset(self) -> None:
        self.held = {name: register.default for name, register in HELD.items()}

    def read(self, offset: int, width: int) -> int:
        """Read a register.

        :raises Errno: EINVAL, there is no register of that width, or it is not readable
        """
        if failures.START <= offset < failures.END:
            _check_width(width, 4)
            return self._device.failures.read(offset)
        if offset in _HELD_AT:
            own, name = _HELD_AT[offset]
            _check_width(width, own)
            return self.held[name]
        if offset in _SHOWN:
            own, value = _SHOWN[offset]
            _check_width(width, own)
            return int(value(self._device))
        raise Errno(errno.EINVAL)

    def write(self, offset: int, width: int, value: int) -> None:
        """Write a register.

        :raises Errno: EINVAL, there is no register of that width, or it is not writable; or the error of its effect
        """
        if failures.START <= offset < failures.END:
            _check_width(width, 4)
            self._device.failures.write(offset, value)
        elif offset in _ACTING:
            own, act = _ACTING[offset]
            _check_width(width, own)
            act(self._device, value)
        elif offset in _HELD_AT:
            own, name = _HELD_AT[offset]
            _check_width(width, own)
            self.held[name] = value
        else:
            raise Errno(errno.EINVAL)


def _check_width(width: int, own: int) -> None:
    if width != own:
        raise Errno(errno.EINVAL)
