"""Changes saved state streams so that nothing but the change is wrong with them."""

from __future__ import annotations

import struct

from tests.support.stream_reader import INTEGRITY, SavedStream, checksum, read_frame

_FOOTER_SIZE = 5
_INTEGRITY = struct.Struct(">QIQ")


def resealed(data: bytes) -> bytes:
    """The stream with an integrity section that fits again, after a change behind RAM."""
    name = bytes((len(INTEGRITY),)) + INTEGRITY.encode()
    at = data.index(name) - 5
    fields = at + 5 + len(name) + 8
    stream = SavedStream(data)
    start = read_frame(stream)
    stream.summed.append((start, at))
    seal = _INTEGRITY.pack(at, checksum(stream), stream.pages_checksum)
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
