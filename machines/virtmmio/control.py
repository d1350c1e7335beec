"""What a hypervisor would set for the guest, "ppc64emu,cpu-control": five 32-bit registers.

The CPU has no hypervisor state (MSR[HV] is 0), so a guest cannot write SDR1, PTCR or LPCR itself.
All are big-endian: table address (high, low), log2 of the table's size in bytes, translation
(0 none, 1 hashed page table, 2 radix with a process table; writing it puts the three others into
effect), and the byte order of interrupt handlers (LPCR[ILE]; 0 big, 1 little).
"""

from __future__ import annotations

import enum

from emu.cpu.isa import LPCR_HR, LPCR_ILE, Spr
from emu.cpu.partition import Partition
from emu.cpu.vcpu import Vcpu
from emu.log import guest_error

TABLE_HIGH, TABLE_LOW, TABLE_SIZE, TRANSLATION, INTERRUPT_LITTLE = 0x00, 0x04, 0x08, 0x0C, 0x10
_NAME = "cpu-control"
_UINT32 = 0xFFFFFFFF
_LPCR_UPRT = 1 << 22
_MIN_HASH_SHIFT, _MAX_HASH_SHIFT = 18, 46
_MIN_PROCESS_SHIFT, _MAX_PROCESS_SHIFT = 12, 36


class Translation(enum.IntEnum):
    """What MSR[IR] and MSR[DR] switch on."""

    NONE = 0
    HASH = 1
    RADIX = 2


class CpuControl:
    """Handler of the registers.  vCPU thread."""

    def __init__(self, partition: Partition, vcpu: Vcpu) -> None:
        self._partition = partition
        self._vcpu = vcpu
        #: Table address and log2 of its size as written, not in effect yet
        self.written = (0, 0)
        #: Translation, table address and log2 of its size in effect
        self.selected = (int(Translation.NONE), 0, 0)

    def reset(self, *, little_endian: bool = False) -> None:
        """No tables; interrupt handlers in the byte order of the image that starts."""
        self.written = (0, 0)
        self.select(Translation.NONE, 0, 0)
        self._change_lpcr(LPCR_ILE, LPCR_ILE if little_endian else 0)

    def mmio_read(self, offset: int, size: int) -> bytes:
        """What was written, or is in effect."""
        if size != 4:
            return bytes(size)
        table, shift = self.written
        registers = {
            TABLE_HIGH: table >> 32,
            TABLE_LOW: table & _UINT32,
            TABLE_SIZE: shift,
            TRANSLATION: self.selected[0],
            INTERRUPT_LITTLE: int(bool(self._vcpu.spr(Spr.LPCR) & LPCR_ILE)),
        }
        return registers.get(offset, 0).to_bytes(4, "big")

    def mmio_write(self, offset: int, data: bytes) -> None:
        """A register; what cannot be is ignored."""
        value = int.from_bytes(data, "big")
        table, shift = self.written
        if len(data) != 4:
            guest_error(_NAME, "write of %d bytes to register %#x", len(data), offset)
        elif offset == TABLE_HIGH:
            self.written = (table & _UINT32 | value << 32, shift)
        elif offset == TABLE_LOW:
            self.written = (table & ~_UINT32 | value, shift)
        elif offset == TABLE_SIZE:
            self.written = (table, value)
        elif offset == TRANSLATION:
            if not self.select(value, table, shift):
                guest_error(_NAME, "translation %d, table at %#x: not possible", value, table)
        elif offset == INTERRUPT_LITTLE and value <= 1:
            self._change_lpcr(LPCR_ILE, LPCR_ILE * value)
        else:
            guest_error(_NAME, "%#x written to register %#x", value, offset)

    def select(self, kind: int, table: int, shift: int) -> bool:
        """Put a translation into effect; False, and nothing changed, if it is impossible."""
        if not self._possible(kind, table, shift):
            return False
        self.selected = (kind, table, shift)
        record = self._partition.record
        radix, hashed = kind == Translation.RADIX, kind == Translation.HASH
        record["radix"] = int(radix)
        record["process_table"] = table if radix else 0
        record["process_table_size"] = 1 << shift if radix else 0
        record["hpt"] = self._partition.ram.address + table if hashed else 0
        record["hpt_shift"] = shift if hashed else 0
        self._change_lpcr(LPCR_HR | _LPCR_UPRT, LPCR_HR | _LPCR_UPRT if radix else 0)
        self._partition.flush_tlb()
        return True

    def _possible(self, kind: int, table: int, shift: int) -> bool:
        if kind == Translation.NONE:
            return True
        if kind == Translation.HASH:
            fits = _MIN_HASH_SHIFT <= shift <= _MAX_HASH_SHIFT
        elif kind == Translation.RADIX and self._vcpu.model == "power9":
            fits = _MIN_PROCESS_SHIFT <= shift <= _MAX_PROCESS_SHIFT
        else:
            return False
        if not fits or table % (1 << shift):
            return False
        return self._partition.ram.contains(table, 1 << shift)

    def _change_lpcr(self, mask: int, value: int) -> None:
        self._vcpu.set_spr(Spr.LPCR, self._vcpu.spr(Spr.LPCR) & ~mask | value)
