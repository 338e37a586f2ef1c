# SPDX-License-Identifier: MIT
"""The DMA engine. A job runs in steps, either within the register write that starts it or in a thread."""

from __future__ import annotations

import errno
from contextlib import suppress
from threading import Condition, Thread
from typing import TYPE_CHECKING

from pyvfio.mock.devices.vfio_mock.job import (
    BACKGROUND,
    BUSY,
    COPY,
    DONE,
    FAILED,
    FILL,
    KEEP,
    LIST,
    LOCAL,
    PINNED,
    RAISE,
    READ,
    REPEAT,
    SCATTER,
    STOP,
    TOUCH,
    WRITE,
    Job,
)
from pyvfio.mock.machine.errno import Errno

if TYPE_CHECKING:
    from pyvfio.mock.devices.vfio_mock.device import VfioMock

_U64 = 2**64


class Engine:
    """The DMA engine of one device.

    :ivar job: the last job
    :ivar running: the job is not finished
    :ivar paused: the migration state forbids DMA
    """

    job: Job

    def __init__(self, device: VfioMock) -> None:
        self._device = device
        self._page_size = device.kernel.profile.page_size
        self.job = Job()
        self.running = False
        self.paused = False
        self._stop = False
        #: notified when `running`, `paused` or `_stop` changes; its lock is the kernel's
        self._changed = Condition(device.kernel.lock)
        self._thread: Thread | None = None

    def reset(self) -> None:
        """Discard the job. It must not be running."""
        self.job = Job()

    # Starting and stopping.

    def command(self, command: int) -> None:
        """Handle a write to DMA_COMMAND. The status registers report the result of the job.

        :raises Errno: EBUSY, a job is running, or the engine is paused
        """
        if command == STOP:
            self.stop()
            return
        background = bool(command & (BACKGROUND | REPEAT))
        if self.running or (self.paused and not background):
            raise Errno(errno.EBUSY)
        held = self._device.registers.held
        self.job = Job(
            command=command,
            status=BUSY,
            random=held["DMA_SEED"],
            **{name.removeprefix("DMA_").lower(): value for name, value in held.items() if name.startswith("DMA_")},
        )
        try:
            self.job.check(self._device.memory_size)
        except Errno as error:
            self._finish(error.number)
            return
        self.running = True
        if background:
            self.go_on()
        else:
            self._run()

    def go_on(self) -> None:
        """Start or continue the job in a thread."""
        self._stop = False
        self.running = True
        self._thread = Thread(target=self._run_behind, name=f"pyvfio.mock: {self._device.name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop a running job, and wait for its end. It keeps the results of the steps that it has done, and is DONE."""
        while self.running:
            self._stop = True
            self._changed.notify_all()
            self._changed.wait()

    def pause(self, paused: bool) -> None:
        self.paused = paused
        self._changed.notify_all()

    def _run(self) -> None:
        self._finish(self._advance_to_the_end())

    def _advance_to_the_end(self) -> int:
        try:
            while self._advance():
                pass
        except Errno as error:
            return error.number
        return 0

    def _run_behind(self) -> None:
        with self._changed:
            # EIO, if an unexpected exception ends the thread: stop() must not wait forever.
            error, stopped = errno.EIO, False
            try:
                while not (stopped := not self._may_go_on()) and self._advance():
                    # Wait briefly to let other threads take the lock between two steps: this thread would take back a
                    # released lock at once.
                    self._changed.wait(1e-5)
                error = 0
            except Errno as failure:
                error = failure.number
            finally:
                self._finish(error, stopped=stopped)

    def _may_go_on(self) -> bool:
        """Wait for the delay, and while paused; return False if the job has to stop."""
        if self.job.delay:
            self._changed.wait_for(lambda: self._stop, self.job.delay / 1e6)
        self._changed.wait_for(lambda: self._stop or not self.paused)
        return not self._stop

    def _finish(self, error: int, *, stopped: bool = False) -> None:
        self.job.error = error
        self.job.status = FAILED if error else DONE
        self.running = False
        self._changed.notify_all()
        if self.job.command & RAISE and not stopped:
            self._raise()

    def _raise(self) -> None:
        with suppress(Errno):  # DMA_IRQ may name an interrupt that does not exist
            self._device.irqs.raise_(self.job.irq)

    # Steps.

    def _advance(self) -> bool:
        """Do the next step, of the next round if this one is over; return False if the job is finished.

        :raises Errno: the step failed
        """
        job = self.job
        if job.position >= job.round_end:
            if not job.command & REPEAT:
                return False
            job.position = 0
            job.rounds += 1
            if job.command & RAISE:
                self._raise()
        job.position += _STEPS[job.operation](self)
        job.steps += 1
        return True

    def _to_page_end(self, address: int) -> int:
        """Return the remaining bytes of the round, at most up to the end of the page at an address."""
        job = self.job
        return min(job.length - job.position, self._page_size - address % self._page_size)

    def _write(self) -> int:
        job = self.job
        size = self._to_page_end(job.iova + job.position)
        self._dma_write(job.iova + job.position, self._local(job.memory + job.position, size))
        return size

    def _read(self) -> int:
        job = self.job
        size = self._to_page_end(job.iova + job.position)
        self._local(job.memory + job.position, size)
        self._device.store(job.memory + job.position, self._dma_read(job.iova + job.position, size))
        return size

    def _fill(self) -> int:
        job = self.job
        size = self._to_page_end(job.iova + job.position)
        self._store(job.iova + job.position, job.filling(size))
        return size

    def _copy(self) -> int:
        job = self.job
        size = min(self._to_page_end(job.iova + job.position), self._to_page_end(job.source + job.position))
        before = job.bytes_moved
        data = self._dma_read(job.source + job.position, size)
        job.bytes_moved = before  # the bytes of a copy count once
        self._dma_write(job.iova + job.position, data)
        return size

    def _list(self) -> int:
        entry = self._local(self.job.memory + self.job.position * 8, 8)
        return self._store_word(int.from_bytes(entry, "little"))

    def _touch(self) -> int:
        return self._store_word(self.job.iova + self.job.position * self.job.stride)

    def _scatter(self) -> int:
        job = self.job
        # splitmix64: the same seed gives the same sequence.
        z = job.random = (job.random + 0x9E3779B97F4A7C15) % _U64
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % _U64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % _U64
        z ^= z >> 31
        return self._store_word(job.iova + z % (job.length // job.stride) * job.stride)

    def _store_word(self, target: int) -> int:
        self._store(target % _U64, self.job.word(self.job.position).to_bytes(8, "little"))
        return 1

    def _store(self, target: int, data: bytes) -> None:
        """Store to an IOVA; with LOCAL, to the memory region; with KEEP, to both."""
        job = self.job
        offset = target
        if not job.command & LOCAL:
            self._dma_write(target, data)
            if not job.command & KEEP:
                return
            offset = job.memory + target - job.iova
        if offset + len(data) > self._device.memory_size:
            job.fault = target
            raise Errno(errno.ERANGE)
        self._device.store(offset, data)
        if job.command & LOCAL:
            job.bytes_moved += len(data)

    def _local(self, offset: int, size: int) -> bytes:
        if offset + size > self._device.memory_size:
            raise Errno(errno.ERANGE)
        return self._device.memory(MEMORY)[offset : offset + size]

    # DMA, in pieces that end at page boundaries, so that the counters are exact when a page fails.

    def _pieces(self, iova: int, size: int) -> list[tuple[int, int]]:
        if iova + size > _U64:
            self.job.fault = iova
            raise Errno(errno.EOVERFLOW)
        pieces = []
        while size:
            piece = min(size, self._page_size - iova % self._page_size)
            pieces.append((iova, piece))
            iova += piece
            size -= piece
        return pieces

    def _dma_write(self, iova: int, data: bytes) -> None:
        device, done = self._device, 0
        for at, size in self._pieces(iova, len(data)):
            piece = data[done : done + size]
            try:
                device.failures.check("DMA")
                if self.job.command & PINNED:
                    device.pins.write(at, piece)
                    device.log.mark(at, size)
                else:
                    device.dma_write(at, piece)
            except Errno:
                self.job.fault = at
                raise
            device.bytes_written += size
            self.job.bytes_moved += size
            done += size

    def _dma_read(self, iova: int, size: int) -> bytes:
        device, parts = self._device, []
        for at, piece in self._pieces(iova, size):
            try:
                device.failures.check("DMA")
                parts.append(device.pins.read(at, piece) if self.job.command & PINNED else device.dma_read(at, piece))
            except Errno:
                self.job.fault = at
                raise
            device.bytes_read += piece
            self.job.bytes_moved += piece
        return b"".join(parts)


#: index of the memory region
MEMORY = 1

_STEPS = {
    WRITE: Engine._write,
    READ: Engine._read,
    FILL: Engine._fill,
    COPY: Engine._copy,
    LIST: Engine._list,
    TOUCH: Engine._touch,
    SCATTER: Engine._scatter,
}
