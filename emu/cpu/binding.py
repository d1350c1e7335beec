"""Replacing functions inside the Unicorn library.

Calls between Unicorn's own translation units go through its procedure linkage table, whose
slots lie in writable memory; storing the address of a Numba ``@cfunc`` in a slot replaces the
function for the whole process.  Slots are found by symbol name in the ELF relocations of the
loaded file.
"""

from __future__ import annotations

import ctypes
import mmap
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from emu.cpu.errors import UnicornError

_JUMP_SLOT = {62: 7, 183: 1026}  # of EM_X86_64 and EM_AARCH64
_ELF64_LITTLE = b"\x7fELF\x02\x01"
_BYTE: np.dtype[Any] = np.dtype("u1")
_HEADER = np.dtype(
    {
        "names": ["ident", "machine", "sections", "section_count", "names"],
        "formats": ["V16", "<u2", "<u8", "<u2", "<u2"],
        "offsets": [0, 18, 40, 60, 62],
        "itemsize": 64,
    }
)
_SECTION = np.dtype(
    {
        "names": ["name", "offset", "size", "link"],
        "formats": ["<u4", "<u8", "<u8", "<u4"],
        "offsets": [0, 24, 32, 40],
        "itemsize": 64,
    }
)
_SYMBOL = np.dtype({"names": ["name"], "formats": ["<u4"], "offsets": [0], "itemsize": 24})
_RELA = np.dtype([("offset", "<u8"), ("type", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])


class JumpSlots:
    """The library's PLT slots by symbol name.

    Raises :class:`UnicornError` when a name has no slot: the build differs from the known one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._base = _load_address(path)
        self._offsets = _jump_slot_offsets(path)

    def address(self, name: str) -> int:
        """Where the slot of a function is; UnicornError if there is none."""
        try:
            return self._base + self._offsets[name.encode()]
        except KeyError:
            raise UnicornError(
                f"{self._path.name}: no linkage slot for {name}; this is not the Unicorn 2.1.4 "
                "build that ppc64emu knows"
            ) from None

    def bind(self, name: str, address: int) -> None:
        """Make the library's calls of ``name`` go to native code at ``address``."""
        ctypes.c_uint64.from_address(self.address(name)).value = address


def _load_address(path: Path) -> int:
    """Address at which the library file is mapped."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            fields = line.split()
            if len(fields) >= 6 and fields[5] == str(path.resolve()) and int(fields[2], 16) == 0:
                return int(fields[0].split("-")[0], 16)
    raise UnicornError(f"{path}: not mapped in this process")


def _jump_slot_offsets(path: Path) -> dict[bytes, int]:
    """Offsets of the PLT's slots, by name (System V ABI, chapters 4 and 5)."""
    with path.open("rb") as file:
        image = np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    header = image[: _HEADER.itemsize].view(_HEADER)[0]
    if bytes(header["ident"])[:6] != _ELF64_LITTLE or int(header["machine"]) not in _JUMP_SLOT:
        raise UnicornError(f"{path.name}: unsupported host architecture {int(header['machine'])}")

    def table(at: int, size: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        return image[at : at + size].view(dtype)

    def contents(section: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        return table(int(section["offset"]), int(section["size"]), dtype)

    count = int(header["section_count"])
    sections = table(int(header["sections"]), count * _SECTION.itemsize, _SECTION)
    names = contents(sections[int(header["names"])], _BYTE).tobytes()
    found = {_name(names, section): section for section in sections}
    try:
        plt, symbols = found[b".rela.plt"], found[b".dynsym"]
    except KeyError:
        raise UnicornError(f"{path.name}: no procedure linkage table") from None
    relocations = contents(plt, _RELA)
    slots = relocations[relocations["type"] == _JUMP_SLOT[int(header["machine"])]]
    starts = contents(symbols, _SYMBOL)["name"][slots["symbol"]]
    strings = contents(sections[int(symbols["link"])], _BYTE).tobytes()
    return {
        strings[start : strings.index(b"\0", start)]: offset
        for start, offset in zip(starts.tolist(), slots["offset"].tolist(), strict=True)
    }


def _name(strings: bytes, entry: npt.NDArray[Any]) -> bytes:
    start = int(entry["name"])
    return strings[start : strings.index(b"\0", start)]
