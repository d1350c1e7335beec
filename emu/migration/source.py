"""The sending side: iterative pre-copy, then the rest with the guest stopped.

Who runs at the end is decided by three messages over the connection.  The destination says READY
when all is loaded and checked; the source answers GO and does nothing with the guest any more; the
destination says ACK and runs.  Until GO is sent, any failure leaves the guest with the source, and
so does a connection that ends before ACK: the destination runs only after it has sent that.
Channels of one direction (files, commands) end when everything is written.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable

import numpy as np

from emu.migration import sections
from emu.migration.channels import MigrationChannel, open_outgoing
from emu.migration.machine import MigratableMachine
from emu.migration.ram import NAME, VERSION, RamSource
from emu.migration.sections import END, PART, START, begin, finish
from emu.migration.status import MigrationStatus, Parameters, Progress
from emu.migration.stream import MigrationError, StreamWriter

READY = b"\x52"
GO = b"\x47"
ACK = b"\x41"
REFUSED = b"\x45"  # then the reason, as text
_RAM_SECTION = 2
_SLICE_SECONDS = 0.1
_SLICE_PAGES = 8192
_ANSWER_SECONDS = 60.0


class CancelledError(MigrationError):
    """The user cancelled the migration."""


class MigrationSource:
    """One outgoing migration on a thread of its own.

    ``changed`` is called with each new status.  :meth:`cancel` is for any thread.
    """

    def __init__(
        self,
        machine: MigratableMachine,
        uri: str,
        parameters: Parameters,
        changed: Callable[[MigrationStatus], None],
        *,
        auto_converge: bool = False,
    ) -> None:
        self.status = MigrationStatus.NONE
        self.error: str | None = None
        self.progress = Progress(machine.ram.size)
        self._machine = machine
        self._uri = uri
        self._parameters = parameters
        self._changed = changed
        self._auto_converge = auto_converge
        self._cancelled = threading.Event()
        self._channel: MigrationChannel | None = None
        self._stopped = False
        self._answered = False
        self._was_running = False
        self._ram = RamSource(machine.ram)
        self._thread = threading.Thread(target=self._run, name="migration", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._set(MigrationStatus.SETUP)
        self._thread.start()

    def join(self, timeout: float | None = None) -> None:
        """Wait for the end."""
        self._thread.join(timeout)

    def cancel(self) -> None:
        """Give up; the guest stays."""
        if self.status.running:
            self._cancelled.set()
            if self._channel is not None:
                self._channel.abort()

    def _set(self, status: MigrationStatus) -> None:
        self.status = status
        self._changed(status)

    def _run(self) -> None:
        try:
            self._migrate()
        except Exception as error:
            self._failed(error)
        else:
            self.progress.ended = time.monotonic()
            self._machine.end_migration(True, False)
            self._set(MigrationStatus.COMPLETED)
        finally:
            if self._channel is not None:
                self._channel.close()

    def _failed(self, error: Exception) -> None:
        self.progress.ended = time.monotonic()
        self._machine.throttle(0)
        if self._stopped:
            self._machine.end_migration(False, self._was_running)
        if self._cancelled.is_set():
            self._set(MigrationStatus.CANCELLED)
            return
        known = isinstance(error, MigrationError)
        self.error = str(error) if known else f"{type(error).__name__}: {error}"
        if refusal := self._refusal():
            self.error = f"the destination refused: {refusal}"
        self._set(MigrationStatus.FAILED)

    def _migrate(self) -> None:
        self._channel = open_outgoing(self._uri)
        writer = StreamWriter(self._channel)
        sections.write_header(writer, self._machine.migration_name)
        iterated = list(enumerate(self._machine.iterated(), _RAM_SECTION + 1))
        begin(writer, START, _RAM_SECTION, NAME, 0, VERSION)
        self._ram.write_setup(writer)
        finish(writer, _RAM_SECTION)
        for number, part in iterated:
            begin(writer, START, number, part.name, 0, part.version)
            part.save_setup(writer)
            finish(writer, number)
        writer.flush()
        self.progress.setup_seconds = time.monotonic() - self.progress.started
        self._set(MigrationStatus.ACTIVE)
        remaining = self._iterate(writer)
        self._set(MigrationStatus.DEVICE)
        self._complete(writer, remaining)

    def _iterate(self, writer: StreamWriter) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        """Send RAM while the guest runs, until little enough is left; returns what is left."""
        self._machine.on_vcpu(self._machine.take_dirty)
        pages = np.arange(self._machine.ram.pages, dtype=np.int64)
        excess = 0
        while True:
            sent_before, begun = writer.position, time.monotonic()
            self._send(writer, pages)
            seconds = max(time.monotonic() - begun, 1e-6)
            dirty = self._machine.on_vcpu(self._machine.take_dirty)
            pages = np.flatnonzero(dirty).astype(np.int64)
            progress = self.progress
            progress.dirty_syncs += 1
            sent = writer.position - sent_before
            if sent > 1 << 20 or progress.bandwidth == 0:
                progress.bandwidth = sent / seconds
            progress.remaining = len(pages) * progress.page_size
            progress.dirty_rate = len(pages) / seconds
            progress.expected_downtime = progress.remaining / max(progress.bandwidth, 1.0)
            if progress.expected_downtime * 1000 <= self._parameters.downtime_limit:
                return pages
            dirtied_too_fast = progress.remaining > sent / 2
            excess = excess + 1 if dirtied_too_fast else 0
            if self._auto_converge and excess >= 2:
                excess = 0
                self._throttle_more()

    def _throttle_more(self) -> None:
        parameters, progress = self._parameters, self.progress
        if progress.throttle == 0:
            progress.throttle = parameters.cpu_throttle_initial
        else:
            progress.throttle += parameters.cpu_throttle_increment
        progress.throttle = min(progress.throttle, parameters.max_cpu_throttle)
        self._machine.throttle(progress.throttle)

    def _send(
        self, writer: StreamWriter, pages: np.ndarray[tuple[int], np.dtype[np.int64]]
    ) -> None:
        """PART sections with these pages, no faster than max-bandwidth."""
        self.progress.remaining = len(pages) * self.progress.page_size
        begun, start = time.monotonic(), writer.position
        for at in range(0, len(pages), _SLICE_PAGES):
            self._check_cancelled()
            begin(writer, PART, _RAM_SECTION)
            self._ram.write_pages(writer, pages[at : at + _SLICE_PAGES])
            self._ram.end(writer)
            finish(writer, _RAM_SECTION)
            writer.flush()
            self._note(writer)
            self._pace(begun, writer.position - start)

    def _note(self, writer: StreamWriter) -> None:
        progress = self.progress
        progress.transferred = writer.position
        progress.zero_pages = self._ram.zero_pages
        progress.normal_pages = self._ram.normal_pages

    def _pace(self, begun: float, sent: int) -> None:
        while (limit := self._parameters.max_bandwidth) and not self._cancelled.is_set():
            ahead = sent / limit - (time.monotonic() - begun)
            if ahead <= 0:
                return
            self._cancelled.wait(min(ahead, _SLICE_SECONDS))

    def _complete(
        self, writer: StreamWriter, remaining: np.ndarray[tuple[int], np.dtype[np.int64]]
    ) -> None:
        machine = self._machine
        begun = time.monotonic()
        self._stopped = True
        self._was_running = machine.pause_for_migration()
        machine.throttle(0)
        dirty = machine.on_vcpu(machine.take_dirty)
        dirty[remaining] = 1
        begin(writer, END, _RAM_SECTION)
        self._ram.write_pages(writer, np.flatnonzero(dirty).astype(np.int64))
        self._ram.end(writer)
        finish(writer, _RAM_SECTION)
        iterated = machine.iterated()
        for number, part in enumerate(iterated, _RAM_SECTION + 1):
            begin(writer, END, number)
            part.save_end(writer)
            finish(writer, number)
        first = _RAM_SECTION + 1 + len(iterated)
        machine.on_vcpu(lambda: sections.write_devices(writer, machine.components(), first))
        writer.flush()
        self._note(writer)
        self.progress.remaining = 0
        self._check_cancelled()
        self._hand_over()
        self.progress.downtime = time.monotonic() - begun

    def _hand_over(self) -> None:
        channel = self._channel
        assert channel is not None
        try:
            if channel.has_return_path:
                channel.settimeout(_ANSWER_SECONDS)
                self._expect(READY)
                self._check_cancelled()
                self._machine.release_host()
                channel.write(GO)
                self._expect(ACK)
            else:
                channel.finish()
                self._machine.release_host()
        except OSError as error:
            raise MigrationError(f"the destination is gone: {error.strerror or error}") from error

    def _expect(self, answer: bytes) -> None:
        assert self._channel is not None
        found = self._channel.read(1)
        if found == answer:
            return
        if not found:
            raise MigrationError("the destination has closed the connection before it took over")
        if found != REFUSED:
            raise MigrationError("the destination answered nonsense")
        text = found
        while len(text) < 500 and (more := self._channel.read(500)):
            text += more
        self._answered = True
        raise MigrationError(
            f"the destination refused: {text[1:].decode('utf-8', 'replace').strip()}"
        )

    def _refusal(self) -> str:
        """Why the destination has closed the connection, if it says so."""
        channel = self._channel
        if channel is None or not channel.has_return_path or self._answered:
            return ""
        text = b""
        with contextlib.suppress(OSError):
            channel.settimeout(1.0)
            while len(text) < 500 and (more := channel.read(500)):
                text += more
        return text[1:].decode("utf-8", "replace").strip() if text[:1] == REFUSED else ""

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise CancelledError("cancelled")
