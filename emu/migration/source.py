"""The sending side: iterative pre-copy, then the rest with the guest stopped.

Who runs at the end is decided by three messages over the connection.  The destination says READY
when all is loaded and checked; the source answers GO, which gives the guest away; the destination
takes the disks, says ACK and runs.  Until GO is sent, any failure leaves the guest with the source,
and so does REFUSED, which a destination that does not run the guest can say at any time before
ACK.  When neither ACK nor REFUSED comes, the source cannot know: its guest stays stopped until the
user says ``cont``.  So both sides never run by themselves.  Channels of one direction (files,
commands) end when everything is written.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from emu.memory.ram import PAGE_SIZE
from emu.migration import sections
from emu.migration.answers import ACK, GO, READY, Answers, RefusedError
from emu.migration.channels import MigrationChannel, SocketChannel, open_outgoing
from emu.migration.compression import Method, compressor, method
from emu.migration.machine import MigratableMachine
from emu.migration.ram import NAME, VERSION, PageNumbers, RamSource
from emu.migration.ram_sender import RamSender
from emu.migration.sections import (
    END,
    POSTCOPY_ADVISE,
    POSTCOPY_RESUME,
    START,
    begin,
    finish,
    write_command,
)
from emu.migration.status import MigrationStatus, Parameters, Progress
from emu.migration.stream import MigrationError, StreamReader, StreamWriter

if TYPE_CHECKING:
    from emu.migration.postcopy_source import PostcopyServer

_RAM_SECTION = 2
_ANSWER_SECONDS = 60.0


class CancelledError(MigrationError):
    """The user cancelled the migration."""


class HandedOverError(MigrationError):
    """The guest was given away, and nothing tells whether the destination has it."""


class PostcopyLostError(MigrationError):
    """The guest runs elsewhere and lacks memory that is here."""


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
        postcopy: bool = False,
    ) -> None:
        self.status = MigrationStatus.NONE
        self.error: str | None = None
        self.progress = Progress(machine.ram.size)
        self._machine = machine
        self._uri = uri
        self._parameters = parameters
        self._changed = changed
        self._auto_converge = auto_converge
        self._postcopy = postcopy
        self._postcopy_wanted = threading.Event()
        self._server: PostcopyServer | None = None  # of a guest that has gone
        self._cancelled = threading.Event()
        self._channel: MigrationChannel | None = None
        self._hand_over_lock = threading.Lock()
        self._handed_over = False  # GO is sent: too late to cancel
        self._stopped = False
        self._answers: Answers | None = None
        self._was_running = False
        self._ram = RamSource(machine.ram)
        self._sender = RamSender(
            self._ram,
            _RAM_SECTION,
            self.progress,
            parameters,
            self._cancelled,
            self._check_cancelled,
        )
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
        with self._hand_over_lock:
            if self.status.running and not self._handed_over:
                self._cancelled.set()
                if self._channel is not None:
                    self._channel.abort()

    def start_postcopy(self) -> None:
        """Let the guest go before its memory, as soon as it has begun to move.

        :class:`MigrationError` when that was not prepared for.
        """
        if not self._postcopy:
            raise MigrationError(
                "Enable postcopy with migrate_set_capability before the start of migration"
            )
        self._postcopy_wanted.set()

    def resume_postcopy(self, uri: str) -> None:
        """Go on sending memory after the connection broke; returns at once."""
        if self.status is not MigrationStatus.POSTCOPY_PAUSED:
            raise MigrationError("Cannot resume if there is no paused migration")
        self._uri = uri
        self._thread = threading.Thread(target=self._run_again, name="migration", daemon=True)
        self._set(MigrationStatus.POSTCOPY_RECOVER)
        self._thread.start()

    def pause_postcopy(self) -> None:
        """Break the connection of a guest that runs elsewhere already."""
        if self._channel is not None:
            self._channel.abort()

    def _set(self, status: MigrationStatus) -> None:
        self.status = status
        self._changed(status)

    def _run(self) -> None:
        try:
            self._migrate()
        except PostcopyLostError as error:
            self._lost(error)
        except Exception as error:
            self._failed(error)
        else:
            self._succeeded()
        finally:
            if self._channel is not None:
                self._channel.close()

    def _succeeded(self) -> None:
        self.progress.ended = time.monotonic()
        self.progress.remaining = 0
        self._machine.end_migration(True, False)
        self._set(MigrationStatus.COMPLETED)

    def _lost(self, error: PostcopyLostError) -> None:
        """The guest has gone, its memory has not: it is kept for :meth:`resume_postcopy`."""
        self.error = str(error)
        self._set(MigrationStatus.POSTCOPY_PAUSED)

    def _run_again(self) -> None:
        self._channel = None
        try:
            self._reconnect()
            self._serve_rest()
        except Exception as error:
            self._lost(PostcopyLostError(str(error)))
        else:
            self.error = None
            self._succeeded()
        finally:
            if self._channel is not None:
                self._channel.close()

    def _reconnect(self) -> None:
        """Ask the destination what it lacks."""
        self._channel = channel = open_outgoing(self._uri)
        server = self._server
        if not isinstance(channel, SocketChannel) or server is None:
            raise MigrationError("post-copy needs a connection of both directions")
        channel.settimeout(_ANSWER_SECONDS)
        writer = StreamWriter(channel)
        sections.write_header(writer, self._machine.migration_name)
        write_command(writer, POSTCOPY_RESUME)
        writer.flush()
        server.restart(channel, StreamReader(channel))

    def _failed(self, error: Exception) -> None:
        self.progress.ended = time.monotonic()
        self._machine.throttle(0)
        known = isinstance(error, MigrationError)
        self.error = str(error) if known else f"{type(error).__name__}: {error}"
        gone = isinstance(error, HandedOverError)
        if not gone and self._answers and (refusal := self._answers.last_words()):
            self.error = f"the destination refused: {refusal}"
        if self._channel is not None:
            self._channel.close()  # a destination that waits sees the end
        cancelled = self._cancelled.is_set()
        if cancelled:
            self.error = None
        try:
            if self._stopped:
                self._machine.end_migration(gone, self._was_running)
        except Exception as trouble:
            why = f"the guest cannot go on: {trouble}"
            self.error = f"{self.error}; {why}" if self.error else why
        self._set(MigrationStatus.CANCELLED if cancelled else MigrationStatus.FAILED)

    def _migrate(self) -> None:
        self._channel = open_outgoing(self._uri)
        self._answers = Answers(self._channel)
        writer = StreamWriter(self._channel)
        sections.write_header(writer, self._machine.migration_name)
        self._prepare(writer)
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

    def _prepare(self, writer: StreamWriter) -> None:
        """What capabilities and parameters ask for."""
        if self._postcopy:
            if not isinstance(self._channel, SocketChannel):
                raise MigrationError("post-copy needs a connection of both directions")
            sizes = mmap.PAGESIZE.to_bytes(8, "big") + PAGE_SIZE.to_bytes(8, "big")
            write_command(writer, POSTCOPY_ADVISE, sizes)
        chosen = method(self._parameters.multifd_compression)
        if chosen is not Method.NONE:
            level = (
                self._parameters.multifd_zstd_level
                if chosen is Method.ZSTD
                else self._parameters.multifd_zlib_level
            )
            self._ram.use_compression(chosen.number, compressor(chosen, level))

    def _iterate(self, writer: StreamWriter) -> PageNumbers:
        """Send RAM while the guest runs, until little enough is left; returns what is left."""
        self._machine.on_vcpu(self._machine.take_dirty)
        pages = np.arange(self._machine.ram.pages, dtype=np.int64)
        excess = 0
        while True:
            sent_before, begun = writer.position, time.monotonic()
            unsent = self._sender.send(writer, pages, self._postcopy_wanted)
            seconds = max(time.monotonic() - begun, 1e-6)
            dirty = self._machine.on_vcpu(self._machine.take_dirty)
            dirty[unsent] = 1
            pages = np.flatnonzero(dirty).astype(np.int64)
            progress = self.progress
            progress.dirty_syncs += 1
            sent = writer.position - sent_before
            if sent > 1 << 20 or progress.bandwidth == 0:
                progress.bandwidth = sent / seconds
            progress.remaining = len(pages) * progress.page_size
            progress.dirty_rate = len(pages) / seconds
            progress.expected_downtime = progress.remaining / max(progress.bandwidth, 1.0)
            if self._postcopy_wanted.is_set():
                return pages
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

    def _complete(self, writer: StreamWriter, remaining: PageNumbers) -> None:
        machine = self._machine
        begun = time.monotonic()
        self._was_running = machine.is_running()
        self._stopped = True
        machine.pause_for_migration()
        machine.throttle(0)
        dirty = machine.on_vcpu(machine.take_dirty)
        dirty[remaining] = 1
        pages = np.flatnonzero(dirty).astype(np.int64)
        postcopy = self._postcopy_wanted.is_set()
        begin(writer, END, _RAM_SECTION)
        if postcopy:
            self._ram.write_missing(writer, pages)
        else:
            self._ram.write_pages(writer, pages)
        self._ram.end(writer)
        finish(writer, _RAM_SECTION)
        iterated = machine.iterated()
        for number, part in enumerate(iterated, _RAM_SECTION + 1):
            begin(writer, END, number)
            part.save_end(writer)
            finish(writer, number)
        first = _RAM_SECTION + 1 + len(iterated)
        writer.flush()
        with writer.held():  # the vCPU thread does not wait for the destination
            machine.on_vcpu(lambda: sections.write_devices(writer, machine.components(), first))
        writer.flush()
        self._sender.note(writer, len(pages) if postcopy else 0)
        self._check_cancelled()
        if postcopy:
            self._hand_over_first(pages, begun)
        else:
            self._hand_over()
            self.progress.downtime = time.monotonic() - begun

    def _hand_over_first(self, pages: PageNumbers, begun: float) -> None:
        """Give the guest away, then send its memory."""
        from emu.migration.postcopy_source import PostcopyServer

        channel, ram = self._channel, self._machine.ram
        assert isinstance(channel, SocketChannel)
        server = PostcopyServer(ram, pages, self.progress, self._parameters)
        server.connect(channel)
        self._check_answer(server, READY)
        self._release_host()
        with self._hand_over_lock:
            self._check_cancelled()
            self._handed_over = True
        try:
            server.go()
        except OSError as error:  # nothing was sent
            raise MigrationError(f"the destination is gone: {error.strerror or error}") from error
        self._server = server
        try:
            self._check_answer(server, ACK)
        except RefusedError:
            raise
        except (MigrationError, OSError) as error:
            raise self._lost_by(error) from error
        self.progress.downtime = time.monotonic() - begun
        self._serve_rest()

    def _lost_by(self, error: Exception) -> PostcopyLostError:
        return PostcopyLostError(
            f"the connection broke in post-copy: {error}; the guest waits at the destination"
        )

    def _serve_rest(self) -> None:
        assert self._server is not None
        self._set(MigrationStatus.POSTCOPY_ACTIVE)
        try:
            self._server.run()
        except OSError as error:
            raise self._lost_by(error) from error

    def _check_answer(self, server: PostcopyServer, answer: bytes) -> None:
        try:
            found = server.await_answer(_ANSWER_SECONDS, self._check_cancelled)
        except OSError as error:
            why = error.strerror or error
            raise MigrationError(f"the destination does not answer: {why}") from error
        assert self._answers is not None
        self._answers.check(found, answer, server.unread())

    def _hand_over(self) -> None:
        channel, answers = self._channel, self._answers
        assert channel is not None
        assert answers is not None
        if not channel.has_return_path:
            try:
                channel.finish()
            except OSError as error:
                raise MigrationError(f"cannot finish: {error.strerror or error}") from error
            self._release_host()
            return
        channel.settimeout(_ANSWER_SECONDS)
        answers.expect(READY)
        self._check_cancelled()
        self._release_host()
        with self._hand_over_lock:
            self._check_cancelled()
            self._handed_over = True
        try:
            channel.write(GO)
        except OSError as error:  # nothing was sent
            raise MigrationError(f"the destination is gone: {error.strerror or error}") from error
        try:
            answers.expect(ACK)
        except RefusedError:
            raise
        except MigrationError as error:
            raise HandedOverError(
                f"{error}; it may run the guest, which stays stopped here until 'cont'"
            ) from error

    def _release_host(self) -> None:
        try:
            self._machine.release_host()
        except OSError as error:
            raise MigrationError(f"cannot give up the disks: {error.strerror or error}") from error

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise CancelledError("cancelled")
