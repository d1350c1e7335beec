"""Writes small ELF files with sections and symbols, of either byte order and ABI."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

NOTYPE, OBJECT, FUNC, SECTION, FILE = 0, 1, 2, 3, 4
LOCAL, GLOBAL = 0, 1
WRITE, ALLOC, EXECINSTR = 1, 2, 4
_PROGBITS, _SYMTAB, _STRTAB = 1, 2, 3
_EHDR, _PHDR = 64, 56


@dataclass(frozen=True)
class Section:
    """A section with contents; `address` 0 and no flags for one that is not loaded."""

    name: str
    address: int
    data: bytes
    flags: int = ALLOC


@dataclass(frozen=True)
class Entry:
    """One symbol; `section` names where it is."""

    name: str
    section: str
    value: int
    size: int = 0
    kind: int = FUNC
    binding: int = GLOBAL


def symbol_elf(
    sections: Sequence[Section],
    entries: Sequence[Entry],
    *,
    order: str = "<",
    e_type: int = 2,
    machine: int = 21,
    load_address: int | None = None,
) -> bytes:
    """The file; `load_address` adds a PT_LOAD segment there."""
    strings, names = b"\0", b"\0"
    table = bytes(24)
    index = {section.name: number for number, section in enumerate(sections, 1)}
    for entry in entries:
        table += struct.pack(
            order + "IBBHQQ",
            len(strings),
            entry.binding << 4 | entry.kind,
            0,
            index[entry.section],
            entry.value,
            entry.size,
        )
        strings += entry.name.encode() + b"\0"
    bodies = [
        *((s.name, _PROGBITS, s.flags, s.address, s.data, 0) for s in sections),
        (".symtab", _SYMTAB, 0, 0, table, len(sections) + 2),
        (".strtab", _STRTAB, 0, 0, strings, 0),
    ]
    names += b"".join(name.encode() + b"\0" for name, *_ in bodies) + b".shstrtab\0"
    bodies.append((".shstrtab", _STRTAB, 0, 0, names, 0))
    phnum = int(load_address is not None)
    at = _EHDR + _PHDR * phnum
    data, headers = b"", bytes(64)
    for name, kind, flags, address, body, link in bodies:
        where = names.index(name.encode() + b"\0")
        size = 24 if kind == _SYMTAB else 0
        headers += struct.pack(
            order + "IIQQQQIIQQ", where, kind, flags, address, at + len(data), len(body), link, 1,
            8, size,
        )  # fmt: skip
        data += body
    segment = b""
    if load_address is not None:
        segment = struct.pack(
            order + "IIQQQQQQ", 1, 5, at, load_address, load_address, len(data), len(data), 0x1000
        )
    ident = b"\x7fELF" + bytes([2, 1 if order == "<" else 2, 1]) + bytes(9)
    head = struct.pack(
        order + "HHIQQQIHHHHHH",
        e_type,
        machine,
        1,
        load_address or 0,
        _EHDR if phnum else 0,
        at + len(data),
        0,
        _EHDR,
        _PHDR,
        phnum,
        64,
        len(bodies) + 1,
        len(bodies),
    )
    return ident + head + segment + data + headers
