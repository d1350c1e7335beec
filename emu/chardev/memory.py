"""A console in memory, driven from Python: tests and scripts talk to the guest through it."""

from __future__ import annotations

import re
import threading
import time

from emu.chardev.base import Chardev
from emu.events import EventLoop

Pattern = str | bytes | re.Pattern[str] | re.Pattern[bytes]

#: Lines of the console quoted in an error.
_QUOTED_LINES = 10


class ConsoleError(Exception):
    """The console did not show what was waited for; the message ends with its last lines."""


class ConsoleTimeout(ConsoleError, TimeoutError):  # noqa: N818
    """The time ran out."""


class ConsoleClosed(ConsoleError, EOFError):  # noqa: N818
    """The console was closed, because the machine ended."""


class MemoryChardev(Chardev):
    """Keeps all output (or the last `capacity` bytes) and sends input; any thread may use it.

    `wait_for` looks at output that no earlier `wait_for` has consumed, as expect does, so that a
    prompt is not found twice.
    """

    def __init__(
        self, label: str = "memory", loop: EventLoop | None = None, capacity: int | None = None
    ) -> None:
        super().__init__(label, loop)
        self._capacity = capacity
        self._output = bytearray()
        self._dropped = 0  # bytes removed from the front of _output
        self._cursor = 0  # where wait_for goes on, counted from the first byte ever written
        self._changed = threading.Condition()

    @property
    def transcript(self) -> bytes:
        """All output kept so far."""
        with self._changed:
            return bytes(self._output)

    @property
    def text(self) -> str:
        """The transcript as text; bytes that are not UTF-8 become U+FFFD."""
        return self.transcript.decode("utf-8", "replace")

    def write(self, data: bytes) -> None:
        """Keep the guest's output."""
        with self._changed:
            self._output += data
            if self._capacity is not None and len(self._output) > self._capacity:
                excess = len(self._output) - self._capacity
                del self._output[:excess]
                self._dropped += excess
            self._changed.notify_all()

    def read(self) -> bytes:
        """Return and consume the output that `wait_for` and `read` have not consumed yet."""
        with self._changed:
            data = self._unread()
            self._cursor += len(data)
            return data

    def send(self, text: str | bytes) -> None:
        """Send input to the guest (text as UTF-8); returns at once, nothing is ever lost."""
        data = text.encode() if isinstance(text, str) else bytes(text)
        if self._loop is None or not self._loop.call_soon_threadsafe(self._feed, data):
            self._feed(data)

    def wait_for(self, pattern: Pattern, timeout: float = 60.0) -> re.Match[bytes]:
        """Wait for `pattern` in the output, consume up to its end, and return the match.

        A `str` or `bytes` is taken literally, a compiled pattern is searched for (its `$` sees the
        end of what has arrived so far). The match's `string` is all unconsumed output, so
        `m.string[: m.start()]` is what came before. Raises ConsoleTimeout after `timeout`
        seconds, ConsoleClosed if the machine ends first.
        """
        regex = _compile(pattern)
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                text = self._unread()
                match = regex.search(text)
                if match:
                    self._cursor += match.end()
                    return match
                left = deadline - time.monotonic()
                if self.closed:
                    raise ConsoleClosed(self._explain(pattern, "before the console was closed"))
                if left <= 0:
                    raise ConsoleTimeout(self._explain(pattern, f"within {timeout:g} s"))
                self._changed.wait(left)

    def close(self) -> None:
        """End every `wait_for`; the transcript stays."""
        with self._changed:
            super().close()
            self._changed.notify_all()

    def _unread(self) -> bytes:
        self._cursor = max(self._cursor, self._dropped)
        return bytes(self._output[self._cursor - self._dropped :])

    def _explain(self, pattern: Pattern, when: str) -> str:
        shown = pattern.pattern if isinstance(pattern, re.Pattern) else pattern
        lines = self._output[-4096:].decode("utf-8", "replace").splitlines()[-_QUOTED_LINES:]
        last = "\n".join(f"  | {line}" for line in lines) or "  (no output at all)"
        return f"{self.label}: no match for {shown!r} {when}; the console's last lines:\n{last}"


def _compile(pattern: Pattern) -> re.Pattern[bytes]:
    if isinstance(pattern, str):
        return re.compile(re.escape(pattern.encode()))
    if isinstance(pattern, bytes):
        return re.compile(re.escape(pattern))
    if isinstance(pattern.pattern, bytes):
        return re.compile(pattern.pattern, pattern.flags)
    return re.compile(pattern.pattern.encode(), pattern.flags & ~re.UNICODE)
