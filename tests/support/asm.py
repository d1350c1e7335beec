"""A tiny assembler: one function per instruction, named by its mnemonic.

Each returns the 32-bit instruction word (Power ISA v3.0B, appendices of book I to III).
:func:`assemble` turns words and nested lists of words into bytes of either endianness.
Branch displacements are in bytes, relative to the branch itself.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

# Words and iterables of Code, nested; a mixed list is too much for the type checker's inference
Code: TypeAlias = int | Iterable[Any]

NOP = 0x60000000
BLR = 0x4E800020
BCTR = 0x4E800420
RFID = 0x4C000024
RFSCV = 0x4C0000A4
ISYNC = 0x4C00012C
PTESYNC = 0x7C4004AC
SLBIA = 0x7C0003E4
ILLEGAL = 0x00000000
TRAP = 0x7FE00008
WAIT = 0x7C00003C
SC = 0x44000002  # to the operating system
EXIT = 0x44000022  # sc 1: the test's hypercall, which leaves run()
SCV_0 = 0x44000001


def _words(code: Code) -> Iterator[int]:
    if isinstance(code, int):
        yield code & 0xFFFFFFFF
    else:
        for part in code:
            yield from _words(part)


def assemble(*code: Code, little: bool = False) -> bytes:
    """Instruction words in memory order."""
    words = list(_words(code))
    return struct.pack(f"{'<' if little else '>'}{len(words)}I", *words)


def d_form(opcode: int, rt: int, ra: int, immediate: int) -> int:
    """Opcode, two registers and a 16-bit immediate."""
    return opcode << 26 | rt << 21 | ra << 16 | immediate & 0xFFFF


def x_form(opcode: int, rt: int, ra: int, rb: int, xo: int, rc: int = 0) -> int:
    """Opcode, three register fields and a 10-bit extended opcode."""
    return opcode << 26 | rt << 21 | ra << 16 | rb << 11 | xo << 1 | rc


def addi(rt: int, ra: int, value: int) -> int:
    """Add immediate; ``ra`` 0 means zero."""
    return d_form(14, rt, ra, value)


def li(rt: int, value: int) -> int:
    """Load a signed 16-bit immediate."""
    return addi(rt, 0, value)


def li64(rt: int, value: int) -> list[int]:
    """Load a 64-bit constant, five instructions."""
    return [
        d_form(15, rt, 0, value >> 48),  # lis
        d_form(24, rt, rt, value >> 32),  # ori
        0x780007C6 | rt << 21 | rt << 16,  # sldi rt, rt, 32
        d_form(25, rt, rt, value >> 16),  # oris
        d_form(24, rt, rt, value),  # ori
    ]


def add(rt: int, ra: int, rb: int) -> int:
    """Add."""
    return x_form(31, rt, ra, rb, 266)


def addo_(rt: int, ra: int, rb: int) -> int:
    """Add, recording CR0 and the overflow bits."""
    return x_form(31, rt, ra, rb, 266 | 512, 1)


def adde(rt: int, ra: int, rb: int) -> int:
    """Add extended: with XER[CA]."""
    return x_form(31, rt, ra, rb, 138)


def xor(ra: int, rs: int, rb: int) -> int:
    """Exclusive or."""
    return x_form(31, rs, ra, rb, 316)


def mr(ra: int, rs: int) -> int:
    """Move register."""
    return x_form(31, rs, ra, rs, 444)


def rotldi(ra: int, rs: int, count: int) -> int:
    """Rotate left doubleword."""
    return 30 << 26 | rs << 21 | ra << 16 | (count & 31) << 11 | (count >> 5) << 1


def cmpd(ra: int, rb: int) -> int:
    """Compare signed doublewords into CR0."""
    return x_form(31, 1, ra, rb, 0)


def b(offset: int) -> int:
    """Branch."""
    return 18 << 26 | offset & 0x3FFFFFC


def bc(bo: int, bi: int, offset: int) -> int:
    """Branch conditional."""
    return 16 << 26 | bo << 21 | bi << 16 | offset & 0xFFFC


def bdnz(offset: int) -> int:
    """Decrement CTR and branch while it is not zero."""
    return bc(16, 0, offset)


def bne(offset: int) -> int:
    """Branch unless CR0 says equal."""
    return bc(4, 2, offset)


def blt(offset: int) -> int:
    """Branch if CR0 says less."""
    return bc(12, 0, offset)


def lbz(rt: int, ra: int, offset: int = 0) -> int:
    """Load byte."""
    return d_form(34, rt, ra, offset)


def lhz(rt: int, ra: int, offset: int = 0) -> int:
    """Load halfword."""
    return d_form(40, rt, ra, offset)


def lwz(rt: int, ra: int, offset: int = 0) -> int:
    """Load word."""
    return d_form(32, rt, ra, offset)


def ld(rt: int, ra: int, offset: int = 0) -> int:
    """Load doubleword."""
    return d_form(58, rt, ra, offset & 0xFFFC)


def stb(rs: int, ra: int, offset: int = 0) -> int:
    """Store byte."""
    return d_form(38, rs, ra, offset)


def sth(rs: int, ra: int, offset: int = 0) -> int:
    """Store halfword."""
    return d_form(44, rs, ra, offset)


def stw(rs: int, ra: int, offset: int = 0) -> int:
    """Store word."""
    return d_form(36, rs, ra, offset)


def std(rs: int, ra: int, offset: int = 0) -> int:
    """Store doubleword."""
    return d_form(62, rs, ra, offset & 0xFFFC)


def lfd(frt: int, ra: int, offset: int = 0) -> int:
    """Load floating-point double."""
    return d_form(50, frt, ra, offset)


def fadd(frt: int, fra: int, frb: int) -> int:
    """Floating add."""
    return 63 << 26 | frt << 21 | fra << 16 | frb << 11 | 21 << 1


def fdiv(frt: int, fra: int, frb: int) -> int:
    """Floating divide."""
    return 63 << 26 | frt << 21 | fra << 16 | frb << 11 | 18 << 1


def vadduwm(vrt: int, vra: int, vrb: int) -> int:
    """Vector add words."""
    return 4 << 26 | vrt << 21 | vra << 16 | vrb << 11 | 128


def xxlxor(xt: int, xa: int, xb: int) -> int:
    """VSX exclusive or of VSRs 0 to 31."""
    return 60 << 26 | xt << 21 | xa << 16 | xb << 11 | 154 << 3


def lwarx(rt: int, ra: int, rb: int) -> int:
    """Load word and reserve."""
    return x_form(31, rt, ra, rb, 20)


def ldarx(rt: int, ra: int, rb: int) -> int:
    """Load doubleword and reserve."""
    return x_form(31, rt, ra, rb, 84)


def stwcx(rs: int, ra: int, rb: int) -> int:
    """Store word conditional."""
    return x_form(31, rs, ra, rb, 150, 1)


def stdcx(rs: int, ra: int, rb: int) -> int:
    """Store doubleword conditional."""
    return x_form(31, rs, ra, rb, 214, 1)


def dcbz(ra: int, rb: int) -> int:
    """Zero a cache block."""
    return x_form(31, 0, ra, rb, 1014)


def _spr(number: int) -> int:
    return (number & 31) << 16 | (number >> 5) << 11


def mtspr(number: int, rs: int) -> int:
    """Move to special purpose register."""
    return 31 << 26 | rs << 21 | _spr(number) | 467 << 1


def mfspr(rt: int, number: int) -> int:
    """Move from special purpose register."""
    return 31 << 26 | rt << 21 | _spr(number) | 339 << 1


def mtmsrd(rs: int, L: int = 0) -> int:
    """Move to machine state register."""
    return x_form(31, rs, L, 0, 178)


def mfmsr(rt: int) -> int:
    """Move from machine state register."""
    return x_form(31, rt, 0, 0, 83)


def mtctr(rs: int) -> int:
    """Move to count register."""
    return mtspr(9, rs)


def slbmte(rs: int, rb: int) -> int:
    """SLB move to entry."""
    return x_form(31, rs, 0, rb, 402)


def slbmfee(rt: int, rb: int) -> int:
    """SLB move from entry, ESID part."""
    return x_form(31, rt, 0, rb, 915)


def slbmfev(rt: int, rb: int) -> int:
    """SLB move from entry, VSID part."""
    return x_form(31, rt, 0, rb, 851)


def slbie(rb: int) -> int:
    """SLB invalidate entry."""
    return x_form(31, 0, 0, rb, 434)


def tlbie(rb: int, rs: int, ric: int = 0, prs: int = 0, r: int = 0) -> int:
    """TLB invalidate entry, on every processor."""
    return x_form(31, rs, ric << 2 | prs << 1 | r, rb, 306)


def tlbiel(rb: int, rs: int, ric: int = 0, prs: int = 0, r: int = 0) -> int:
    """TLB invalidate entry, on this processor."""
    return x_form(31, rs, ric << 2 | prs << 1 | r, rb, 274)


def twi(to: int, ra: int, value: int) -> int:
    """Trap word immediate."""
    return d_form(3, to, ra, value)


def stwbrx(rs: int, ra: int, rb: int) -> int:
    """Store word byte-reversed."""
    return x_form(31, rs, ra, rb, 662)


def mtfsf(frb: int) -> int:
    """Move a whole FPR to the FPSCR (L=1)."""
    return 63 << 26 | 1 << 25 | frb << 11 | 711 << 1


def mtfsb1(bit: int) -> int:
    """Set an FPSCR bit (numbered from the left, 0 to 31)."""
    return 63 << 26 | bit << 21 | 38 << 1


def msgsndp(rb: int) -> int:
    """Send a directed privileged doorbell."""
    return x_form(31, 0, 0, rb, 142)
