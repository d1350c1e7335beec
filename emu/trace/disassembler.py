"""Instructions as text, by capstone, in the byte order that the CPU executes them in."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import capstone

_MASK = (1 << 64) - 1
_MAX_KNOWN = 1 << 17
_RELATIVE = (16, 18)  # primary opcodes of branches whose text depends on the address


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction word at an effective address, and what it says."""

    address: int
    word: int
    text: str  # mnemonic and operands; ``.long`` for what capstone does not know


class Disassembler:
    """Decodes words; one thread at a time."""

    def __init__(self) -> None:
        mode = capstone.CS_MODE_64 | capstone.CS_MODE_BIG_ENDIAN
        self._engine = capstone.Cs(capstone.CS_ARCH_PPC, mode)
        self._known: dict[int, str] = {}

    def text(self, word: int, address: int) -> str:
        """What an instruction word says at an effective address."""
        if word >> 26 in _RELATIVE:
            return self._decode(word, address)
        text = self._known.get(word)
        if text is None:
            if len(self._known) >= _MAX_KNOWN:
                self._known.clear()
            text = self._known[word] = self._decode(word, address)
        return text

    def _decode(self, word: int, address: int) -> str:
        for _, _, mnemonic, operands in self._engine.disasm_lite(word.to_bytes(4, "big"), address):
            return f"{mnemonic} {operands}" if operands else str(mnemonic)
        return f".long 0x{word:08x}"

    def instructions(self, data: bytes, address: int, *, little: bool) -> Iterator[Instruction]:
        """The instructions in ``data``, whole words only; ``little`` is MSR[LE]."""
        count = len(data) // 4
        words = struct.unpack_from(f"{'<' if little else '>'}{count}I", data)
        for word in words:
            yield Instruction(address, word, self.text(word, address))
            address = address + 4 & _MASK
