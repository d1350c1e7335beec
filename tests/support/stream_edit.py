"""Changes saved state streams so that nothing but the change is wrong with them."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Self

from tests.support.stream_reader import INTEGRITY, SavedStream, checksum, read_frame

_FOOTER_SIZE = 5
_NAME = bytes((len(INTEGRITY),)) + INTEGRITY.encode()
_INTEGRITY = struct.Struct(">QIQ")


@dataclass(frozen=True)
class Frame:
    """What comes before the devices: where they begin, and the checksums up to there."""

    begin: int
    checksum: int
    pages_checksum: int

    @classmethod
    def of(cls, data: bytes) -> Self:
        """Read it; what is behind it need not be right."""
        stream = SavedStream(data)
        start = read_frame(stream)
        begin = max(end for _, end in stream.iterated)
        stream.summed.append((start, begin))
        return cls(begin, checksum(stream), stream.pages_checksum)


def integrity_section(data: bytes) -> int:
    """Where the integrity section begins; ValueError if there is none."""
    return data.rindex(_NAME) - 5


def resealed(data: bytes, frame: Frame | None = None) -> bytes:
    """The stream with an integrity section that fits again, after a change behind RAM.

    ``frame``, if it is known, saves reading it.  ValueError if there is no such section.
    """
    frame = frame or Frame.of(data)
    at = integrity_section(data)
    fields = at + 5 + len(_NAME) + 8
    total = zlib.crc32(data[frame.begin : at], frame.checksum)
    seal = _INTEGRITY.pack(at, total, frame.pages_checksum)
    return data[:fields] + seal + data[fields + _INTEGRITY.size :]


def section_bounds(stream: SavedStream, name: str) -> tuple[int, int]:
    """Where a FULL section is, from its kind to behind its footer."""
    section = stream[name]
    return section.start - 14 - len(section.name), section.end + _FOOTER_SIZE


def without_section(stream: SavedStream, name: str) -> bytes:
    """The stream without one device's section."""
    start, end = section_bounds(stream, name)
    return resealed(stream.data[:start] + stream.data[end:])


def twice(stream: SavedStream, name: str) -> bytes:
    """The stream with one device's section twice."""
    start, end = section_bounds(stream, name)
    return resealed(stream.data[:end] + stream.data[start:])


def replaced(stream: SavedStream, name: str, old: bytes, new: bytes) -> bytes:
    """The stream with other bytes in a section, its head included; ``old`` must be there once."""
    start, end = section_bounds(stream, name)
    body = stream.data[start:end]
    assert body.count(old) == 1, f"{old!r} is {body.count(old)} times in '{name}'"
    return resealed(stream.data[:start] + body.replace(old, new) + stream.data[end:])


def without_ram(data: bytes) -> bytes:
    """The stream without the sections of RAM, which are not QEMU's."""
    stream = SavedStream(data)
    read_frame(stream)
    kept, at = b"", 0
    for start, end in stream.ram_sections:
        kept += data[at:start]
        at = end
    return kept + data[at:]
