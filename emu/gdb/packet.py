"""Packets of gdb's remote serial protocol: framing, checksums, escapes ("Overview" in its manual).

Input is arbitrary bytes: nothing here raises for it, and at most one packet is kept.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass

#: Bytes between ``$`` and ``#`` that are accepted, and that the stub sends at most.
MAX_PACKET = 0x4000
INTERRUPT_BYTE = 0x03
_ESCAPE = 0x7D
_ESCAPED = b"#$}*"
_END = re.compile(rb"[#$]")


class Signal(enum.Enum):
    """What a peer can send besides packets."""

    INTERRUPT = enum.auto()  # Ctrl-C
    NACK = enum.auto()  # send the last packet again
    CORRUPT = enum.auto()  # a packet with a wrong checksum
    TOO_LONG = enum.auto()  # a packet of more than MAX_PACKET bytes


@dataclass(frozen=True)
class Packet:
    """A packet's content; binary data in it is still escaped."""

    content: bytes


class _State(enum.Enum):
    IDLE = enum.auto()
    CONTENT = enum.auto()
    CHECKSUM = enum.auto()


class PacketReader:
    """Cuts a stream of bytes into packets and signals."""

    def __init__(self) -> None:
        self._state = _State.IDLE
        self._content = bytearray()
        self._checksum = bytearray()
        self._too_long = False

    def feed(self, data: bytes) -> Iterator[Packet | Signal]:
        """What these bytes complete."""
        position = 0
        while position < len(data):
            if self._state is _State.CONTENT:
                position = self._take(data, position)
                continue
            byte = data[position]
            position += 1
            if self._state is _State.CHECKSUM:
                self._checksum.append(byte)
                if len(self._checksum) == 2:
                    yield self._finish()
            elif byte == INTERRUPT_BYTE:
                yield Signal.INTERRUPT
            elif byte == ord("-"):
                yield Signal.NACK
            elif byte == ord("$"):
                self._begin()

    def _begin(self) -> None:
        self._state = _State.CONTENT
        self._content.clear()
        self._checksum.clear()
        self._too_long = False

    def _take(self, data: bytes, start: int) -> int:
        """Content up to a packet's end, or to the beginning of another; where to go on."""
        found = _END.search(data, start)
        end = found.start() if found else len(data)
        room = MAX_PACKET - len(self._content)
        self._content += data[start : min(end, start + room)]
        self._too_long |= end - start > room
        if found is None:
            return end
        if found[0] == b"#":
            self._state = _State.CHECKSUM
        else:
            self._begin()  # the peer gave up the packet before
        return end + 1

    def _finish(self) -> Packet | Signal:
        self._state = _State.IDLE
        if self._too_long:
            return Signal.TOO_LONG
        content = bytes(self._content)
        try:
            expected = int(bytes(self._checksum), 16)
        except ValueError:
            return Signal.CORRUPT
        return Packet(content) if sum(content) & 0xFF == expected else Signal.CORRUPT


def frame(content: bytes) -> bytes:
    """A packet on the wire; ``content`` has its binary data escaped already."""
    return b"$%b#%02x" % (content, sum(content) & 0xFF)


def escape(data: bytes) -> bytes:
    """Binary data as it stands in a packet."""
    if not any(byte in data for byte in _ESCAPED):
        return data
    result = bytearray()
    for byte in data:
        if byte in _ESCAPED:
            result += bytes((_ESCAPE, byte ^ 0x20))
        else:
            result.append(byte)
    return bytes(result)


def unescape(data: bytes) -> bytes:
    """The reverse; ``ValueError`` for an escape without its byte."""
    result = bytearray()
    position = iter(data)
    for byte in position:
        if byte == _ESCAPE:
            following = next(position, None)
            if following is None:
                raise ValueError("escape at the end of a packet")
            byte = following ^ 0x20
        result.append(byte)
    return bytes(result)
