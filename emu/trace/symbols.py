"""Names of guest addresses: from ELF files and from lists in the form of /proc/kallsyms."""

from __future__ import annotations

import bisect
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from emu.chardev.config import ConfigError
from emu.config_trace import SymbolFile

_SYMBOL = [
    ("name", "u4"),
    ("info", "u1"),
    ("other", "u1"),
    ("section", "u2"),
    ("value", "u8"),
    ("size", "u8"),
]
_SHF_ALLOC, _SHF_EXECINSTR = 2, 4
_NOTYPE, _OBJECT, _FUNC = 0, 1, 2
_LOCAL = 0
_LIMIT = 1 << 64
_MAX_LIST = 64 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Symbol:
    """A name for the addresses ``start`` to ``end`` (exclusive); ``code``: instructions."""

    start: int
    end: int
    name: str
    code: bool = True


class SymbolTable:
    """Symbols by address.  Build it, then look up; lookups may come from any thread."""

    def __init__(self, symbols: Iterable[Symbol] = ()) -> None:
        self._symbols: list[Symbol] = []
        self._starts: list[int] = []
        self._by_name: dict[str, int] = {}
        self.add(symbols)

    def __len__(self) -> int:
        return len(self._symbols)

    def add(self, symbols: Iterable[Symbol]) -> None:
        """Add symbols; where two begin at one address the earlier one stays."""
        merged = {symbol.start: symbol for symbol in symbols}
        merged.update({symbol.start: symbol for symbol in self._symbols})
        self._symbols = [merged[start] for start in sorted(merged)]
        self._starts = [symbol.start for symbol in self._symbols]
        self._by_name = {symbol.name: symbol.start for symbol in reversed(self._symbols)}

    def find(self, address: int) -> Symbol | None:
        """The symbol that an address belongs to."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0 or address >= self._symbols[index].end:
            return None
        return self._symbols[index]

    def address_of(self, name: str) -> int | None:
        """Where a symbol starts."""
        return self._by_name.get(name)

    def __iter__(self) -> Iterator[Symbol]:
        return iter(self._symbols)


def describe(symbol: Symbol | None, address: int) -> str:
    """``name+0x10``, or nothing."""
    if symbol is None:
        return ""
    offset = address - symbol.start
    return f"{symbol.name}+{offset:#x}" if offset else symbol.name


def load_symbols(file: SymbolFile) -> list[Symbol]:
    """Read an ELF file's symbols or a list of them.

    ``address`` is where the lowest loadable segment of an ELF file lies in the guest, .text of a
    relocatable object, or what to add to the addresses of a list.  Raises :class:`ConfigError`.
    """
    path = Path(file.path)
    try:
        with path.open("rb") as stream:
            if stream.read(4) == b"\x7fELF":
                return _read_elf(path, file.address)
        return _read_list(path, file.address or 0)
    except OSError as error:
        raise ConfigError(f"{file.path}: {error.strerror}", "symbols") from error


def _read_elf(path: Path, address: int | None) -> list[Symbol]:
    with path.open("rb") as stream:
        try:
            elf = ELFFile(stream)
            if elf.elfclass != 64 or elf["e_machine"] != "EM_PPC64":
                raise ConfigError(f"{path}: not a 64-bit PowerPC ELF file", "symbols")
            return _elf_symbols(elf, address)
        except (ELFError, ValueError, KeyError, IndexError, AttributeError, OverflowError) as error:
            what = str(error) or type(error).__name__
            raise ConfigError(f"{path}: damaged ELF file: {what}", "symbols") from error


def _elf_symbols(elf: Any, address: int | None) -> list[Symbol]:
    table = elf.get_section_by_name(".symtab") or elf.get_section_by_name(".dynsym")
    if table is None:
        return []
    sections = list(elf.iter_sections())
    shift, only = _placement(elf, sections, address)
    names: bytes = sections[table["sh_link"]].data()
    order = "<" if elf.little_endian else ">"
    entries = np.frombuffer(table.data(), np.dtype([(n, order + t) for n, t in _SYMBOL]))
    opd = _descriptors(elf, sections)
    wanted = [
        bool(section["sh_flags"] & _SHF_ALLOC) and (only is None or number == only)
        for number, section in enumerate(sections)
    ]
    # Best last: functions before data before labels, global before local
    ranked: dict[int, tuple[int, int, str, int]] = {}
    for name, info, _other, index, value, size in entries.tolist():
        kind = info & 15
        if kind > _FUNC or not 0 < index < len(wanted) or not wanted[index]:
            continue
        if index == opd[0]:
            value, index = opd[1].get(value, (0, 0))
            if index == 0:
                continue
        text = names[name : names.find(b"\0", name)].decode("utf-8", "replace")
        if not text or text[0] == "$":
            continue
        rank = (kind == _FUNC) * 4 + (kind == _OBJECT) * 2 + (info >> 4 != _LOCAL)
        if value not in ranked or ranked[value][0] < rank:
            ranked[value] = (rank, size, _printable(text), index)
    return _with_ends(ranked, sections, shift)


def _placement(elf: Any, sections: list[Any], address: int | None) -> tuple[int, int | None]:
    """What to add to symbol values, and the only section to take symbols from."""
    if elf["e_type"] == "ET_REL":
        text = [i for i, section in enumerate(sections) if section.name == ".text"]
        if address is None or not text:
            raise ConfigError("a relocatable object needs the address of its .text", "symbols")
        return address, text[0]
    if address is None:
        return 0, None
    loads = [s["p_vaddr"] for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"]
    return address - min(loads, default=0), None


def _descriptors(elf: Any, sections: list[Any]) -> tuple[int, dict[int, tuple[int, int]]]:
    """ELFv1: index of .opd, and for each function descriptor's address its code and section."""
    found = [i for i, section in enumerate(sections) if section.name == ".opd"]
    if not found or sections[found[0]]["sh_type"] == "SHT_NOBITS":
        return -1, {}
    section = sections[found[0]]
    data = section.data()
    words = np.frombuffer(data[: len(data) & ~7], "<u8" if elf.little_endian else ">u8").tolist()
    base = section["sh_addr"]
    code = [
        (other["sh_addr"], other["sh_addr"] + other["sh_size"], number)
        for number, other in enumerate(sections)
        if other["sh_flags"] & _SHF_EXECINSTR
    ]
    entries = {}
    for position, word in enumerate(words):
        for first, end, number in code:
            if first <= word < end:
                entries[base + 8 * position] = (word, number)
                break
    return found[0], entries


def _with_ends(
    ranked: dict[int, tuple[int, int, str, int]], sections: list[Any], shift: int
) -> list[Symbol]:
    """A symbol ends after its size or, without one, where the next or its section does."""
    result = []
    limits = [section["sh_addr"] + section["sh_size"] for section in sections]
    starts = sorted(ranked)
    for start, following in zip(starts, [*starts[1:], _LIMIT][: len(starts)], strict=True):
        _rank, size, name, index = ranked[start]
        end = min(start + size if size else following, following)
        if not size:
            end = min(end, max(limits[index], start + 4))
        if 0 <= start + shift < end + shift <= _LIMIT:
            code = bool(sections[index]["sh_flags"] & _SHF_EXECINSTR)
            result.append(Symbol(start + shift, end + shift, name, code))
    return result


def _read_list(path: Path, shift: int) -> list[Symbol]:
    """Lines of address, type letter, name and possibly a module, as in System.map."""
    if os.stat(path).st_size > _MAX_LIST:
        raise ConfigError(f"{path}: too long for a list of symbols", "symbols")
    found: dict[int, tuple[str, bool]] = {}
    for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            address = int(words[0], 16) + shift
        except ValueError:
            address = -1
        if len(words) not in (3, 4) or len(words[1]) != 1 or not 0 <= address < _LIMIT:
            raise ConfigError(
                f"{path}, line {number}: neither an ELF file nor lines of address, type and name",
                "symbols",
            )
        if words[1] not in "aAU":
            found.setdefault(address, (_printable(" ".join(words[2:])), words[1] in "tTwWi"))
    starts = sorted(found)
    ends = [*starts[1:], starts[-1] + (1 << 16) if starts else 0]
    return [
        Symbol(start, min(end, _LIMIT), *found[start])
        for start, end in zip(starts, ends, strict=True)
        if start < end
    ]


def _printable(name: str) -> str:
    if name.isprintable() and " " not in name and ";" not in name:
        return name
    return "".join(c if c.isprintable() and c not in " ;" else "_" for c in name)
