"""A guest that runs here while its memory comes: until all of it is here, whatever happens."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable

from emu.migration.answers import READY, REFUSED
from emu.migration.channels import MigrationChannel, SocketChannel
from emu.migration.postcopy_source import DONE, ENDED, LACKING
from emu.migration.postcopy_target import Outcome, PostcopyTarget
from emu.migration.ram import runs_of
from emu.migration.sections import COMMAND, POSTCOPY_RESUME, read_command, read_header
from emu.migration.stream import MigrationError, StreamReader

_GO_SECONDS = 60.0
_LAST_WORDS_SECONDS = 2.0


class Arrival:
    """Post-copy as the destination goes through it.

    ``resume`` is the guest's last phase of loading, which its caller runs before the guest.
    """

    def __init__(
        self, target: PostcopyTarget, resume: Callable[[], None], channel: MigrationChannel
    ) -> None:
        self.target = target
        self.resume = resume
        self._channel = channel
        self._outcome: Outcome | None = None
        self._changed = threading.Condition()
        self._given = False

    def begin(self, reader: StreamReader) -> None:
        """Supply pages from now on: loading the devices' state may need some."""
        if reader.buffered(1):
            raise MigrationError("something follows the description")
        self._start()

    def _start(self) -> None:
        assert isinstance(self._channel, SocketChannel)
        self._outcome = None
        self.target.start(self._channel, self._ended)

    def _ended(self, outcome: Outcome) -> None:
        """Pages do not come any more (the supplier's thread)."""
        if not self._given and outcome is not Outcome.DONE:
            self.target.finish()  # nothing runs that could see the holes; who waits goes on
        with self._changed:
            self._outcome = outcome
            self._changed.notify_all()

    def await_go(self) -> None:
        """Tell the source that all is loaded, and wait until it gives the guest away."""
        self._channel.write(READY)
        if not self.target.await_go(_GO_SECONDS):
            why = self.target.lost_because or "it does not answer"
            raise MigrationError(f"the source did not hand over: {why}")
        self._given = True

    def wait(self) -> Outcome:
        """Wait until pages do not come any more; why."""
        with self._changed:
            self._changed.wait_for(lambda: self._outcome is not None)
            assert self._outcome is not None
            return self._outcome

    def complete(self) -> None:
        """All pages are here."""
        self.target.close()
        with contextlib.suppress(OSError):
            self._channel.write(DONE)
            self._channel.drain(_LAST_WORDS_SECONDS)
        self._channel.close()

    def guest_ended(self) -> None:
        """The guest needs no memory any more: nobody runs it."""
        with contextlib.suppress(OSError):
            self._channel.write(ENDED)
            self._channel.drain(_LAST_WORDS_SECONDS)

    def abort(self) -> None:
        """Break the connection."""
        self._channel.abort()

    def reconnect(self, channel: MigrationChannel, machine: str) -> None:
        """Go on with a source that comes back; :class:`MigrationError` if it is none."""
        reader = StreamReader(channel)
        try:
            read_header(reader, machine)
            if reader.u8() != COMMAND or read_command(reader)[0] != POSTCOPY_RESUME:
                raise MigrationError("the source does not go on with a post-copy")
            if not isinstance(channel, SocketChannel):
                raise MigrationError("post-copy needs a connection of both directions")
            runs = runs_of(self.target.missing_pages())
            numbers = [len(runs), *(number for run in runs for number in run)]
            channel.write(LACKING + b"".join(number.to_bytes(4, "big") for number in numbers))
        except OSError as error:
            raise MigrationError(f"the source is gone: {error.strerror or error}") from error
        except MigrationError as error:
            with contextlib.suppress(OSError):
                channel.write(REFUSED + f"{error}\n".encode())
                channel.drain(_LAST_WORDS_SECONDS)
            raise
        self._channel.close()
        self._channel = channel
        self._start()
