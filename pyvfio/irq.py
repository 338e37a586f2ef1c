# SPDX-License-Identifier: MIT
"""Interrupts of a device. The kernel signals an eventfd for each vector."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from pyvfio._abi import ffi, lib
from pyvfio._buffer import Object
from pyvfio._core import capability, html
from pyvfio._core.arguments import integer, wrong_type
from pyvfio._core.device_file import DeviceFile
from pyvfio._core.event import Event
from pyvfio._core.flags import names
from pyvfio._core.indexed import Indexed
from pyvfio._core.request import Explanation, Reason, Request
from pyvfio._core.resource import Attempts
from pyvfio.errors import Closed, Unsupported
from pyvfio.pci import COMMAND_INTX_DISABLE, COMMAND_MASTER

if TYPE_CHECKING:
    from pyvfio.device import Device

__all__ = ["PCI_NAMES", "Irq", "IrqInfo", "Irqs", "Vector"]

#: names of vfio-pci's kinds of interrupt, by index
PCI_NAMES = ("intx", "msi", "msix", "err", "req")

_NONE = lib.VFIO_IRQ_SET_DATA_NONE
_EVENTFD = lib.VFIO_IRQ_SET_DATA_EVENTFD
_MASK = lib.VFIO_IRQ_SET_ACTION_MASK
_UNMASK = lib.VFIO_IRQ_SET_ACTION_UNMASK
_TRIGGER = lib.VFIO_IRQ_SET_ACTION_TRIGGER


class SetFacts(NamedTuple):
    """The facts about interrupts that could not be set.

    :ivar name: the name of the interrupts
    :ivar last: number of the last vector that was asked for; None for all
    :ivar vectors: how many the device has
    :ivar enabled: whether any of them is enabled
    :ivar others: the device's other interrupts that are enabled
    :ivar enabling: whether the request was to enable vectors
    :ivar fixed: the number of vectors that was fixed when the first was enabled (VFIO_IRQ_INFO_NORESIZE); None if it is not fixed
    :ivar room: the number of vectors that the kernel reported it can allocate; None if it reported none
    :ivar asleep: whether the device is in D3hot
    :ivar resizable: whether vectors can be added while some are enabled
    """

    name: str
    last: int | None
    vectors: int
    enabled: bool
    others: tuple[str, ...]
    enabling: bool
    fixed: int | None = None
    room: int | None = None
    asleep: bool = False
    resizable: bool = False


def _not_set(facts: SetFacts) -> Reason | None:
    if facts.last is not None and facts.last >= facts.vectors:
        return Reason(f"there are {facts.vectors} vectors, numbered from 0")
    if facts.others and facts.enabling:
        names, first = " and ".join(map(_worded, facts.others)), facts.others[0]
        kinds = "kind of interrupt" if first.isdecimal() else "of INTx, MSI and MSI-X"
        return Reason(
            f"{names} {'is' if len(facts.others) == 1 else 'are'} enabled; only one {kinds} can be enabled at a time",
            (f"device.irqs{f'[{first}]' if first.isdecimal() else f'.{first}'}.disable()",),
        )
    if facts.fixed is not None and facts.enabling and facts.last is not None and facts.last >= facts.fixed:
        wanted = facts.last + 1
        irq = f"device.irqs{f'[{facts.name}]' if facts.name.isdecimal() else f'.{facts.name}'}"
        return Reason(
            f"the number of vectors of {_worded(facts.name)} is fixed when the first is enabled ({facts.fixed} now; "
            "VFIO_IRQ_INFO_NORESIZE)",
            (f"{irq}.disable(); {irq}.enable(range({wanted}))",),
        )
    if facts.asleep:
        return Reason(
            "the device is in D3hot, where it has no interrupts", ("wake it up by its power management capability",)
        )
    if facts.enabling and not facts.enabled:
        return None
    if not facts.enabled:
        return Reason(f"{_worded(facts.name)} is not enabled: enable() comes first")
    return None


_ACTIONS = {_MASK: "MASK", _UNMASK: "UNMASK", _TRIGGER: "TRIGGER"}


def _worded(name: str) -> str:
    return f"interrupt {name}" if name.isdecimal() else {"intx": "INTx", "msix": "MSI-X"}.get(name, name.upper())


def _no_vectors(facts: SetFacts) -> Reason:
    room = "" if facts.room is None else f"; it has {facts.room} for this device"
    later = ("more can be enabled later, as they are needed",) if facts.resizable else ()
    return Reason(
        f"the host cannot allocate that many interrupt vectors{room}",
        ("enable fewer, or close other devices that use vectors", *later),
    )


_ERRNOS: dict[int, Explanation] = {errno.EINVAL: _not_set, errno.ENOSPC: _no_vectors}
SET_IRQS = Request(
    "VFIO_DEVICE_SET_IRQS",
    "device",
    "struct vfio_irq_set",
    errnos=_ERRNOS,
    tell=lambda native: " ".join(word for flag, word in _ACTIONS.items() if native.flags & flag),
)
_OPERATIONS = {action: SET_IRQS.operation(word) for action, word in _ACTIONS.items()}
GET_IRQ_INFO = Request(
    "VFIO_DEVICE_GET_IRQ_INFO",
    "device",
    "struct vfio_irq_info",
    errnos={errno.EINVAL: "the device has no interrupts of that index"},
)


class IrqInfo(NamedTuple):
    """The properties of a kind of interrupt. VFIO_DEVICE_GET_IRQ_INFO, `struct vfio_irq_info`.

    :ivar flags: VFIO_IRQ_INFO_*
    :ivar count: vectors; 0 when the device lacks this kind of interrupt
    """

    index: int  # type: ignore[assignment]  # the kernel's words; tuple's methods are of no use here
    flags: int
    count: int  # type: ignore[assignment]  # the kernel's word; tuple.count is of no use here

    def __repr__(self) -> str:
        return f"IrqInfo(index={self.index}, flags={names(self.flags, 'VFIO_IRQ_INFO_')}, count={self.count})"

    @property
    def maskable(self) -> bool:
        """Whether the vectors can be masked and unmasked (VFIO_IRQ_INFO_MASKABLE)."""
        return bool(self.flags & lib.VFIO_IRQ_INFO_MASKABLE)

    @property
    def automasked(self) -> bool:
        """Whether the kernel masks the interrupt whenever it fires, until :meth:`Vector.unmask` (VFIO_IRQ_INFO_AUTOMASKED)."""
        return bool(self.flags & lib.VFIO_IRQ_INFO_AUTOMASKED)

    @property
    def resizable(self) -> bool:
        """Whether more vectors can be enabled without first disabling all of them (VFIO_IRQ_INFO_NORESIZE is clear)."""
        return not self.flags & lib.VFIO_IRQ_INFO_NORESIZE


class Vector(Event):
    """One enabled vector and its eventfd. The eventfd counts: one wait may return several interrupts, but none is lost."""

    _noun = "interrupt"

    def __init__(self, irq: Irq, index: int) -> None:
        device = irq.device
        super().__init__(device, device.file.kernel, f"{device.address} {irq.name}[{index}]")
        self.irq = irq
        self.index = index
        #: whether the interrupt has fired since the last unmask()
        self._fired = False
        self._unmasked_by_eventfd = False

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the interrupt fires; see :meth:`Event.wait`. The notes of a :class:`TimeoutError` say why it cannot fire, if that is known.

        :param timeout: seconds; 0 does not wait; None waits for ever
        """
        count = super().wait(timeout)
        self._fired = True
        return count

    def _why_silent(self) -> list[str]:
        device, irq = self.irq.device, self.irq
        if not device.info.is_pci:
            return []
        command = device.config.command
        if irq.name in ("msi", "msix") and not command & COMMAND_MASTER:
            return ["bus master is off, so the device cannot send messages: device.config.bus_master = True"]
        if irq.name == "intx" and command & COMMAND_INTX_DISABLE:
            return ["INTx is switched off in the command register (bit 10): device.config.command &= ~0x400"]
        if irq.name == "intx" and self._fired and not self._unmasked_by_eventfd:
            return ["INTx is masked when it fires, and has not been unmasked since: Vector.unmask() after each"]
        return []

    def trigger(self) -> None:
        """Fire the interrupt in software: the kernel signals the eventfd as if the device had. VFIO_DEVICE_SET_IRQS, ACTION_TRIGGER."""
        self.irq._set(_NONE | _TRIGGER, self.index, 1)

    def mask(self) -> None:
        """Mask the vector. VFIO_DEVICE_SET_IRQS, ACTION_MASK.

        :raises Unsupported: vectors of this kind cannot be masked
        """
        self.irq._require(self.irq.info.maskable, "masked")
        self.irq._set(_NONE | _MASK, self.index, 1)

    def unmask(self) -> None:
        """Unmask the vector. VFIO_DEVICE_SET_IRQS, ACTION_UNMASK.

        :raises Unsupported: vectors of this kind cannot be masked
        """
        self.irq._require(self.irq.info.maskable, "masked")
        self.irq._set(_NONE | _UNMASK, self.index, 1)
        self._fired = False

    def set_unmask_eventfd(self, eventfd: int) -> None:
        """Have the kernel unmask whenever `eventfd` is signalled. VFIO_DEVICE_SET_IRQS, ACTION_UNMASK with DATA_EVENTFD.

        :param eventfd: a descriptor of eventfd(2); it stays the caller's
        :raises Unsupported: vectors of this kind cannot be masked
        """
        self._set_unmask_eventfd(integer(eventfd, "eventfd", 0, 2**31 - 1))

    def clear_unmask_eventfd(self) -> None:
        """Undo :meth:`set_unmask_eventfd`. VFIO_DEVICE_SET_IRQS with descriptor -1."""
        self._set_unmask_eventfd(-1)

    def _set_unmask_eventfd(self, eventfd: int) -> None:
        self.irq._require(self.irq.info.maskable, "masked")
        self.irq._set(_EVENTFD | _UNMASK, self.index, 1, [eventfd])
        self._unmasked_by_eventfd = eventfd >= 0

    def _release(self) -> None:
        irq = self.irq
        irq._enabled.pop(self.index, None)
        try:
            if not irq.device.file.closed:
                irq._set(_EVENTFD | _TRIGGER, self.index, 1, [-1])
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENODEV):
                raise
            # EINVAL: all vectors were disabled meanwhile, for example by a reset. ENODEV: the device is gone.
        finally:
            self._dispose()


class Irq:
    """One kind of interrupt of a device, with its vectors.

    :ivar device: the device that it belongs to
    :ivar info: its properties, as the kernel reports them
    :ivar name: `intx`, `msi`, `msix`, `err` or `req` for PCI; its number on other buses
    """

    def __init__(self, device: Device, info: IrqInfo, name: str) -> None:
        self.device = device
        self.info = info
        self.name = name
        self._enabled: dict[int, Vector] = {}

    @property
    def count(self) -> int:
        """The number of vectors that the device has."""
        return self.info.count

    @property
    def vectors(self) -> list[Vector]:
        """The enabled vectors, by number."""
        return [self._enabled[index] for index in sorted(self._enabled)]

    def enable(self, vectors: Iterable[int] | None = None) -> list[Vector]:
        """Enable vectors, each with its own eventfd, by one request. VFIO_DEVICE_SET_IRQS, ACTION_TRIGGER with DATA_EVENTFD.

        With vfio-pci only one of INTx, MSI and MSI-X can be enabled at a time. Vectors that are enabled already stay enabled.

        :param vectors: the numbers of the vectors, without gaps; None for vector 0
        :returns: the vectors asked for
        :raises Unsupported: the device has no such interrupt
        :raises OSError: EINVAL beyond :attr:`count`, or while another kind is enabled; ENOSPC: the host cannot allocate that many vectors
        """
        self._require(self.count > 0, "enabled: the device has none")
        numbers = [0] if vectors is None else _numbers(vectors)
        if not numbers or numbers[-1] - numbers[0] >= len(numbers):
            raise ValueError(f"vectors {numbers}: a range without gaps, and not empty")
        fresh: list[Vector] = []
        made = Object()
        try:
            fresh.extend(Vector(self, number) for number in numbers if number not in self._enabled)
            if fresh:
                known = {vector.index: vector for vector in fresh} | self._enabled
                fds = [known[number].fileno() for number in numbers]
                self._set(_EVENTFD | _TRIGGER, numbers[0], len(numbers), fds, made)
            if any(vector.index in self._enabled for vector in fresh):
                # Another thread enabled some of them meanwhile, and may have handed out its Vector objects: keep those, drop ours.
                known = {vector.index: vector for vector in fresh} | self._enabled
                fds = [known[number].fileno() for number in numbers]
                self._set(_EVENTFD | _TRIGGER, numbers[0], len(numbers), fds)
                for vector in fresh:
                    if known[vector.index] is not vector:
                        vector._dispose()
            self._enabled.update({vector.index: vector for vector in fresh if not vector.closed})
        except BaseException as failure:
            if not [vector for vector in fresh if self._enabled.get(vector.index) is vector]:
                self._withdraw(fresh, made, failure)
            raise
        enabled = [self._enabled.get(number) for number in numbers]
        if None in enabled:
            raise Closed(f"{self!r}: another thread disabled it, or closed the device, meanwhile")
        return [vector for vector in enabled if vector is not None]

    def _withdraw(self, fresh: list[Vector], made: Object, failure: BaseException) -> None:
        """Disable vectors that were to be enabled, if the kernel has enabled them, and close their eventfds."""
        attempts = Attempts()
        enabled = made.present and made.id == 0  # a positive result: fewer vectors were available, and none was enabled
        if enabled and not self._enabled:
            attempts.do(partial(self._set, _NONE | _TRIGGER, 0, 0))
        elif enabled:
            for vector in fresh:
                attempts.do(partial(self._set, _EVENTFD | _TRIGGER, vector.index, 1, [-1]))
        for vector in fresh:
            attempts.do(vector._dispose, partial(getattr, vector, "_closed"))
        for other in attempts.failures:
            failure.add_note(f"disabling them again failed too: {other!r}")

    def enable_all(self) -> list[Vector]:
        """Enable every vector that the device has; see :meth:`enable`."""
        return self.enable(range(self.count))

    def disable(self) -> None:
        """Disable all vectors, and close their eventfds. No effect if none is enabled."""
        if not self._enabled:
            return
        made = Object()
        try:
            self._set(_NONE | _TRIGGER, 0, 0, made=made)
        finally:
            if made.present:
                try:
                    self._dispose_vectors()
                except BaseException:
                    self._dispose_vectors()
                    raise

    def _dispose_vectors(self) -> None:
        for vector in self.vectors:
            vector._dispose()
            self._enabled.pop(vector.index, None)

    def _require(self, possible: bool, what: str) -> None:
        if not possible:
            raise Unsupported(f"{self!r} cannot be {what}")

    def _set(self, flags: int, start: int, count: int, fds: Sequence[int] = (), made: Object | None = None) -> None:
        operation = _OPERATIONS[flags & (_MASK | _UNMASK | _TRIGGER)]
        native = operation.new(4 * len(fds), flags=flags, index=self.info.index, start=start, count=count)
        if fds:
            ffi.cast("int32_t *", native.data)[0 : len(fds)] = fds

        room: int | None = None

        def facts(_: int) -> SetFacts:
            others = tuple(irq.name for irq in self.device.irqs.known if irq is not self and irq._enabled)
            last = start + count - 1 if count else None
            fixed = None if self.info.resizable or not self._enabled else max(self._enabled) + 1
            enabling = bool(fds and fds[0] >= 0)
            asleep = enabling and self.device.info.is_pci and self.device.config.asleep
            return SetFacts(
                self.name,
                last,
                self.count,
                bool(self._enabled),
                others,
                enabling,
                fixed,
                room,
                asleep,
                self.info.resizable,
            )

        vectors = (
            f"{self.name}[{start}]" if count == 1 else f"{self.name}[{start}:{start + count}]" if count else self.name
        )
        fd = self.device.file.fd
        received = () if made is None else ((ffi.NULL, made),)
        if (room := operation.receive(fd, native, *received, arguments={"vectors": vectors}, facts=facts)) > 0:
            # If fewer vectors are available than asked for, vfio_msi_enable returns their number, not an errno, and enables none.
            raise operation.error(fd, errno.ENOSPC, {"vectors": vectors}, facts)

    def __repr__(self) -> str:
        return f"<Irq {self.name} of {self.device.address}, {self.count} vectors>"


def _numbers(vectors: object) -> list[int]:
    """Return the vector numbers of an argument, sorted."""
    if isinstance(vectors, int):
        raise TypeError(f"vectors must be an iterable of numbers, not int: range({vectors}) are the first {vectors}")
    try:
        each = iter(vectors)  # type: ignore[call-overload]  # the except handles values that are not iterable
    except TypeError:
        raise wrong_type(vectors, "vectors", "an iterable of numbers") from None
    return sorted({integer(number, "vectors", 0, 2**32 - 1) for number in each})


class Irqs(Indexed[Irq]):
    """The interrupts of a device, by index, for PCI also by name: `irqs.msi`, `irqs["msi"]`.

    The names are `intx`, `msi`, `msix`, `err` and `req`. VFIO_DEVICE_GET_IRQ_INFO when one is first used.
    """

    pci_names = PCI_NAMES

    def __init__(self, device: Device) -> None:
        super().__init__(device.file)
        self._device = device

    @property
    def known(self) -> list[Irq]:
        """The kinds of interrupt that have been used so far."""
        return list(self._known.values())

    def __len__(self) -> int:
        return self._file.info.num_irqs

    def _make(self, index: int, name: str) -> Irq:
        return Irq(self._device, irq_info(self._file, index), name)

    def __repr__(self) -> str:
        counts = ", ".join(f"{each.name} {each.count}" for each in self._shown() if each.count)
        return f"<Irqs of {self._device.address}: {counts or 'none known'}>"

    def _repr_html_(self) -> str:
        rows = [
            (each.info.index, each.name, each.count, names(each.info.flags, "VFIO_IRQ_INFO_"))
            for each in self._shown()
            if each.count
        ]
        return html.table(f"Interrupts of {self._device.address}", ("index", "name", "vectors", "flags"), rows)

    def _named(self, name: str) -> Irq:
        if not self._device.info.is_pci:
            raise Unsupported(f"{self._device.address} is not a PCI device: its interrupts have numbers only")
        return self[PCI_NAMES.index(name)]

    @property
    def intx(self) -> Irq:
        """The legacy interrupt INTx: one vector, level-triggered."""
        return self._named("intx")

    @property
    def msi(self) -> Irq:
        """Message-signalled interrupts (MSI): up to 32 vectors."""
        return self._named("msi")

    @property
    def msix(self) -> Irq:
        """Message-signalled interrupts with a table in a BAR (MSI-X): up to 2048 vectors."""
        return self._named("msix")

    @property
    def err(self) -> Irq:
        """The error interrupt, which fires on an uncorrectable error that the bus reports (AER)."""
        return self._named("err")

    @property
    def req(self) -> Irq:
        """The request interrupt, which fires when the kernel wants the device back (unbind, unplug): close the device then."""
        return self._named("req")


def irq_info(file: DeviceFile, index: int) -> IrqInfo:
    """Ask the kernel for the properties of a kind of interrupt. The count is 0 for a kind that this device lacks.

    VFIO_DEVICE_GET_IRQ_INFO.

    :raises OSError: EINVAL for an index that the device does not have
    """
    try:
        answer, _ = capability.ask(file.fd, GET_IRQ_INFO, index=index)
    except OSError as error:
        # num_irqs of vfio-pci counts the error interrupt, which only PCI Express devices have; for others the kernel returns EINVAL.
        if error.errno == errno.EINVAL and index < file.info.num_irqs:
            return IrqInfo(index, 0, 0)
        raise
    return IrqInfo(answer.index, answer.flags, answer.count)
