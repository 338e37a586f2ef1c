# SPDX-License-Identifier: MIT
"""A device of the mock that is implemented by a vfio-user server. The mock contributes groups, modes, errors and the IOMMU."""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Callable, Iterator
from typing import Any

from pyvfio._abi import lib
from pyvfio._core import arguments
from pyvfio.errors import Error
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.kernel import Kernel
from pyvfio.mock.vfio.dma_fault import DmaFault
from pyvfio.mock.vfio.irq import BOOL, EVENTFD, IrqSet
from pyvfio.mock.vfio.pci.config import CAP_MASTER, CAP_MEMORY, COMMAND
from pyvfio.mock.vfio.pci.device import PciDevice
from pyvfio.mock.vfio.pci.function import Bar, Function
from pyvfio.mock.vfio.region import MMAP, OFFSET_MASK, OFFSET_SHIFT, Region
from pyvfio.pci import SavedConfig
from pyvfio.vfio_user import protocol
from pyvfio.vfio_user.client import TIMEOUT, Client

ADDRESS = "0000:00:0a.0"
_CONFIG = lib.VFIO_PCI_CONFIG_REGION_INDEX
_BARS = range(6)
#: bytes of configuration space that have the standard capabilities
_CONFIG_SIZE = 256
#: the power management capability: its id, its size, the offset of PMCSR in it, and the value of the state field in D3hot
_POWER_MANAGEMENT, _POWER_SIZE, _POWER_CONTROL, _D3HOT = 1, 8, 4, 3
#: the errnos when a server has gone or does not answer; no further request is made then
_SILENT = (errno.ENODEV, errno.ETIMEDOUT, errno.EBADF)
#: sizes of the one DMA_MAP, tried in turn: all addresses that an IOMMU of this host has, or fewer, since libvfio-user accepts at most 8 TiB
_EVERYTHING = (1 << 57, 8 << 40, 1 << 40)


@contextlib.contextmanager
def _remote() -> Iterator[None]:
    """Turn an error that a server answers into the mock's Errno."""
    try:
        yield
    except OSError as error:
        raise Errno(error.errno or errno.EIO) from None


class RemoteIrqs:
    """The interrupts of a remote device. They are in the server, which signals the caller's eventfds itself."""

    def __init__(self, client: Callable[[], Client]) -> None:
        self._client = client
        _, _, count = client().info()
        self._infos = [client().irq_info(index) for index in range(count)]
        self.counts = tuple(count for _, count in self._infos)
        self.enabled = [0] * len(self.counts)
        self.signalled = 0
        self.virtually_masked = self.sleeps = self.asserted = False

    def flags(self, index: int) -> int:
        """VFIO_IRQ_INFO_* of an index."""
        return self._infos[index][0]

    def set(self, what: IrqSet) -> int | None:
        """VFIO_DEVICE_SET_IRQS. Each eventfd is a message of its own, since some servers accept only one descriptor in a message."""
        with _remote():
            flags = what.type | what.action
            if what.type == EVENTFD:
                for at, fd in enumerate(what.data):
                    self._client().set_irqs(flags, what.index, what.start + at, 1, fds=[fd] if fd >= 0 else [])
            else:
                data = bytes(what.data) if what.type == BOOL else b""
                self._client().set_irqs(flags, what.index, what.start, what.count, data)
        return None

    def off(self) -> None:
        """Disable all interrupts, at close, as long as the server answers."""
        for index, count in enumerate(self.counts):
            if count:
                try:
                    self._client().set_irqs(lib.VFIO_IRQ_SET_DATA_NONE | lib.VFIO_IRQ_SET_ACTION_TRIGGER, index, 0, 0)
                except OSError as error:
                    if error.errno in _SILENT:
                        return

    def interrupt(self, index: int, vector: int = 0) -> None:
        """Do nothing: the kernel signals the request interrupt, and the protocol has no message for that."""

    def deassert(self) -> None:
        """Do nothing: only the server can lower the interrupt."""

    def mask_virtually(self, on: bool) -> None:
        """Do nothing: the server does that, since it has the command register."""


class RemoteDevice(PciDevice):
    """A PCI function behind a socket, plugged into a mock.

    Its DMA arrives as messages and goes through the IOMMU of the mock's profile: accesses to unmapped addresses are refused, and counted in
    `kernel.faults`. BARs that are mapped have register methods but no view: each access is a message. After a restart of the server, the
    next open connects again.

    While a call waits for the server, the kernel's lock is free, so that a slow server blocks only its own device.

    :param kernel: the mock that it is plugged into
    :param name: its address on the mock's host
    :param path: the path of the server's socket
    :param timeout: seconds to wait for an answer
    :param more: as for :class:`pyvfio.mock.Device`: `driver`, `group`, ...
    :raises OSError: no server listens at the path, or its device is not a PCI device
    """

    def __init__(
        self, kernel: Kernel, name: str, path: str | os.PathLike[str], *, timeout: float = TIMEOUT, **more: Any
    ) -> None:
        self._path = arguments.path(path)
        self._timeout = arguments.seconds(timeout)
        self._client: Client | None = None
        self._lock = arguments.instance(kernel, "kernel", Kernel, "a pyvfio.mock.Kernel").lock
        self._is_plugged_in = False
        self._reachable = True
        try:
            self._set_up(kernel, name, more)
        except BaseException:
            self._disconnect()
            raise

    def _set_up(self, kernel: Kernel, name: str, more: dict[str, Any]) -> None:
        """Ask the server for its regions and interrupts, and plug the device in."""
        flags, count, _ = self._connected().info()
        if not flags & lib.VFIO_DEVICE_FLAGS_PCI:
            raise Error(errno.EINVAL, f"the device of {os.fspath(self._path)} is not a PCI device")
        self._has_reset = bool(flags & lib.VFIO_DEVICE_FLAGS_RESET)
        self._regions = [self._describe(index) for index in range(count)]
        self._remote_irqs = RemoteIrqs(self._live)
        super().__init__(kernel, name, function=self._identify(), **more)
        self._is_plugged_in = True
        self.irqs = self._remote_irqs  # type: ignore[assignment]  # the server has them; the mock has none of its own
        self._flags = flags
        self._regions = [self._mappable(index, region) for index, region in enumerate(self._regions)]
        self.num_regions, self.num_irqs = count, len(self._remote_irqs.counts)

    def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    @property
    def flags(self) -> int:  # type: ignore[override]  # an attribute in the base
        """VFIO_DEVICE_FLAGS_*, as the server gives them."""
        return self._flags

    def _connected(self) -> Client:
        if self._client is None or self._client.gone:
            self._client = Client(
                self._path, read=self._dma_read, write=self._dma_write, timeout=self._timeout, lock=self._lock
            )
        return self._client

    def _describe(self, index: int) -> Region:
        try:
            found = self._connected().region_info(index)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return Region()
        return Region(found.size, found.flags & ~(MMAP | lib.VFIO_REGION_INFO_FLAG_CAPS))

    def _mappable(self, index: int, region: Region) -> Region:
        """Return a region with VFIO_REGION_INFO_FLAG_MMAP adjusted: registers can be mapped, since each access goes to the server."""
        return Region(region.size, region.flags | MMAP) if index in _BARS and self.traps(index) else region

    def _identify(self) -> Function:
        """Return the description for sysfs, read from the configuration space."""
        head = self._connected().region_read(_CONFIG, 0, 64)
        vendor, device = struct.unpack_from("<HH", head)
        subsystem = struct.unpack_from("<HH", head, 0x2C)
        counts = self._remote_irqs.counts
        bars = {index: Bar(_power_of_two(self._regions[index].size)) for index in _BARS if self._regions[index].size}
        return Function(
            (vendor, device), int.from_bytes(head[9:12], "little"), head[8], (subsystem[0], subsystem[1]), bars,
            intx=bool(counts[lib.VFIO_PCI_INTX_IRQ_INDEX]), resets=self._has_reset,
        )  # fmt: skip

    # Its DMA.

    def _dma_read(self, iova: int, size: int) -> bytes:
        with self._accounted(iova, write=False) as space:
            return bytes(space.read(iova, size))

    def _dma_write(self, iova: int, data: bytes) -> None:
        with self._accounted(iova, write=True) as space:
            space.write(iova, data)

    @contextlib.contextmanager
    def _accounted(self, iova: int, *, write: bool) -> Iterator[Any]:
        with self._lock:
            if not self._is_plugged_in:  # a model with its own thread may ask at any time
                raise Error(errno.ENOENT, os.strerror(errno.ENOENT))
            try:
                if self.reach is None:
                    raise Errno(errno.ENOENT)
                yield self.reach
            except Errno as error:
                self.kernel.faults.append(DmaFault(self.name, iova, write, error.number))
                raise Error(error.number, os.strerror(error.number)) from None

    # The methods that the mock's driver calls.

    def open(self) -> None:
        """Connect, and map all memory in the server: the mock's IOMMU checks each access."""
        try:
            with _remote():
                client = self._connected()
                if self._has_reset:
                    client.reset()
                self._end_bus_master()
                self._map_everything(client)
        except BaseException:
            self._disconnect()  # the open has failed, so nobody will close the device
            raise

    def _map_everything(self, client: Client) -> None:
        """Map all memory in the server: the mock's IOMMU checks each access."""
        for size in _EVERYTHING:
            try:
                client.dma_map(0, size, protocol.DMA_READABLE | protocol.DMA_WRITABLE)
                return
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EINVAL) or size == _EVERYTHING[-1]:
                    raise

    def _end_bus_master(self) -> None:
        """Clear the bus master bit, as vfio-pci does when a device is opened and when it is closed."""
        client = self._live()
        command = int.from_bytes(client.region_read(_CONFIG, COMMAND, 2), "little")
        if command & CAP_MASTER:
            client.region_write(_CONFIG, COMMAND, (command & ~CAP_MASTER).to_bytes(2, "little"))

    def close(self) -> None:
        """Disconnect from the server, so that another client can connect."""
        try:
            self._end_bus_master()
        except OSError as error:
            answers = error.errno not in _SILENT
        else:
            answers = True
        if answers:
            self.irqs.off()
        self._ioeventfds.clear()
        self._disconnect()

    def reset(self) -> None:
        """DEVICE_RESET."""
        if not self._has_reset:
            raise Errno(errno.EINVAL)
        with _remote():
            self.revoke_dma_bufs()
            self._live().reset()
            self._follow()

    def power_on(self) -> None:
        """Do nothing: the server has the power management registers."""

    @property
    def decodes_memory(self) -> bool:
        """Whether the device decodes memory, as far as exported dma-bufs are concerned; the server knows the rest."""
        return self._reachable

    def _follow(self) -> None:
        """Let exported dma-bufs follow the device's command register and power state, as vfio-pci does (vfio_pci_dma_buf_move)."""
        if not self.dma_bufs.items():
            return
        config = SavedConfig(self._live().region_read(_CONFIG, 0, _CONFIG_SIZE))
        power = config.capability(_POWER_MANAGEMENT)
        # A capability that extends past the end of configuration space has no power state.
        if power is not None and power.offset > _CONFIG_SIZE - _POWER_SIZE:
            power = None
        asleep = power is not None and config.read16(power.offset + _POWER_CONTROL) & _D3HOT == _D3HOT
        self._reachable = bool(config.read16(COMMAND) & CAP_MEMORY) and not asleep
        if not self._reachable:
            self.revoke_dma_bufs()
        self.reinstate_dma_bufs()

    def region(self, index: int) -> Region:
        """Describe a region.

        :param index: the index of the region
        """
        if index >= len(self._regions):
            raise Errno(errno.EINVAL)
        return self._regions[index]

    def pread(self, size: int, position: int) -> bytes:
        """REGION_READ.

        :param size: bytes
        :param position: the index of the region, shifted by 40 bits, and the offset
        """
        index, offset = position >> OFFSET_SHIFT, position & OFFSET_MASK
        size = min(size, max(self.region(index).size - offset, 0))
        if not size:
            raise Errno(errno.EINVAL)
        with _remote():
            return self._live().region_read(index, offset, size)

    def pwrite(self, data: bytes, position: int) -> int:
        """REGION_WRITE.

        :param data: the bytes
        :param position: the index of the region, shifted by 40 bits, and the offset
        """
        index, offset = position >> OFFSET_SHIFT, position & OFFSET_MASK
        data = data[: max(self.region(index).size - offset, 0)]
        if not data:
            raise Errno(errno.EINVAL)
        with _remote():
            self._live().region_write(index, offset, bytes(data))
            if index == _CONFIG:
                self._follow()
        return len(data)

    def load(self, bar: int, offset: int, width: int) -> int:
        """Read a register for another device; all ones if the server has gone.

        :param bar: the index of the BAR
        :param offset: bytes from its start
        :param width: 1, 2, 4 or 8 bytes
        """
        try:
            return int.from_bytes(self._live().region_read(bar, offset, width), "little")
        except OSError:
            return int(256**width - 1)

    def store(self, bar: int, offset: int, width: int, value: int) -> None:
        """Write a register for an eventfd or another device.

        :param bar: the index of the BAR
        :param offset: bytes from its start
        :param width: 1, 2, 4 or 8 bytes
        :param value: a value of that width
        """
        with contextlib.suppress(OSError):
            self._live().region_write(bar, offset, value.to_bytes(width, "little"))

    def _live(self) -> Client:
        """Return the connection that open() made. A restarted server has lost the interrupts and mappings, so there is no new connection."""
        if self._client is None:
            raise Error(errno.ENODEV, os.strerror(errno.ENODEV))
        return self._client


def _power_of_two(size: int) -> int:
    return max(1 << (size - 1).bit_length(), 16)


class RemoteKernel(Kernel):
    """The kernel that `vfio-user:PATH` names: a mock with a remote device, bound to vfio-pci, at :data:`ADDRESS`.

    :raises OSError: no server listens at the path
    """

    def __init__(self, path: str | os.PathLike[str], profile: str = "intel-57", *, timeout: float = TIMEOUT) -> None:
        super().__init__(arguments.string(profile, "profile"))
        self.address = ADDRESS
        try:
            RemoteDevice(self, ADDRESS, path, timeout=timeout, driver="vfio-pci")
        except OSError as error:
            raise Error(error.errno, f"vfio-user:{os.fspath(path)}: {error}") from None
        self.name = f"vfio-user:{os.fspath(path)}"
