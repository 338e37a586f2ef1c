# SPDX-License-Identifier: MIT
"""The NVMe controller: its registers, queues, commands and interrupts."""

from __future__ import annotations

import struct
from mmap import mmap
from typing import TYPE_CHECKING, Any, TypeAlias

from pyvfio.mock.devices.nvme import prp, structures
from pyvfio.mock.devices.nvme.queue import (
    COMMAND_SIZE,
    COMPLETION_SIZE,
    Command,
    CompletionQueue,
    SubmissionQueue,
)
from pyvfio.mock.devices.nvme.status import DO_NOT_RETRY, CommandError, Status
from pyvfio.mock.host.driver import NVME
from pyvfio.mock.vfio.pci.device import PciDevice
from pyvfio.mock.vfio.pci.function import Bar, Function

if TYPE_CHECKING:
    from pyvfio.mock.machine.kernel import Kernel

Storage: TypeAlias = "bytearray | memoryview | mmap"

# Registers of BAR0. A 64-bit register is handled as two of 32 bits.
_CAPABILITIES, _VERSION, _MASK_SET, _MASK_CLEAR, _CONFIGURATION, _STATUS = 0x00, 0x08, 0x0C, 0x10, 0x14, 0x1C
_ADMIN_SIZES, _ADMIN_SUBMISSIONS, _ADMIN_COMPLETIONS, _DOORBELLS, _END = 0x24, 0x28, 0x30, 0x1000, 0x2000
_VERSION_1_4 = 0x10400
_LARGEST_QUEUE = 2048
#: CAP: maximum queue entries (0's based); contiguous queues; timeout 7.5 s; NVM command set; pages of 4 to 64 KiB
_LIMITS = _LARGEST_QUEUE - 1 | 1 << 16 | 15 << 24 | 1 << 37 | 4 << 52
_PAGE_SIZES = 5
_ENABLE, _SHUTDOWN = 1, 3 << 14  # CONFIGURATION
_READY, _FATAL, _SHUTDOWN_DONE = 1, 1 << 1, 2 << 2  # STATUS
_LOG2_COMMAND, _LOG2_COMPLETION = 6, 4

_ADMIN, _IO = structures.ADMIN_COMMANDS, structures.IO_COMMANDS
_FUSED_OR_SGL = 0xC3  # bits of a command's flags
_CONTIGUOUS, _INTERRUPTS = 1, 2  # flags of the commands that create a queue
_ALL_NAMESPACES = 0xFFFFFFFF
_ONLY_NAMESPACE = 1

# Features. Some have several values, selected by a part of word 11.
_TEMPERATURE, _QUEUES, _VECTOR = 0x04, 0x07, 0x09
_FEATURES = {0x01: 0, 0x02: 0, 0x04: 343, 0x05: 0, 0x06: 1, 0x08: 0, 0x09: 0, 0x0A: 0, 0x0B: 0}
_SAVE = 1 << 31
_SELECT = 7 << 8

_ERRORS, _HEALTH, _FIRMWARE, _EFFECTS = 1, 2, 3, 5  # log pages
_ERROR_ENTRY = 64
_KEEP_EVENTS = 1 << 15
# Asynchronous events: type, and information.
_ERROR_EVENT, _INVALID_DOORBELL, _INVALID_DOORBELL_VALUE = 0, 0, 1
_DEALLOCATE = 1 << 2
#: a range of Dataset Management: attributes, number of blocks, first block
_RANGE = struct.Struct("<IIQ")


class Nvme(PciDevice):
    """An NVMe 1.4 disk with one namespace, whose blocks are in memory. IDs and model name are those of QEMU's disk.

    Registers: CAP, VS, INTMS, INTMC, CC, CSTS, AQA, ASQ, ACQ and the doorbells (stride 4), accessed with 32 or 64 bits.
    There is no NVM subsystem reset, no controller memory buffer and no boot partition: their registers read as zeros.

    Admin commands: Identify (controller, namespace, active namespaces, namespace descriptors, and the I/O command set's
    controller data, which is zeros), Create and Delete I/O Submission and Completion Queue, Set and Get Features
    (arbitration, power management, temperature threshold, error recovery, volatile write cache, number of queues,
    interrupt coalescing and vector configuration, write atomicity, asynchronous events), Get Log Page (errors, health,
    firmware slots, effects), Abort, Asynchronous Event Request (completed for invalid doorbells only).
    I/O commands: Flush, Write, Read, Write Zeroes, Dataset Management (deallocated blocks become zeros).

    Commands run when their doorbell is written, in the order of their queue. Their memory is described by PRP entries
    and lists; SGLs are not supported. As with QEMU's disk, a command whose DMA the IOMMU blocks succeeds. Each
    completion queue has an MSI-X vector; without MSI-X all share INTx, masked by INTMS. The blocks survive resets.
    Virtual functions have no model.

    :param kernel: the mock that the disk is plugged into
    :param name: the PCI address, unique on this host
    :param storage: the blocks; None: `size` bytes of zeros, which take no memory until they are written
    :param size: bytes of a disk without `storage`
    :param block_size: 512 or 4096
    :param serial: the serial number, at most 20 ASCII characters; None: derive one from `name`
    :param more: as for :class:`pyvfio.mock.Device`: `driver`, `group`, ...
    :raises ValueError: the size is not a multiple of the block size, or `block_size` or `serial` is not valid

    :ivar io_queues: maximum number of I/O submission queues, and of I/O completion queues
    """

    function = Function(
        NVME, 0x010802, 0x02, bars={0: Bar(1 << 14, wide=True)}, msix=5, msix_table=(0, 0x2000), msix_pending=(0, 0x3000),
        intx=True, express=True, resets=True, virtual=2, virtual_device=NVME[1], virtual_at=(1, 1),
    )  # fmt: skip
    io_queues = 64
    model = "QEMU NVMe Ctrl"
    firmware = "pyvfio"

    def __init__(
        self,
        kernel: Kernel,
        name: str,
        *,
        storage: Storage | None = None,
        size: int = 64 << 20,
        block_size: int = 512,
        serial: str | None = None,
        **more: Any,
    ) -> None:
        self.serial = f"pyvfio {name}" if serial is None else serial
        if block_size not in (512, 4096):
            raise ValueError(f"block_size={block_size}: must be 512 or 4096")
        size = size if storage is None else len(storage)
        if not size or size % block_size:
            raise ValueError(f"storage: {size} bytes are not a number of blocks of {block_size}")
        if len(self.serial) > 20 or not self.serial.isascii():
            raise ValueError(f"serial={serial!r}: must have at most 20 ASCII characters")
        self._storage = storage
        self._size = size
        self.block_size = block_size
        super().__init__(kernel, name, **more)
        self.power_on()

    @property
    def storage(self) -> Storage:
        """The contents of the disk."""
        if self._storage is None:
            self._storage = mmap(-1, self._size)
        return self._storage

    @property
    def blocks(self) -> int:
        """The number of blocks."""
        return self._size // self.block_size

    def power_on(self) -> None:
        self._configuration = self._status = self._mask = 0
        self._admin_sizes = self._admin_submissions = self._admin_completions = 0
        # Bytes and commands since power-on, for the health log page.
        self._read, self._written = (0, 0), (0, 0)
        self._stop()

    # Registers.

    def read(self, bar: int, offset: int, width: int) -> int:
        if offset >= _DOORBELLS:
            return 0
        if width == 8:
            return self._register(offset) | self._register(offset + 4) << 32
        return self._register(offset & ~3) >> 8 * (offset & 3) & (1 << 8 * width) - 1

    def _register(self, offset: int) -> int:
        submissions, completions = self._admin_submissions, self._admin_completions
        return {
            _CAPABILITIES: _LIMITS & 0xFFFFFFFF,
            _CAPABILITIES + 4: _LIMITS >> 32,
            _VERSION: _VERSION_1_4,
            _MASK_SET: self._mask,
            _MASK_CLEAR: self._mask,
            _CONFIGURATION: self._configuration,
            _STATUS: self._status,
            _ADMIN_SIZES: self._admin_sizes,
            _ADMIN_SUBMISSIONS: submissions & 0xFFFFFFFF,
            _ADMIN_SUBMISSIONS + 4: submissions >> 32,
            _ADMIN_COMPLETIONS: completions & 0xFFFFFFFF,
            _ADMIN_COMPLETIONS + 4: completions >> 32,
        }.get(offset, 0)

    def write(self, bar: int, offset: int, width: int, value: int) -> None:
        if width == 8:
            self.write(bar, offset, 4, value & 0xFFFFFFFF)
            self.write(bar, offset + 4, 4, value >> 32)
        elif width == 4 and _DOORBELLS <= offset < _END:
            self._ring(offset - _DOORBELLS >> 2, value & 0xFFFF)
        elif width == 4:
            self._set_register(offset, value)

    def _set_register(self, offset: int, value: int) -> None:
        match offset:
            case 0x0C:
                self._mask |= value
                self._calm()
            case 0x10:
                self._mask &= ~value
                if self._pending():
                    self.interrupt()
            case 0x14:
                self._configure(value)
            case 0x24:
                self._admin_sizes = value & 0x0FFF0FFF
            case 0x28:
                self._admin_submissions = self._admin_submissions & ~0xFFFFFFFF | value & ~0xFFF
            case 0x2C:
                self._admin_submissions = self._admin_submissions & 0xFFFFFFFF | value << 32
            case 0x30:
                self._admin_completions = self._admin_completions & ~0xFFFFFFFF | value & ~0xFFF
            case 0x34:
                self._admin_completions = self._admin_completions & 0xFFFFFFFF | value << 32

    # Enable, reset and shutdown.

    def _configure(self, value: int) -> None:
        before, self._configuration = self._configuration, value
        if value & ~before & _ENABLE:
            self._start()
        elif before & ~value & _ENABLE:
            self._stop()
        self._status = self._status & ~_SHUTDOWN_DONE | (_SHUTDOWN_DONE if value & _SHUTDOWN else 0)

    def _start(self) -> None:
        """Create the admin queues, and set CSTS.RDY; an unsupported configuration sets CSTS.CFS."""
        entries, completion_entries = (self._admin_sizes & 0xFFF) + 1, (self._admin_sizes >> 16) + 1
        value = self._configuration
        command_set, log2_page, log2_command, log2_completion = (value >> shift & 15 for shift in (4, 7, 16, 20))
        possible = (
            min(entries, completion_entries) > 1
            and not command_set & 7
            and log2_page < _PAGE_SIZES
            and (log2_command, log2_completion) == (_LOG2_COMMAND, _LOG2_COMPLETION)
        )
        if not possible:
            self._status = _FATAL
            return
        completions = CompletionQueue(0, self._admin_completions, completion_entries, vector=0)
        self._completions[0] = completions
        self._submissions[0] = SubmissionQueue(0, self._admin_submissions, entries, completions)
        self._status = _READY

    def _stop(self) -> None:
        """Reset the controller: discard queues, features and events."""
        self._status = 0
        self._submissions: dict[int, SubmissionQueue] = {}
        self._completions: dict[int, CompletionQueue] = {}
        self._features: dict[tuple[int, int], int] = {}
        #: identifiers of the Asynchronous Event Requests that are outstanding
        self._requests: list[int] = []
        self._events: list[tuple[int, int, int]] = []
        #: types of events that are masked until their log page is read
        self._masked_events: set[int] = set()
        self.deassert()

    @property
    def _page(self) -> int:
        return 4096 << (self._configuration >> 7 & 15)

    # Queues.

    def _ring(self, index: int, value: int) -> None:
        """Handle a write to a doorbell: the tail of a submission queue, or the head of a completion queue."""
        number, is_head = index >> 1, index & 1
        queue = self._completions.get(number) if is_head else self._submissions.get(number)
        if queue is None:
            self._event(_ERROR_EVENT, _INVALID_DOORBELL, _ERRORS)
        elif value >= queue.entries:
            self._event(_ERROR_EVENT, _INVALID_DOORBELL_VALUE, _ERRORS)
        elif isinstance(queue, SubmissionQueue):
            queue.tail = value
            self._work_off(queue)
        else:
            queue.head = value
            self._calm()
            if not number:
                self._send_events()
            # The completion queue has free entries again.
            for one in [one for one in self._submissions.values() if one.completions is queue]:
                self._work_off(one)

    def _work_off(self, queue: SubmissionQueue) -> None:
        """Run the commands of a queue, until it is empty or the completion queue is full."""
        while queue.head != queue.tail and not queue.completions.full:
            data = self.dma_read(queue.iova + COMMAND_SIZE * queue.head, COMMAND_SIZE)
            if not self.bus_master:
                return  # without bus master the command could not be read; the next doorbell write retries
            queue.head = (queue.head + 1) % queue.entries
            command = Command.unpack(data)
            try:
                result = self._run(queue, command)
            except CommandError as error:
                self._complete(queue, command.id, 0, error.status | DO_NOT_RETRY)
            else:
                if result is not None:
                    self._complete(queue, command.id, result)

    def _complete(self, queue: SubmissionQueue, command: int, result: int, status: int = Status.SUCCESS) -> None:
        completions = queue.completions
        entry = queue.completion(command, result, status)
        self.dma_write(completions.iova + COMPLETION_SIZE * completions.tail, entry)
        completions.advance()
        if self._interrupts(completions):
            self.interrupt(completions.vector or 0)

    def _interrupts(self, queue: CompletionQueue) -> bool:
        """Whether a queue has entries to signal, and its vector is not masked."""
        return queue.vector is not None and queue.pending and not self._mask >> queue.vector & 1

    def _pending(self) -> bool:
        return any(map(self._interrupts, self._completions.values()))

    def _calm(self) -> None:
        """Deassert INTx if no queue has entries to signal."""
        if not self._pending():
            self.deassert()

    # Events.

    def _event(self, kind: int, what: int, log: int) -> None:
        if kind not in self._masked_events and (kind, what, log) not in self._events:
            self._events.append((kind, what, log))
        self._send_events()

    def _send_events(self) -> None:
        """Complete outstanding Asynchronous Event Requests with waiting events."""
        while self._events and self._requests and not self._completions[0].full:
            kind, what, log = self._events.pop(0)
            self._masked_events.add(kind)
            self._events = [event for event in self._events if event[0] != kind]
            self._complete(self._submissions[0], self._requests.pop(0), kind | what << 8 | log << 16)

    # Commands. The result is word 0 of the completion; None: the command completes later.

    def _run(self, queue: SubmissionQueue, command: Command) -> int | None:
        if command.flags & _FUSED_OR_SGL:
            raise CommandError(Status.INVALID_FIELD)
        if queue.number:
            self._run_io(command)
            return 0
        return self._run_admin(command)

    def _run_admin(self, command: Command) -> int | None:
        opcode = command.opcode
        if opcode == _ADMIN["ASYNCHRONOUS_EVENT_REQUEST"]:
            self._request_event(command)
            return None
        if opcode == _ADMIN["ABORT"]:
            return self._abort(command)
        if opcode == _ADMIN["SET_FEATURES"]:
            return self._set_feature(command)
        if opcode == _ADMIN["GET_FEATURES"]:
            return self._get_feature(command)
        action = {
            _ADMIN["DELETE_SUBMISSION_QUEUE"]: self._delete_submissions,
            _ADMIN["CREATE_SUBMISSION_QUEUE"]: self._create_submissions,
            _ADMIN["GET_LOG_PAGE"]: self._get_log_page,
            _ADMIN["DELETE_COMPLETION_QUEUE"]: self._delete_completions,
            _ADMIN["CREATE_COMPLETION_QUEUE"]: self._create_completions,
            _ADMIN["IDENTIFY"]: self._identify,
        }.get(opcode)
        if action is None:
            raise CommandError(Status.INVALID_OPCODE)
        action(command)
        return 0

    def _give(self, command: Command, data: bytes) -> None:
        """Write data to the memory of a command."""
        for iova, size in prp.pieces(command.first, command.second, len(data), self._page, self.dma_read):
            self.dma_write(iova, data[:size])
            data = data[size:]

    def _check_namespace(self, number: int, *, all_: bool = False) -> None:
        if number != _ONLY_NAMESPACE and not (all_ and number == _ALL_NAMESPACES):
            raise CommandError(Status.INVALID_NAMESPACE)

    def _identify(self, command: Command) -> None:
        match command.w10 & 0xFF:
            case 0x00:
                self._check_namespace(command.namespace)
                data = structures.namespace(self.blocks, self.block_size, structures.identifier(self.serial))
            case 0x01:
                texts = (self.serial, self.model, self.firmware)
                data = structures.controller(self.function.ids, self.function.subsystem, _VERSION_1_4, texts)
            case 0x02:
                if command.namespace >= _ALL_NAMESPACES - 1:
                    raise CommandError(Status.INVALID_NAMESPACE)
                data = structures.namespace_list([_ONLY_NAMESPACE] if command.namespace < _ONLY_NAMESPACE else [])
            case 0x03:
                self._check_namespace(command.namespace)
                data = structures.descriptors(structures.identifier(self.serial))
            case 0x06 if not command.w11 >> 24:
                data = bytes(structures.IDENTIFICATION)
            case _:
                raise CommandError(Status.INVALID_FIELD)
        self._give(command, data)

    # Commands that create and delete queues.

    @property
    def _allowed_queues(self) -> int:
        return self._features.get((_QUEUES, 0), self.io_queues - 1) + 1

    def _check_new_queue(self, command: Command, existing: dict[int, Any]) -> tuple[int, int]:
        """Check a command that creates a queue; return the queue's number and its number of entries."""
        number, entries = command.w10 & 0xFFFF, (command.w10 >> 16) + 1
        if number in existing or not 0 < number <= self._allowed_queues:
            raise CommandError(Status.INVALID_QUEUE)
        if not 1 < entries <= _LARGEST_QUEUE:
            raise CommandError(Status.INVALID_QUEUE_SIZE)
        if not command.w11 & _CONTIGUOUS:
            raise CommandError(Status.INVALID_FIELD)
        if command.first % self._page:
            raise CommandError(Status.PRP_OFFSET_INVALID)
        return number, entries

    def _create_completions(self, command: Command) -> None:
        number, entries = self._check_new_queue(command, self._completions)
        vector = command.w11 >> 16
        if vector >= self.function.msix:
            raise CommandError(Status.INVALID_VECTOR)
        interrupts = vector if command.w11 & _INTERRUPTS else None
        self._completions[number] = CompletionQueue(number, command.first, entries, interrupts)

    def _create_submissions(self, command: Command) -> None:
        completions = self._completions.get(command.w11 >> 16)
        if completions is None or not completions.number:
            raise CommandError(Status.COMPLETION_QUEUE_INVALID)
        number, entries = self._check_new_queue(command, self._submissions)
        self._submissions[number] = SubmissionQueue(number, command.first, entries, completions)

    def _delete_submissions(self, command: Command) -> None:
        number = command.w10 & 0xFFFF
        if not number or number not in self._submissions:
            raise CommandError(Status.INVALID_QUEUE)
        del self._submissions[number]

    def _delete_completions(self, command: Command) -> None:
        number = command.w10 & 0xFFFF
        if not number or number not in self._completions:
            raise CommandError(Status.INVALID_QUEUE)
        if any(queue.completions.number == number for queue in self._submissions.values()):
            raise CommandError(Status.INVALID_QUEUE_DELETION)
        del self._completions[number]
        self._calm()

    # Features, log pages, events.

    def _selected(self, command: Command) -> tuple[int, int]:
        """Return the key in `_features` of a command: the feature, and the selected one of its values."""
        feature = command.w10 & 0xFF
        if feature not in _FEATURES and feature != _QUEUES:
            raise CommandError(Status.INVALID_FIELD)
        if feature == _TEMPERATURE:
            return feature, command.w11 >> 16 & 0x3F
        if feature == _VECTOR and command.w11 & 0xFFFF >= self.function.msix:
            raise CommandError(Status.INVALID_FIELD)
        return feature, command.w11 & 0xFFFF if feature == _VECTOR else 0

    def _set_feature(self, command: Command) -> int:
        key = self._selected(command)
        if command.w10 & _SAVE:
            raise CommandError(Status.FEATURE_NOT_SAVEABLE)
        if key[0] != _QUEUES:
            self._features[key] = command.w11
            return 0
        submissions, completions = command.w11 & 0xFFFF, command.w11 >> 16
        if 0xFFFF in (submissions, completions):
            raise CommandError(Status.INVALID_FIELD)
        if len(self._completions) > 1:
            raise CommandError(Status.SEQUENCE_ERROR)
        # The same number of submission and completion queues, which is what drivers request.
        self._features[key] = min(max(submissions, completions), self.io_queues - 1)
        return self._features[key] * 0x10001

    def _get_feature(self, command: Command) -> int:
        key = self._selected(command)
        if command.w10 & _SELECT:
            raise CommandError(Status.INVALID_FIELD)
        if key[0] == _QUEUES:
            return (self._allowed_queues - 1) * 0x10001
        default = command.w11 & 0xFFFF if key[0] == _VECTOR else _FEATURES[key[0]]
        return self._features.get(key, default)

    def _get_log_page(self, command: Command) -> None:
        page = command.w10 & 0xFF
        if page == _ERRORS:
            data = bytes(_ERROR_ENTRY)  # the controller records no errors
        elif page == _HEALTH:
            data = structures.health(self._read, self._written)
        elif page == _FIRMWARE:
            data = structures.firmware_slots(self.firmware)
        elif page == _EFFECTS:
            data = structures.effects()
        else:
            raise CommandError(Status.INVALID_LOG_PAGE)
        size = 4 * ((command.w10 >> 16 | (command.w11 & 0xFFFF) << 16) + 1)
        offset = command.w12 | command.w13 << 32
        if offset > len(data) or offset % 4 or size > self._largest:
            raise CommandError(Status.INVALID_FIELD)
        # Pad the page with zeros.
        self._give(command, data[offset : offset + size].ljust(size, b"\0"))
        if page == _ERRORS and not command.w10 & _KEEP_EVENTS:
            self._masked_events.discard(_ERROR_EVENT)

    def _request_event(self, command: Command) -> None:
        if len(self._requests) == structures.EVENT_REQUESTS:
            raise CommandError(Status.TOO_MANY_EVENT_REQUESTS)
        self._requests.append(command.id)
        self._send_events()

    def _abort(self, command: Command) -> int:
        """Abort an Asynchronous Event Request; return 1 for any other command, which cannot be outstanding."""
        queue, id_ = command.w10 & 0xFFFF, command.w10 >> 16
        # The completions of both commands need free entries.
        completions = self._completions[0]
        if queue or id_ not in self._requests or (completions.tail + 2) % completions.entries == completions.head:
            return 1
        self._requests.remove(id_)
        self._complete(self._submissions[0], id_, 0, Status.ABORT_REQUESTED)
        return 0

    # I/O commands.

    @property
    def _largest(self) -> int:
        """The maximum bytes of one command (MDTS)."""
        return 4096 << structures.LOG2_LARGEST

    def _run_io(self, command: Command) -> None:
        opcode = command.opcode
        if opcode not in _IO.values():
            raise CommandError(Status.INVALID_OPCODE)
        self._check_namespace(command.namespace, all_=opcode == _IO["FLUSH"])
        if opcode == _IO["DATASET_MANAGEMENT"]:
            self._manage(command)
        elif opcode != _IO["FLUSH"]:
            self._transfer(command)

    def _range(self, block: int, count: int) -> tuple[int, int]:
        """Return the start and end offsets of blocks in the storage."""
        if block + count > self.blocks:
            raise CommandError(Status.LBA_OUT_OF_RANGE)
        return block * self.block_size, (block + count) * self.block_size

    def _transfer(self, command: Command) -> None:
        at, end = self._range(command.w10 | command.w11 << 32, (command.w12 & 0xFFFF) + 1)
        storage = self.storage
        if command.opcode == _IO["WRITE_ZEROES"]:
            storage[at:end] = bytes(end - at)
            return
        if end - at > self._largest:
            raise CommandError(Status.INVALID_FIELD)
        reads = command.opcode == _IO["READ"]
        count = end - at
        for iova, size in prp.pieces(command.first, command.second, count, self._page, self.dma_read):
            if reads:
                self.dma_write(iova, bytes(storage[at : at + size]))
            else:
                storage[at : at + size] = self.dma_read(iova, size)
            at += size
        if reads:
            self._read = self._read[0] + count, self._read[1] + 1
        else:
            self._written = self._written[0] + count, self._written[1] + 1

    def _manage(self, command: Command) -> None:
        """Deallocate ranges; other attributes are accepted and ignored."""
        size = _RANGE.size * ((command.w10 & 0xFF) + 1)
        places = prp.pieces(command.first, command.second, size, self._page, self.dma_read)
        data = b"".join(self.dma_read(iova, count) for iova, count in places)
        parts = [self._range(block, count) for _, count, block in _RANGE.iter_unpack(data)]
        if command.w11 & _DEALLOCATE:
            for at, end in parts:
                self.storage[at:end] = bytes(end - at)
