"""Reading and changing a flattened device tree in place (Devicetree Specification 0.4, chapter 5).

Nothing moves: a property is replaced by one of the same length, or overwritten with FDT_NOP tags,
which every reader skips.  Everything in a tree is big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

FDT_MAGIC = 0xD00DFEED
HEADER = struct.Struct(">10I")
_BEGIN_NODE, _END_NODE, _PROP, _NOP, _END = 1, 2, 3, 4, 9
_OLDEST_VERSION = 16
_PROP_HEADER = 12  # tag, length of the value, offset of the name
_MAX_DEPTH = 64
#: Of a node's or a property's name, in bytes; the specification has 31 and a unit address.
#: Without a limit a small hostile tree would make us copy one long name again and again.
MAX_NAME = 255


@dataclass(frozen=True, slots=True)
class FlatProperty:
    """A property: ``node`` is its path, ``tag`` and ``start`` are offsets into the blob.

    ``start`` and ``length`` (bytes) are those of the value.
    """

    node: str
    name: str
    tag: int
    start: int
    length: int

    @property
    def end(self) -> int:
        """Offset of the next tag."""
        return self.start + _aligned(self.length)


def _aligned(size: int) -> int:
    return (size + 3) & -4


def _string(blob: bytes | bytearray, start: int, end: int) -> bytes:
    stop = blob.find(b"\0", start, min(end, start + MAX_NAME + 1))
    if stop < 0:
        raise ValueError("device tree: a name without an end, or too long")
    return bytes(blob[start:stop])


def tree_size(header: bytes) -> int:
    """Size in bytes that a tree's header states; ValueError if it is not a header."""
    magic, size = struct.unpack_from(">2I", header)
    if magic != FDT_MAGIC or size < HEADER.size:
        raise ValueError("device tree: no header")
    return int(size)


def walk(blob: bytes | bytearray) -> Iterator[FlatProperty]:
    """Every property, in order.  ValueError for what is no whole tree; reads nothing outside."""
    if len(blob) < HEADER.size or tree_size(bytes(blob[:8])) > len(blob):
        raise ValueError("device tree: not all there")
    header = HEADER.unpack_from(blob)
    size, structure, strings = header[1:4]
    compatible, strings_size, structure_size = header[6], header[8], header[9]
    end, strings_end = structure + structure_size, strings + strings_size
    if compatible > _OLDEST_VERSION or end > size or strings_end > size or structure % 4:
        raise ValueError("device tree: unusable header")
    at, path = structure, list[str]()
    while at + 4 <= end:
        (tag,) = struct.unpack_from(">I", blob, at)
        if tag == _NOP:
            at += 4
        elif tag == _BEGIN_NODE and len(path) < _MAX_DEPTH:
            name = _string(blob, at + 4, end)
            path.append(name.decode("latin-1"))
            at += 4 + _aligned(len(name) + 1)
        elif tag == _PROP and path and at + _PROP_HEADER <= end:
            length, offset = struct.unpack_from(">2I", blob, at + 4)
            text = _string(blob, strings + offset, strings_end).decode("latin-1")
            found = FlatProperty("/".join(path) or "/", text, at, at + _PROP_HEADER, length)
            if found.end > end:
                break
            yield found
            at = found.end
        elif tag == _END_NODE and path:
            path.pop()
            at += 4
        elif tag == _END and not path:
            return
        else:
            break
    raise ValueError("device tree: structure block broken")


def replace(blob: bytearray, item: FlatProperty, value: bytes) -> None:
    """Give a property another value; ValueError unless it is as long."""
    if len(value) != item.length:
        raise ValueError(f"device tree: {item.name} has {item.length} bytes, not {len(value)}")
    blob[item.start : item.start + item.length] = value


def drop(blob: bytearray, item: FlatProperty) -> None:
    """Take a property out."""
    words = (item.end - item.tag) // 4
    blob[item.tag : item.end] = _NOP.to_bytes(4, "big") * words
