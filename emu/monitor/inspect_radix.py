"""``info tlb`` of a radix guest: its trees (Power ISA v3.0B, book III, 5.7.10)."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from emu.cpu.isa import Spr
from emu.cpu.vcpu import Vcpu
from emu.memory.dma import DmaError
from emu.monitor.inspect_mappings import Mapping, mapping_lines, page_size

_VALID, _LEAF = 1 << 63, 1 << 62
_NLB, _NLS = 0x0FFFFFFFFFFFFF00, 0x1F
_RPN = 0x01FFFFFFFFFFF000
_MAX_TABLE_BITS = 16
_BUDGET = 1 << 18  # entries looked at, whatever a guest's tables are
_QUADRANT = 62


class _Walker:
    """Reads one process's trees.  vCPU thread."""

    def __init__(self, vcpu: Vcpu) -> None:
        self._dma = vcpu.partition.dma
        self._partition = vcpu.partition.record
        self.left = _BUDGET

    def root(self, pid: int) -> int | None:
        """First doubleword of a process table entry; None without one."""
        offset = pid * 16
        if offset >= int(self._partition["process_table_size"]):
            return None
        try:
            return self._dma.read_u64_be(int(self._partition["process_table"]) + offset)
        except DmaError:
            return None

    def leaves(self, base: int, bits: int, left: int, address: int) -> Iterator[Mapping]:
        """Mappings below a table of ``1 << bits`` entries that divides ``1 << left`` bytes."""
        if not 0 < bits <= min(left, _MAX_TABLE_BITS) or left - bits < 12:
            return
        try:
            data = self._dma.read(base, 8 << bits)
        except DmaError:
            return
        left -= bits
        for index, (entry,) in enumerate(struct.iter_unpack(">Q", data)):
            self.left -= 1
            if self.left <= 0:
                return
            if not entry & _VALID:
                continue
            at = address + (index << left)
            if entry & _LEAF:
                real = entry & _RPN & ~((1 << left) - 1)
                yield Mapping(at, real, 1 << left, left, _rights(entry))
            else:
                yield from self.leaves(entry & _NLB, entry & _NLS, left, at)

    def lookup(self, base: int, bits: int, left: int, offset: int) -> Iterator[str]:
        """The entries on the way to one address."""
        while True:
            if not 0 < bits <= left or left - bits < 12:
                yield f"  impossible table: {bits} bits of {left}"
                return
            left -= bits
            index = offset >> left & (1 << bits) - 1
            try:
                entry = self._dma.read_u64_be(base + 8 * index)
            except DmaError:
                yield f"  table {base:#x} lies outside RAM"
                return
            where = f"  {base + 8 * index:012x}: {entry:016x}"
            if not entry & _VALID:
                yield f"{where} invalid"
                return
            if entry & _LEAF:
                real = entry & _RPN & ~((1 << left) - 1) | offset & (1 << left) - 1
                yield f"{where} page {page_size(left)} {_rights(entry)} -> {real:#x}"
                return
            yield f"{where} table of {1 << (entry & _NLS)}"
            base, bits = entry & _NLB, entry & _NLS


def _rights(entry: int) -> str:
    bits = ((8, "P"), (4, "R"), (2, "W"), (1, "X"))
    access = "".join(letter if entry & bit else "-" for bit, letter in bits)
    state = "".join(letter if entry & bit else "-" for bit, letter in ((0x100, "r"), (0x80, "c")))
    kind = ("", " SAO", " no-cache", " tolerant")[entry >> 4 & 3]
    return f"{access} {state}{kind}"


def _tree(root: int) -> tuple[int, int, int]:
    """(table, its bits, bits of the address space)."""
    size = ((root >> 61 & 3) << 3 | root >> 5 & 7) + 31
    return root & _NLB, root & 0x1F, size


def _quadrants(vcpu: Vcpu) -> tuple[tuple[str, int, int], ...]:
    pid = vcpu.spr(Spr.PID) & 0xFFFFFFFF
    return ((f"process {pid}", pid, 0), ("kernel", 0, 3 << _QUADRANT))


def info_tlb(vcpu: Vcpu) -> str:
    """What the current process and the kernel have mapped, neighbours together.  vCPU thread."""
    lines = []
    for name, pid, start in _quadrants(vcpu):
        walker = _Walker(vcpu)
        root = walker.root(pid)
        if root is None:
            lines.append(f"{name}: no process table entry")
            continue
        table, bits, space = _tree(root)
        lines.append(f"{name}: root {table:#x}, {1 << bits} entries, {space} address bits")
        lines += mapping_lines(walker.leaves(table, bits, space, start))
        if walker.left <= 0:
            lines.append(f"... only {_BUDGET} entries looked at")
    return "\n".join(lines)


def info_address(vcpu: Vcpu, address: int) -> str:
    """The walk for one effective address.  vCPU thread."""
    pid = {0: vcpu.spr(Spr.PID) & 0xFFFFFFFF, 3: 0}.get(address >> _QUADRANT)
    if pid is None:
        return f"{address:#018x}: not in a quadrant of a guest"
    walker = _Walker(vcpu)
    root = walker.root(pid)
    if root is None:
        return f"{address:#018x}: process {pid} has no process table entry"
    table, bits, space = _tree(root)
    offset = address & (1 << _QUADRANT) - 1
    lines = [f"process {pid}: {root:016x}, {1 << bits} entries, {space} address bits"]
    if offset >> space:
        return "\n".join([*lines, f"{address:#018x}: beyond the address space"])
    return "\n".join([*lines, *walker.lookup(table, bits, space, offset)])
