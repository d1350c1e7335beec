"""From the records of a log's ring to lines of text."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from emu.cpu.isa import MSR_DR, MSR_IR, MSR_LE, MSR_PR, Excp
from emu.trace.disassembler import Disassembler
from emu.trace.record import ASYNCHRONOUS, LITTLE_ENDIAN, Flush, Kind
from emu.trace.symbols import Symbol, describe
from machines.pseries.papr import HcallNumber

#: Interrupt vectors (Power ISA v3.0B, book III, 6.5, and 4.3.1 for scv)
VECTORS = {
    0x100: "system reset",
    0x200: "machine check",
    0x300: "data storage",
    0x380: "data segment",
    0x400: "instruction storage",
    0x480: "instruction segment",
    0x500: "external",
    0x600: "alignment",
    0x700: "program",
    0x800: "floating-point unavailable",
    0x900: "decrementer",
    0xA00: "directed privileged doorbell",
    0xC00: "system call",
    0xD00: "trace",
    0xF00: "performance monitor",
    0xF20: "vector unavailable",
    0xF40: "VSX unavailable",
    0xF60: "facility unavailable",
    0x3000: "system call vectored",
}
_SCV_VECTORS = {0x17000, 0xC000000000003000}
_WITH_DAR = {0x200, 0x300, 0x380, 0x600}
_SYSTEM_CALLS = {0xC00, 0x3000}
_ORDERS = ("(big-endian)", "(little-endian)")
_MASK = (1 << 64) - 1
_ACCESS = ("load", "store", "fetch")
_FLUSHES: dict[int, str] = {
    Flush.SYNC: "TLB synchronised on all CPUs",
    Flush.ALL: "TLB flushed",
}
_CAUSES: dict[int, str] = {cause.value: cause.name for cause in Excp}
_INTERRUPT_CALLS = {
    *(HcallNumber.H_EOI, HcallNumber.H_CPPR, HcallNumber.H_IPI),
    *(HcallNumber.H_XIRR, HcallNumber.H_XIRR_X),
}
_HCALLS: dict[int, str] = {call.value: call.name for call in HcallNumber}
Find = Callable[[int], Symbol | None]


def vector_of(nip: int) -> int:
    """The vector that an address is, wherever LPCR[AIL] puts it."""
    return 0x3000 if nip in _SCV_VECTORS else nip & 0xFFF


def vector_name(nip: int) -> str:
    """What a vector's address is for."""
    vector = vector_of(nip)
    return VECTORS.get(vector, f"vector {vector:#x}")


@lru_cache(256)
def msr_text(msr: int) -> str:
    """MSR with the modes that tell most."""
    modes = ["LE" if msr & MSR_LE else "BE"]
    modes += [name for bit, name in ((MSR_PR, "PR"), (MSR_IR, "IR"), (MSR_DR, "DR")) if msr & bit]
    return f"{msr:016x} ({' '.join(modes)})"


class LineMaker:
    """Makes the log's text; one thread at a time.

    ``find`` names addresses.  With more than one vCPU, lines carry its number.
    """

    def __init__(self, find: Find, *, many: bool) -> None:
        self._find = find
        self._many = many
        self._disassembler = Disassembler()
        # Loops execute the same blocks again and again
        self._exec_line = lru_cache(1 << 16)(self._make_exec_line)
        self._makers: dict[int, Callable[[int, int, list[int]], str]] = {
            Kind.BLOCK: self._block,
            Kind.EXEC: self._exec,
            Kind.CPU: self._cpu,
            Kind.INTERRUPT: self._interrupt,
            Kind.FAULT: self._fault,
            Kind.FLUSH: self._flush,
            Kind.HCALL: self._hcall,
        }

    def forget(self) -> None:
        """Symbols have changed."""
        self._exec_line.cache_clear()

    def text(self, words: npt.NDArray[np.uint64]) -> str:
        """The lines of whole records."""
        values: list[int] = words.tolist()
        parts = []
        at = 0
        while at < len(values):
            header = values[at]
            length = max(header >> 16 & 0xFFFF, 1)
            maker = self._makers.get(header & 0xFF)
            if maker is not None:
                record = values[at + 1 : at + length]
                parts.append(maker(header >> 8 & 0xFF, header >> 32, record))
            at += length
        return "".join(parts)

    def _named(self, address: int) -> str:
        name = describe(self._find(address), address)
        return f"{address:#018x} <{name}>" if name else f"{address:#018x}"

    def _prefix(self, item: str, vcpu: int) -> str:
        return f"{item}: CPU#{vcpu} " if self._many else f"{item}: "

    def _block(self, vcpu: int, extra: int, record: list[int]) -> str:
        start, little, size = record[0], bool(extra & LITTLE_ENDIAN), extra & 0xFFFF
        data = struct.pack(f"<{len(record) - 1}Q", *record[1:])
        name = describe(self._find(start), start)
        words = ["IN:", name, f"CPU#{vcpu}" if self._many else "", _ORDERS[little]]
        lines = ["----------------", " ".join(word for word in words if word)]
        decode, address = self._disassembler.text, start
        for word in struct.unpack_from(f"{'<' if little else '>'}{size // 4}I", data):
            text = decode(word, address)
            if text[0] == "b":
                text = self._with_target(text)
            lines.append(f"{address:#018x}:  {word:08x}  {text}")
            address = address + 4 & _MASK
        return "\n".join([*lines, "", ""])

    def _with_target(self, text: str) -> str:
        """Add the name of a branch's target."""
        last = text.rpartition(" ")[2]
        if not last.startswith("0x"):
            return text
        target = int(last, 16)
        name = describe(self._find(target), target)
        return f"{text} <{name}>" if name else text

    def _make_exec_line(self, vcpu: int, address: int) -> str:
        return f"Trace {vcpu}: {self._named(address)}\n"

    def _exec(self, vcpu: int, _extra: int, record: list[int]) -> str:
        return self._exec_line(vcpu, record[0])

    def _cpu(self, vcpu: int, _extra: int, record: list[int]) -> str:
        nip, msr, lr, ctr, xer, cr = record[:6]
        lines = [
            f"CPU#{vcpu} NIP {nip:016x}   LR {lr:016x} CTR {ctr:016x} XER {xer:016x}",
            f"MSR {msr:016x}   CR {cr:08x}",
        ]
        for first in range(0, 32, 4):
            values = " ".join(f"{value:016x}" for value in record[6 + first : 10 + first])
            lines.append(f"GPR{first:02} {values}")
        return "\n".join([*lines, ""])

    def _interrupt(self, vcpu: int, extra: int, record: list[int]) -> str:
        nip, msr, new_nip, new_msr, dar, dsisr, r0, r3, r4, r5, r6 = record
        vector = vector_of(new_nip)
        line = f"{self._prefix('int', vcpu)}{vector_name(new_nip)} ({vector:#x}) at"
        line += f" {self._named(nip)} MSR {msr_text(msr)} -> {self._named(new_nip)}"
        line += f" MSR {msr_text(new_msr)}"
        if vector in _WITH_DAR:
            line += f" DAR {dar:#x} DSISR {dsisr:#x}"
        if vector in _SYSTEM_CALLS:
            line += f" r0 {r0} r3 {r3:#x} r4 {r4:#x} r5 {r5:#x} r6 {r6:#x}"
        if not extra & ASYNCHRONOUS and extra == Excp.HV_EMU and vector == 0x700:
            line += " (not an instruction of a guest)"
        return line + "\n"

    def _fault(self, vcpu: int, extra: int, record: list[int]) -> str:
        address, status = record
        cause, access, mode = extra & 0xFF, extra >> 8 & 0xFF, extra >> 16 & 0xFF
        name = _CAUSES.get(cause) or f"cause {cause}"
        where = "real mode" if mode & 2 else "relocated"
        state = "privileged" if mode & 1 else "problem state"
        what = "SRR1" if access == 2 else "DSISR"
        kind = _ACCESS[access] if access < len(_ACCESS) else f"access {access}"
        return (
            f"{self._prefix('mmu', vcpu)}{kind} {self._named(address)}, {where}, {state}: {name}"
            f" {what} {status:#x}\n"
        )

    def _flush(self, vcpu: int, extra: int, record: list[int]) -> str:
        word, pid = record
        if extra == Flush.TLBIE:
            scope = ("page", "set", "process", "everything")[word >> 10 & 3]
            return f"{self._prefix('mmu', vcpu)}tlbie RB {word:#x} ({scope}), PID {pid}\n"
        what = _FLUSHES.get(extra) or f"flush {extra}"
        return f"{self._prefix('mmu', vcpu)}{what}, PID {pid}\n"

    def _hcall(self, vcpu: int, extra: int, record: list[int]) -> str:
        code, r4, r5, r6, r7, result = record
        name = _HCALLS.get(extra) or f"{extra:#x}"
        signed = code - (1 << 64) if code >> 63 else code
        arguments = f"{r4:#x}, {r5:#x}, {r6:#x}, {r7:#x}"
        item = "irq" if extra in _INTERRUPT_CALLS else "mmu"
        return f"{self._prefix(item, vcpu)}{name}({arguments}) -> {signed}, r4 {result:#x}\n"
