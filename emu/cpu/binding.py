"""Replacing functions inside the Unicorn library.

Calls between Unicorn's own translation units go through its procedure linkage table, whose
slots lie in writable memory; storing the address of a Numba ``@cfunc`` in a slot replaces the
function for the whole process.  Slots are found by symbol name in the ELF relocations of the
loaded file.
"""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from emu.cpu.errors import UnicornError

_JUMP_SLOT = {"EM_X86_64": 7, "EM_AARCH64": 1026}
_RELA = np.dtype([("offset", "<u8"), ("type", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])
_SYMBOL = np.dtype(
    [
        ("name", "<u4"),
        ("info", "u1"),
        ("other", "u1"),
        ("index", "<u2"),
        ("value", "<u8"),
        ("size", "<u8"),
    ]
)


class JumpSlots:
    """The library's PLT slots by symbol name.

    Raises :class:`UnicornError` when a name has no slot: the build differs from the known one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._base = _load_address(path)
        self._offsets = _jump_slot_offsets(path)

    def bind(self, name: str, address: int) -> None:
        """Make the library's calls of ``name`` go to native code at ``address``."""
        try:
            offset = self._offsets[name]
        except KeyError:
            raise UnicornError(
                f"{self._path.name}: no linkage slot for {name}; this is not the Unicorn 2.1.4 "
                "build that ppc64emu knows"
            ) from None
        ctypes.c_uint64.from_address(self._base + offset).value = address


def _load_address(path: Path) -> int:
    """Address at which the library file is mapped."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            fields = line.split()
            if len(fields) >= 6 and fields[5] == str(path.resolve()) and int(fields[2], 16) == 0:
                return int(fields[0].split("-")[0], 16)
    raise UnicornError(f"{path}: not mapped in this process")


def _jump_slot_offsets(path: Path) -> dict[str, int]:
    with path.open("rb") as stream:
        elf = ELFFile(stream)
        machine = elf["e_machine"]
        if machine not in _JUMP_SLOT:
            raise UnicornError(f"{path.name}: unsupported host architecture {machine}")
        plt = elf.get_section_by_name(".rela.plt")
        symbols = elf.get_section_by_name(".dynsym")
        if plt is None or not isinstance(symbols, SymbolTableSection):
            raise UnicornError(f"{path.name}: no procedure linkage table")
        relocations = np.frombuffer(plt.data(), _RELA)
        table = np.frombuffer(symbols.data(), _SYMBOL)
        strings: bytes = elf.get_section(symbols["sh_link"]).data()
    slots = relocations[relocations["type"] == _JUMP_SLOT[machine]]
    return {_name(strings, table[int(r["symbol"])]): int(r["offset"]) for r in slots}


def _name(strings: bytes, symbol: Any) -> str:
    start = int(symbol["name"])
    return strings[start : strings.index(b"\0", start)].decode()
