"""Bytes of a state stream: big-endian primitives over any channel, with limits and a checksum.

The framing is QEMU's migration format (docs/devel/migration in QEMU's sources); the numbers are
in :mod:`emu.migration.sections`.
"""

from __future__ import annotations

import contextlib
import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from typing import Protocol

Buffer = bytes | bytearray | memoryview


class MigrationError(Exception):
    """A stream cannot be written or loaded; one line that says why and where."""


class Channel(Protocol):
    """A byte stream to or from the other side; both calls may block."""

    def write(self, data: Buffer) -> None:
        """Send all of it; raises ``OSError``."""

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes, at least one; empty at the end.  Raises ``OSError``."""

    def read_into(self, views: Sequence[memoryview]) -> int:
        """As much as has come, into buffers; the bytes read, 0 at the end.  Raises ``OSError``."""


class StreamWriter:
    """Buffers writes; ``position`` counts bytes, ``checksum`` is their CRC-32.

    ``pages_checksum`` is kept by whoever calls :meth:`pass_on`.
    """

    _FLUSH_AT = 1 << 18

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._buffer = bytearray()
        self._flushed = 0
        self._checksum = 0
        self._flush_at = self._FLUSH_AT
        self.pages_checksum = 0

    @property
    def position(self) -> int:
        """Bytes written so far."""
        return self._flushed + len(self._buffer)

    @property
    def checksum(self) -> int:
        """CRC-32 of everything written so far."""
        return zlib.crc32(self._buffer, self._checksum)

    def write(self, data: Buffer) -> None:
        """Bytes as they are."""
        self._buffer += data
        if len(self._buffer) >= self._flush_at:
            self.flush()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep what is written until the next :meth:`flush`: nothing waits for the channel."""
        self._flush_at = sys.maxsize
        try:
            yield
        finally:
            self._flush_at = self._FLUSH_AT

    def flush(self) -> None:
        """Send what is buffered; :class:`MigrationError` if the channel fails."""
        self._checksum = zlib.crc32(self._buffer, self._checksum)
        self._flushed += len(self._buffer)
        buffer, self._buffer = self._buffer, bytearray()
        self._send(buffer)

    def pass_on(self, data: Buffer) -> None:
        """Send bytes behind what is buffered; they are not in the checksum, nor copied."""
        self.flush()
        self._flushed += len(data)
        self._send(data)

    def _send(self, data: Buffer) -> None:
        try:
            self._channel.write(data)
        except OSError as error:
            raise MigrationError(f"cannot write the stream: {error.strerror or error}") from error

    def u8(self, value: int) -> None:
        """8 bits."""
        self.write(bytes((value & 0xFF,)))

    def u16(self, value: int) -> None:
        """16 bits, big-endian."""
        self.write(struct.pack(">H", value & 0xFFFF))

    def u32(self, value: int) -> None:
        """32 bits, big-endian."""
        self.write(struct.pack(">I", value & 0xFFFFFFFF))

    def u64(self, value: int) -> None:
        """64 bits, big-endian."""
        self.write(struct.pack(">Q", value & 0xFFFFFFFFFFFFFFFF))

    def text(self, value: str) -> None:
        """A string of at most 255 bytes behind its length in one byte."""
        data = value.encode()
        if len(data) > 255:
            raise MigrationError(f"name too long: {value[:40]}...")
        self.write(bytes((len(data),)) + data)


class StreamReader:
    """Reads exactly what is asked for, or raises :class:`MigrationError`."""

    # More would be copied twice: pages go straight to where they belong.
    _READ_AT_ONCE = 1 << 14
    _MAX_VIEWS = 512  # what one call of the kernel takes, at least

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._buffer = memoryview(b"")
        self._checksum = 0
        self.pages_checksum = 0
        self.position = 0

    @property
    def checksum(self) -> int:
        """CRC-32 of everything read so far."""
        return self._checksum

    def read(self, size: int) -> bytes:
        """Exactly ``size`` bytes."""
        data = self._take(size, consume=True)
        self.position += size
        self._checksum = zlib.crc32(data, self._checksum)
        return data

    def peek(self, size: int) -> bytes:
        """The next bytes, which stay; fewer at the end of the stream."""
        return self._take(size, consume=False)

    def buffered(self, limit: int) -> memoryview:
        """What has arrived and can be read without waiting, up to ``limit`` bytes; it stays."""
        return self._buffer[:limit]

    def into(self, views: Sequence[memoryview]) -> None:
        """Fill buffers, one after the other; what goes there is not in the checksum."""
        waiting = list(views)
        while waiting:
            waiting = self._drop(waiting, self._fill(waiting[: self._MAX_VIEWS]))

    def _fill(self, views: Sequence[memoryview]) -> int:
        """Put something into buffers; the number of bytes."""
        if ready := len(self._buffer):
            view = views[0][:ready]
            view[:] = self._buffer[: len(view)]
            self._buffer = self._buffer[len(view) :]
            return len(view)
        try:
            count = self._channel.read_into(views)
        except OSError as error:
            raise MigrationError(f"cannot read the stream: {error.strerror or error}") from error
        if not count:
            raise MigrationError(f"the stream ends after {self.position} bytes")
        return count

    def _drop(self, views: list[memoryview], count: int) -> list[memoryview]:
        """What is left of buffers behind so many bytes."""
        self.position += count
        for index, view in enumerate(views):
            if count < len(view):
                return [view[count:], *views[index + 1 :]]
            count -= len(view)
        return []

    def _take(self, size: int, *, consume: bool) -> bytes:
        pieces = [bytes(self._buffer[:size])]
        have = len(pieces[0])
        rest = self._buffer[size:]
        while have < size:
            try:
                data = self._channel.read(max(size - have, self._READ_AT_ONCE))
            except OSError as error:
                raise MigrationError(
                    f"cannot read the stream: {error.strerror or error}"
                ) from error
            if not data:
                if consume:
                    raise MigrationError(f"the stream ends after {self.position + have} bytes")
                break
            need = size - have
            pieces.append(data[:need])
            have += len(pieces[-1])
            rest = memoryview(data)[need:]
        found = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._buffer = rest if consume else memoryview(found + bytes(rest))
        return found

    def u8(self) -> int:
        """8 bits."""
        return self.read(1)[0]

    def u16(self) -> int:
        """16 bits, big-endian."""
        return int.from_bytes(self.read(2), "big")

    def u32(self) -> int:
        """32 bits, big-endian."""
        return int.from_bytes(self.read(4), "big")

    def u64(self) -> int:
        """64 bits, big-endian."""
        return int.from_bytes(self.read(8), "big")

    def text(self) -> str:
        """A string behind its length in one byte."""
        return self.ascii(self.u8())

    def ascii(self, size: int) -> str:
        """A string of that many bytes, all of them printable."""
        text = self.read(size).decode("ascii", "replace")
        if not (text.isascii() and text.isprintable()):
            raise MigrationError(f"a name is not text at byte {self.position}")
        return text
