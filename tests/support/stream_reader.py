"""Reads a saved state stream as docs/migration-stream.md has it, with nothing of the emulator's.

    python -m tests.support.stream_reader FILE

prints every field of every device by its name.  Everything the page promises is checked; what is
wrong is a :class:`StreamError` that tells the place.
"""

from __future__ import annotations

import json
import struct
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

MAGIC, VERSION = b"QEVM", 3
START, PART, END, FULL, SUBSECTION, DESCRIPTION, CONFIGURATION, FOOTER = 1, 2, 3, 4, 5, 6, 7, 0x7E
PAGE = 4096
INTEGRITY = "ppc64emu/integrity"
_SUM_FACTOR = 0x9E3779B97F4A7C15
_M64 = (1 << 64) - 1


class StreamError(Exception):
    """The stream is not what the page says."""


class Bytes:
    """Takes numbers off a part of a stream."""

    def __init__(self, data: bytes, at: int = 0, end: int | None = None) -> None:
        self.data = data
        self.at = at
        self.end = len(data) if end is None else end

    def take(self, size: int) -> bytes:
        if self.at + size > self.end:
            raise StreamError(f"{size} bytes wanted at {self.at:#x}, it ends at {self.end:#x}")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "big", signed=signed)

    def text(self) -> str:
        return self.take(self.number(1)).decode("ascii")

    def expect(self, size: int, value: int, what: str) -> None:
        place = self.at
        if (found := self.number(size)) != value:
            raise StreamError(f"{what} at {place:#x} is {found:#x}, not {value:#x}")


@dataclass
class Structure:
    """A structure's fields by name; those of subsections by the subsections' names."""

    fields: dict[str, Any] = field(default_factory=dict)
    subsections: dict[str, Structure] = field(default_factory=dict)

    def __getitem__(self, path: str) -> Any:
        """A field by a path of names and indices: ``virtio.queues.0.num``."""
        value: Any = self
        for name in path.split("."):
            if isinstance(value, Structure):
                value = value.fields[name]
            else:
                value = value[int(name)]
        return value


@dataclass
class Section:
    """A FULL section; ``start`` and ``end`` are the places of its body in the stream."""

    number: int
    name: str
    instance: int
    version: int
    start: int
    end: int
    state: Structure


@dataclass
class SavedStream:
    """A whole stream.

    ``pages`` has the contents of pages by number, None for zeros; ``summed`` the places that
    the CRC is made of, ``ram_sections`` those of the sections of RAM, ``iterated`` those of all
    sections before the devices': (start, end).
    """

    data: bytes
    machine: str = ""
    ram_size: int = 0
    pages: dict[int, bytes | None] = field(default_factory=dict)
    hash_entries: dict[int, bytes] = field(default_factory=dict)
    sections: dict[tuple[str, int], Section] = field(default_factory=dict)
    description: dict[str, Any] = field(default_factory=dict)
    summed: list[tuple[int, int]] = field(default_factory=list)
    ram_sections: list[tuple[int, int]] = field(default_factory=list)
    iterated: list[tuple[int, int]] = field(default_factory=list)
    pages_checksum: int = 0

    def __getitem__(self, name: str) -> Section:
        """The section of that name, or the only one whose name ends with it."""
        found = [one for (title, _), one in self.sections.items() if title.endswith(name)]
        (section,) = found
        return section


def read_stream(data: bytes) -> SavedStream:
    """Read it all."""
    stream = SavedStream(data)
    _Reader(stream).read()
    return stream


def read_frame(stream: SavedStream) -> int:
    """Read what comes before the devices; where what is summed up last begins."""
    reader = _Reader(stream)
    reader.read_head()
    while reader.read_iterated():
        pass
    return reader.summed_from


class _Reader:
    def __init__(self, stream: SavedStream) -> None:
        self.stream = stream
        self.bytes = Bytes(stream.data)
        self.open: dict[int, str] = {}
        self.next_number = 2
        self.summed_from = 0

    def read(self) -> None:
        self.read_head()
        while self.read_iterated():
            pass
        take, devices = self.bytes, self._description()
        while kind := take.number(1):
            before = take.at - 1
            if kind != FULL:
                raise StreamError(f"kind {kind:#x} at {before:#x}")
            number, name = self._new_section()
            self._full(number, name, next(devices, None), before)
            self._footer(number)
        if next(devices, None) is not None:
            raise StreamError("the description has more devices than the stream")
        take.expect(1, DESCRIPTION, "description")
        take.take(take.number(4))
        if take.at != take.end:
            raise StreamError(f"something follows the description at {take.at:#x}")

    def read_head(self) -> None:
        """Magic and configuration."""
        take = self.bytes
        if take.take(4) != MAGIC:
            raise StreamError("wrong magic")
        take.expect(4, VERSION, "version")
        take.expect(1, CONFIGURATION, "configuration")
        self.stream.machine = take.take(take.number(4)).decode("ascii")

    def read_iterated(self) -> bool:
        """One section of RAM or of the hash page table; False where the devices begin."""
        take, before = self.bytes, self.bytes.at
        kind = take.number(1)
        if kind in (PART, END):
            number = take.number(4)
            name = self.open[number]
            self._more(name, kind)
        elif kind == START:
            number, name = self._new_section()
            self.open[number] = name
            take.expect(4, 0, "instance")
            self._begin(name, take.number(4))
        else:
            take.at = before
            return False
        self._footer(number)
        self.stream.iterated.append((before, take.at))
        if name == "ram":
            self.stream.ram_sections.append((before, take.at))
        return True

    def _new_section(self) -> tuple[int, str]:
        number = self.bytes.number(4)
        if number != self.next_number:
            raise StreamError(f"section {number} where {self.next_number} is due")
        self.next_number += 1
        return number, self.bytes.text()

    def _footer(self, number: int) -> None:
        self.bytes.expect(1, FOOTER, "footer")
        self.bytes.expect(4, number, "number in the footer")

    def _description(self) -> Any:
        """The devices' descriptions: they come last, and are needed first."""
        data = self.stream.data
        start = data.rindex(b'{"page_size"')
        size = int.from_bytes(data[start - 4 : start], "big")
        if start + size != len(data):
            raise StreamError(f"a description of {size} bytes with {len(data) - start} left")
        self.stream.description = json.loads(data[start:])
        if self.stream.description["page_size"] != PAGE:
            raise StreamError("pages of another size")
        return iter(self.stream.description["devices"])

    def _begin(self, name: str, version: int) -> None:
        take = self.bytes
        if (name, version) == ("ram", 5):
            self.stream.ram_size = take.number(8) - 4
            take.text()
            take.expect(8, self.stream.ram_size, "size of the block")
            take.expect(8, 0x10, "end of sizes")
        elif (name, version) == ("spapr/htab", 1):
            take.number(4)
        else:
            raise StreamError(f"section '{name}' of version {version} begins")

    def _more(self, name: str, kind: int) -> None:
        if name == "ram":
            self._ram()
        else:
            if kind != END:
                raise StreamError("a part of the hash page table")
            self._hash_table()

    def _ram(self) -> None:
        take, stream = self.bytes, self.stream
        while (word := take.number(8)) != 0x10:
            kind, count = word & 0xFFF, word >> 12
            if kind == 0x400:
                for _ in range(count):
                    first, size = take.number(4), take.number(4)
                    stream.pages.update(dict.fromkeys(range(first, first + size)))
            elif kind in (0x800, 0xC00):
                numbers = struct.unpack(f">{count}I", take.take(4 * count))
                self._contents(numbers, packed=kind == 0xC00)
            else:
                raise StreamError(f"record {word:#x} in RAM at {take.at - 8:#x}")

    def _contents(self, numbers: tuple[int, ...], *, packed: bool) -> None:
        take, stream = self.bytes, self.stream
        if packed:
            take.expect(1, 1, "compression other than zlib")
            size = take.number(4)
        else:
            size = len(numbers) * PAGE
        stream.summed.append((self.summed_from, take.at))
        contents = take.take(size)
        self.summed_from = take.at
        if packed:
            contents = zlib.decompress(contents)
        for index, number in enumerate(numbers):
            page = contents[index * PAGE : (index + 1) * PAGE]
            stream.pages[number] = page
            stream.pages_checksum = add_page(stream.pages_checksum, page)

    def _hash_table(self) -> None:
        take = self.bytes
        take.expect(4, 0, "second size of the hash page table")
        while True:
            first, valid, invalid = take.number(4), take.number(2), take.number(2)
            if not valid and not invalid:
                return
            for index in range(first, first + valid):
                self.stream.hash_entries[index] = take.take(16)

    def _full(self, number: int, name: str, entry: dict[str, Any] | None, before: int) -> None:
        instance, version = self.bytes.number(4), self.bytes.number(4)
        if entry is None or (entry["name"], entry["instance_id"]) != (name, instance):
            raise StreamError(f"section '{name}' is not the next in the description: {entry}")
        if entry["version"] != version:
            raise StreamError(f"section '{name}' has version {version}, not {entry['version']}")
        if name == INTEGRITY:
            self.stream.summed.append((self.summed_from, before))
        elif (INTEGRITY, 0) in self.stream.sections:
            raise StreamError(f"section '{name}' behind '{INTEGRITY}'")
        start = self.bytes.at
        state = read_structure(self.bytes, entry)
        section = Section(number, name, instance, version, start, self.bytes.at, state)
        if (name, instance) in self.stream.sections:
            raise StreamError(f"section '{name}', instance {instance}, comes twice")
        self.stream.sections[name, instance] = section
        if name == INTEGRITY:
            self._check_integrity(state, before)

    def _check_integrity(self, state: Structure, before: int) -> None:
        found = state["length"], state["checksum"], state["pages"]
        expected = before, checksum(self.stream), self.stream.pages_checksum
        if found != expected:
            raise StreamError(f"{INTEGRITY} has {found}, the stream is {expected}")


def checksum(stream: SavedStream) -> int:
    """CRC-32 of what the integrity section covers."""
    total = 0
    for start, end in stream.summed:
        total = zlib.crc32(stream.data[start:end], total)
    return total


def add_page(total: int, page: bytes) -> int:
    """The checksum of pages, with one more."""
    words = np.frombuffer(page, "<u4").astype(np.uint64)
    places = np.arange(1, len(words) + 1, dtype=np.uint64)
    plain, weighted = int(words.sum()), int((words * places).sum())
    return ((total ^ plain) * _SUM_FACTOR + weighted) & _M64


_INTEGERS = {
    **{f"uint{bits}": (bits // 8, False) for bits in (8, 16, 32, 64)},
    **{f"int{bits}": (bits // 8, True) for bits in (8, 16, 32, 64)},
    "uint32 equal": (4, False),
}


def read_structure(take: Bytes, entry: dict[str, Any]) -> Structure:
    """Fields and subsections that a description's entry tells of."""
    found = Structure()
    sizes: dict[str, int] = {}
    for item in entry["fields"]:
        name = item["name"]
        start = take.at
        value = _read_field(take, item)
        if item["type"] == "struct":
            pass  # its own fields have been checked
        elif take.at - start != item["size"] * item.get("array_len", 1):
            raise StreamError(f"{name}: {take.at - start} bytes")
        if item["type"] == "uint32" and name.endswith("_size"):
            sizes[name.removesuffix("_size")] = value
        if name in sizes and item["type"] == "buffer" and sizes[name] != item["size"]:
            raise StreamError(f"{name}: {sizes[name]} bytes, its description says {item['size']}")
        if "index" not in item:
            if name in found.fields:
                raise StreamError(f"{name} comes twice in '{entry['vmsd_name']}'")
            found.fields[name] = value
        else:
            array = found.fields.setdefault(name, [])
            if len(array) != item["index"]:
                raise StreamError(f"{name}: index {item['index']} after {len(array)} elements")
            array.append(value)
    for item in entry.get("subsections", ()):
        take.expect(1, SUBSECTION, f"subsection '{item['vmsd_name']}'")
        name, version = take.text(), take.number(4)
        if (name, version) != (item["vmsd_name"], item["version"]):
            raise StreamError(f"subsection '{name}' {version}, not '{item['vmsd_name']}'")
        found.subsections[name] = read_structure(take, item)
    return found


def _read_field(take: Bytes, item: dict[str, Any]) -> Any:
    kind = item["type"]
    if kind == "struct":
        start = take.at
        value = read_structure(take, item["struct"])
        size = fields_size(item["struct"])
        if item["size"] != size:
            raise StreamError(f"{item['name']} is said to have {item['size']} bytes, not {size}")
        if take.at - start < size:
            raise StreamError(f"{item['name']} has {take.at - start} bytes, not {size}")
        return value
    if kind == "buffer":
        return take.take(item["size"])
    count = item.get("array_len", 1)
    if kind == "bool":
        values: list[Any] = [take.number(1) for _ in range(count)]
        if any(value > 1 for value in values):
            raise StreamError(f"{item['name']}: {values} as bool")
        values = [bool(value) for value in values]
    else:
        size, signed = _INTEGERS[kind]
        if size != item["size"]:
            raise StreamError(f"{item['name']}: {kind} of {item['size']} bytes")
        values = [take.number(size, signed=signed) for _ in range(count)]
    return values if "array_len" in item else values[0]


def fields_size(entry: dict[str, Any]) -> int:
    """Bytes of a structure's fields, from its description; subsections of inner ones apart."""
    return sum(
        fields_size(item["struct"])
        if item["type"] == "struct"
        else item["size"] * item.get("array_len", 1)
        for item in entry["fields"]
    )


def lines_of(state: Structure, path: str = "") -> list[str]:
    """Every field as ``path = value``."""
    lines = []
    for name, value in state.fields.items():
        values = enumerate(value) if isinstance(value, list) else [(None, value)]
        for index, one in values:
            place = f"{path}{name}" if index is None else f"{path}{name}.{index}"
            if isinstance(one, Structure):
                lines += lines_of(one, f"{place}.")
            else:
                shown = one.hex() if isinstance(one, bytes) else str(one)
                lines.append(f"{place} = {shown}")
    for name, inner in state.subsections.items():
        lines += lines_of(inner, f"{path}[{name}].")
    return lines


def main() -> int:
    """Print a file."""
    stream = read_stream(Path(sys.argv[1]).read_bytes())
    full = sum(page is not None for page in stream.pages.values())
    print(f"machine {stream.machine}, {stream.ram_size >> 20} MiB of RAM, {full} pages not zero")
    for section in stream.sections.values():
        print(f"{section.name} ({section.instance}), version {section.version}")
        print("\n".join(f"    {line}" for line in lines_of(section.state)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
