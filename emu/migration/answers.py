"""What the destination says to the source while a guest is handed over."""

from __future__ import annotations

import contextlib

from emu.migration.channels import MigrationChannel
from emu.migration.stream import MigrationError

READY = b"\x52"
GO = b"\x47"
ACK = b"\x41"
REFUSED = b"\x45"  # then the reason, as text
_MAX_REASON = 500


class RefusedError(MigrationError):
    """The destination has said that it does not run the guest."""


class Answers:
    """Reads what comes back on a channel; ``refused`` says whether a refusal was among it."""

    def __init__(self, channel: MigrationChannel) -> None:
        self.refused = False
        self._channel = channel

    def expect(self, answer: bytes) -> None:
        """Wait for this answer; :class:`MigrationError` for another, :class:`RefusedError`."""
        try:
            found = self._channel.read(1)
        except OSError as error:
            why = error.strerror or error
            raise MigrationError(f"the destination does not answer: {why}") from error
        if not found:
            raise MigrationError("the destination has closed the connection before it took over")
        self.check(found, answer)

    def check(self, found: bytes, answer: bytes, behind: bytes = b"") -> None:
        """The same for an answer that was read, with what was read ``behind`` it."""
        if found == answer:
            return
        if found != REFUSED:
            raise MigrationError("the destination answered nonsense")
        self.refused = True
        raise RefusedError(f"the destination refused: {self._reason(behind)}")

    def last_words(self) -> str:
        """Why the destination has closed the connection, if it says so; empty if not."""
        if not self._channel.has_return_path or self.refused:
            return ""
        with contextlib.suppress(OSError):
            self._channel.settimeout(1.0)
            if self._channel.read(1) == REFUSED:
                return self._reason()
        return ""

    def _reason(self, text: bytes = b"") -> str:
        with contextlib.suppress(OSError):
            while len(text) < _MAX_REASON and (more := self._channel.read(_MAX_REASON)):
                text += more
        return " ".join(text[:_MAX_REASON].decode("utf-8", "replace").split())
