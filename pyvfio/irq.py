"""Interrupts of a device, each vector by an eventfd of its own."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, overload

from pyvfio._abi import ffi, lib
from pyvfio._core import capability, explain
from pyvfio._core.event import Event
from pyvfio.errors import Unsupported

if TYPE_CHECKING:
    from pyvfio.device import Device

PCI_NAMES = ("intx", "msi", "msix", "err", "req")

_NONE = lib.VFIO_IRQ_SET_DATA_NONE
_EVENTFD = lib.VFIO_IRQ_SET_DATA_EVENTFD
_MASK = lib.VFIO_IRQ_SET_ACTION_MASK
_UNMASK = lib.VFIO_IRQ_SET_ACTION_UNMASK
_TRIGGER = lib.VFIO_IRQ_SET_ACTION_TRIGGER


class IrqInfo(NamedTuple):
    """VFIO_DEVICE_GET_IRQ_INFO: `struct vfio_irq_info`.

    :ivar flags: VFIO_IRQ_INFO_*
    :ivar count: vectors; 0 when the device lacks this kind of interrupt
    """

    index: int  # type: ignore[assignment]  # the kernel's words; tuple's methods are of no use here
    flags: int
    count: int  # type: ignore[assignment]

    @property
    def maskable(self) -> bool:
        """Whether the vectors can be masked and unmasked (VFIO_IRQ_INFO_MASKABLE)."""
        return bool(self.flags & lib.VFIO_IRQ_INFO_MASKABLE)

    @property
    def automasked(self) -> bool:
        """Masked by the kernel whenever it fires, until :meth:`Vector.unmask`."""
        return bool(self.flags & lib.VFIO_IRQ_INFO_AUTOMASKED)

    @property
    def resizable(self) -> bool:
        """Whether vectors beyond those enabled first can be added without disabling all."""
        return not self.flags & lib.VFIO_IRQ_INFO_NORESIZE


class Vector(Event):
    """One enabled vector and its eventfd. The eventfd counts: interrupts that come together are one wake-up, none is lost."""

    _noun = "interrupt"

    def __init__(self, irq: Irq, index: int) -> None:
        super().__init__(irq.device, f"{irq.name}[{index}]")
        self.irq = irq
        self.index = index

    def trigger(self) -> None:
        """Fire it in software (loopback): the eventfd is signalled as if by the device."""
        self.irq._set(_NONE | _TRIGGER, self.index, 1)

    def mask(self) -> None:
        """
        :raises Unsupported: vectors of this kind cannot be masked
        """
        self.irq._require(self.irq.info.maskable, "masked")
        self.irq._set(_NONE | _MASK, self.index, 1)

    def unmask(self) -> None:
        """
        :raises Unsupported: vectors of this kind cannot be masked
        """
        self.irq._require(self.irq.info.maskable, "masked")
        self.irq._set(_NONE | _UNMASK, self.index, 1)

    def set_unmask_eventfd(self, eventfd: int) -> None:
        """Have the kernel unmask whenever `eventfd` is signalled. VFIO_DEVICE_SET_IRQS, ACTION_UNMASK with DATA_EVENTFD.

        :param eventfd: a descriptor of eventfd(2); it stays the caller's
        :raises Unsupported: vectors of this kind cannot be masked
        """
        self._set_unmask_eventfd(eventfd)

    def clear_unmask_eventfd(self) -> None:
        """Undo :meth:`set_unmask_eventfd`. VFIO_DEVICE_SET_IRQS with descriptor -1."""
        self._set_unmask_eventfd(-1)

    def _set_unmask_eventfd(self, eventfd: int) -> None:
        self.irq._require(self.irq.info.maskable, "masked")
        self.irq._set(_EVENTFD | _UNMASK, self.index, 1, [eventfd])

    def _release(self) -> None:
        irq = self.irq
        irq._enabled.pop(self.index, None)
        try:
            if not irq.device._fd.closed:
                irq._set(_EVENTFD | _TRIGGER, self.index, 1, [-1])
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENODEV):
                raise
            # The kind as a whole was disabled meanwhile (a reset does that), or the device is gone.
        finally:
            self._dispose()


class Irq:
    """One kind of interrupt of a device, with its vectors."""

    def __init__(self, device: Device, info: IrqInfo, name: str) -> None:
        self.device = device
        self.info = info
        self.name = name
        self._enabled: dict[int, Vector] = {}

    @property
    def count(self) -> int:
        """How many vectors the device has."""
        return self.info.count

    @property
    def vectors(self) -> list[Vector]:
        """The enabled ones."""
        return [self._enabled[index] for index in sorted(self._enabled)]

    def enable(self, vectors: Iterable[int] | None = None) -> list[Vector]:
        """Enable vectors, all in one call, each with an eventfd of its own. VFIO_DEVICE_SET_IRQS with eventfds.

        vfio-pci has one of INTx, MSI and MSI-X on at a time. Those that are enabled already stay.

        :param vectors: numbers, a range without gaps; None for the first one alone
        :returns: the vectors asked for
        :raises Unsupported: the device has no such interrupt
        :raises OSError: EINVAL beyond :attr:`count`, or while another kind is on; ENOSPC when the host has not so many
        """
        self._require(self.count > 0, "enabled: the device has none")
        numbers = [0] if vectors is None else sorted(set(vectors))
        if not numbers or numbers[-1] - numbers[0] >= len(numbers):
            raise ValueError(f"vectors {numbers}: a range without gaps, and not empty")
        fresh: list[Vector] = []
        try:
            fresh.extend(Vector(self, number) for number in numbers if number not in self._enabled)
            if fresh:
                known = {vector.index: vector for vector in fresh} | self._enabled
                fds = [known[number].fileno() for number in numbers]
                self._set(_EVENTFD | _TRIGGER, numbers[0], len(numbers), fds)
        except BaseException:
            for vector in fresh:
                vector._dispose()
            raise
        self._enabled.update((vector.index, vector) for vector in fresh)
        return [self._enabled[number] for number in numbers]

    def disable(self) -> None:
        """Disable all vectors, and close their eventfds. Harmless when none is on."""
        if not self._enabled:
            return
        self._set(_NONE | _TRIGGER, 0, 0)
        for vector in self.vectors:
            self._enabled.pop(vector.index)
            vector._dispose()

    def _require(self, possible: bool, what: str) -> None:
        if not possible:
            raise Unsupported(f"{self!r} cannot be {what}")

    def _set(self, flags: int, start: int, count: int, fds: Sequence[int] = ()) -> None:
        memory = ffi.new("char[]", ffi.sizeof("struct vfio_irq_set") + 4 * len(fds))
        set_ = ffi.cast("struct vfio_irq_set *", memory)
        set_.argsz = len(memory)
        set_.flags = flags
        set_.index = self.info.index
        set_.start = start
        set_.count = count
        if fds:
            ffi.cast("int32_t *", set_.data)[0 : len(fds)] = fds
        error = self.device._fd.ioctl(lib.VFIO_DEVICE_SET_IRQS, set_)
        if error < 0:

            def clue() -> tuple[str | None, list[str]]:
                if start + count > self.count:
                    return f"there are {self.count} vectors", []
                others = [irq.name for irq in self.device.irqs.known if irq is not self and irq._enabled]
                if -error == errno.EINVAL and others:
                    return f"{' and '.join(others)} is on, and one kind is at a time", [f"disable {others[0]} first"]
                if -error == errno.EINVAL and not self._enabled:
                    return None, ["it is not enabled"]
                return None, []

            arguments = f"{self.name}, start={start}, count={count}, flags={flags:#x}"
            raise explain.failed(self.device._fd, error, "VFIO_DEVICE_SET_IRQS", arguments, clue)

    def __repr__(self) -> str:
        return f"<Irq {self.name} of {self.device.address}, {self.count} vectors>"


class Irqs(Sequence[Irq]):
    """The interrupts of a device, by index; for PCI also by name: `intx`, `msi`, `msix`, `err`, `req`."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._known: dict[int, Irq] = {}

    @property
    def known(self) -> list[Irq]:
        """Those that have been asked for."""
        return list(self._known.values())

    def __len__(self) -> int:
        return self._device.info.num_irqs

    @overload
    def __getitem__(self, index: int) -> Irq: ...
    @overload
    def __getitem__(self, index: slice) -> list[Irq]: ...
    def __getitem__(self, index: int | slice) -> Irq | list[Irq]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        if index not in self._known:
            info = irq_info(self._device, index)
            fixed = self._device.info.is_pci and index < len(PCI_NAMES)
            self._known[index] = Irq(self._device, info, PCI_NAMES[index] if fixed else str(index))
        return self._known[index]

    def __iter__(self) -> Iterator[Irq]:
        return (self[index] for index in range(len(self)))

    def _named(self, name: str) -> Irq:
        if not self._device.info.is_pci:
            raise Unsupported(f"{self._device.address} is no PCI device: its interrupts have numbers only")
        return self[PCI_NAMES.index(name)]

    @property
    def intx(self) -> Irq:
        """The legacy interrupt: one, level-triggered."""
        return self._named("intx")

    @property
    def msi(self) -> Irq:
        """Message-signalled interrupts."""
        return self._named("msi")

    @property
    def msix(self) -> Irq:
        """Message-signalled interrupts by a table in a BAR: up to 2048."""
        return self._named("msix")

    @property
    def err(self) -> Irq:
        """Fires on an uncorrectable error that the bus reports (AER)."""
        return self._named("err")

    @property
    def req(self) -> Irq:
        """Fires when the kernel wants the device back (unbind, unplug); close it then."""
        return self._named("req")


def irq_info(device: Device, index: int) -> IrqInfo:
    """VFIO_DEVICE_GET_IRQ_INFO, asked anew. A kind that this device lacks has no vectors.

    :raises OSError: EINVAL for an index that the device does not have
    """
    try:
        answer, _ = capability.ask(device._fd, "VFIO_DEVICE_GET_IRQ_INFO", "struct vfio_irq_info", index=index)
    except OSError as error:
        # vfio-pci has no error interrupt outside PCI Express, yet counts it.
        if error.errno == errno.EINVAL and index < device.info.num_irqs:
            return IrqInfo(index, 0, 0)
        raise
    return IrqInfo(answer.index, answer.flags, answer.count)
