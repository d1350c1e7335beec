"""The kept console of one test: its first and its last bytes, whatever came between."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

from emu.runner.config import RunnerError

DEFAULT_LIMIT = 1 << 20
MIN_LIMIT = 4096
#: Bytes of the end that are kept in memory in any case, for the report.
TAIL = 8192


class ConsoleLog:
    """Keeps `limit` bytes: the first half is written as it comes, the last half at the end.

    Without `path` only the tail is kept, in memory. RunnerError when the file cannot be made or
    written; it is not tried again then.
    """

    def __init__(self, path: Path | None, limit: int = DEFAULT_LIMIT) -> None:
        self.path = path
        self.size = 0  # bytes that came
        self._head = limit // 2
        self._last = limit - self._head
        self._recent = bytearray()
        self._file: BinaryIO | None = None
        if path is not None:
            try:
                self._file = path.open("wb", buffering=0)
            except OSError as error:
                raise RunnerError(f"{path}: {error.strerror}") from error

    def write(self, data: bytes) -> None:
        """Take the next bytes of the console."""
        if self._file is not None and self.size < self._head:
            self._put(data[: self._head - self.size])
        self.size += len(data)
        keep = max(self._last, TAIL)
        self._recent += data[-keep:]
        if len(self._recent) > 2 * keep:
            del self._recent[:-keep]

    def tail(self) -> bytes:
        """The last bytes that came."""
        return bytes(self._recent[-TAIL:])

    def close(self, messages: bytes = b"") -> None:
        """Write the end of the console, then what the emulator itself said."""
        if self._file is None:
            return
        rest = min(max(self.size - self._head, 0), self._last)
        dropped = max(self.size - self._head, 0) - rest
        if dropped:
            self._put(b"\n[... %d bytes are left out here ...]\n" % dropped)
        if rest:
            self._put(self._recent[-rest:])
        if messages:
            self._put(b"\n[messages of the emulator]\n" + messages)
        self._file.close()
        self._file = None

    def _put(self, data: bytes | bytearray) -> None:
        file, rest = self._file, memoryview(data)
        try:
            while file is not None and rest:
                rest = rest[file.write(rest) or 0 :]
        except OSError as error:
            self._file = None
            raise RunnerError(f"{self.path}: {error.strerror}") from error
