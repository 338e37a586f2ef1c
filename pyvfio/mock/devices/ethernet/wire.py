# SPDX-License-Identifier: MIT
"""The wire between network cards."""

from __future__ import annotations

from collections import deque
from threading import Condition, Thread
from typing import TYPE_CHECKING, Protocol
from weakref import ref

if TYPE_CHECKING:
    from pyvfio.mock.machine.kernel import Kernel


class Port(Protocol):
    """A network card, as the wire sees it."""

    @property
    def kernel(self) -> Kernel:
        """The kernel whose lock is held while the card receives."""

    wire: Wire | None

    def receive(self, frame: bytes) -> None:
        """Take a frame from the wire, without its checksum."""


class Wire:
    """A wire that connects network cards: a frame that one card sends, all others receive.

    Cards of the sender's kernel receive before the sender's register write returns. Cards of other kernels receive a
    little later, in a thread, because each card receives under the lock of its own kernel.

    :param ports: the cards
    :raises ValueError: a card has a wire already
    """

    def __init__(self, *ports: Port) -> None:
        for port in ports:
            if port.wire is not None:
                raise ValueError(f"{port!r} is connected already; disconnect() its wire first")
        self.ports = list(ports)
        for port in ports:
            port.wire = self
        self._later: deque[tuple[Port, bytes]] = deque()
        self._filled = Condition()
        self._thread: Thread | None = None

    def disconnect(self) -> None:
        """Disconnect all cards."""
        for port in self.ports:
            port.wire = None
        self.ports.clear()

    def carry(self, sender: Port, frame: bytes) -> None:
        """Deliver a frame to all cards but the sender.

        :param sender: the card that sends
        :param frame: the frame
        """
        for port in list(self.ports):
            if port is sender:
                continue
            if port.kernel is sender.kernel:
                port.receive(frame)
            else:
                self._carry_later(port, frame)

    def _carry_later(self, port: Port, frame: bytes) -> None:
        with self._filled:
            self._later.append((port, frame))
            self._filled.notify()
            if self._thread is None:
                self._thread = Thread(target=_deliver, args=(ref(self), self._later, self._filled), daemon=True)
                self._thread.start()


def _deliver(wire: ref[Wire], later: deque[tuple[Port, bytes]], filled: Condition) -> None:
    """Deliver frames to cards of other kernels, as long as the wire exists."""
    while True:
        with filled:
            while not later:
                if wire() is None:
                    return
                filled.wait(1)
            port, frame = later.popleft()
        with port.kernel.lock:
            if port.wire is not None:
                port.receive(frame)
