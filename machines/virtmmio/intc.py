"""A small interrupt controller, "ppc64emu,intc": 64 level-triggered lines, one output.

Four big-endian 32-bit registers: pending and enabled of lines 0 to 31, then of 32 to 63; line n
is bit n % 32, counted from the least significant one.  Pending follows the lines and can only be
read; the CPU's external interrupt is high while an enabled line is.
"""

from __future__ import annotations

from numba import njit, types

from emu.cpu.exceptions import set_external_interrupt
from emu.cpu.record import vcpu_at
from emu.cpu.vcpu import Vcpu
from emu.log import guest_error, log
from machines.virtmmio.layout import LINE_COUNT

_irq_log = log("irq")
PENDING, ENABLED = 0, 4
_BANK_SIZE, _BANK_LINES = 8, 32
_BANK_MASK = (1 << _BANK_LINES) - 1


@njit(types.void(types.uint64, types.uint32), cache=True)
def _drive(vcpu_address, level):  # type: ignore[no-untyped-def]
    set_external_interrupt(vcpu_at(vcpu_address), level)


class InterruptController:
    """Handler of the registers; drives one vCPU.  vCPU thread."""

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu = vcpu
        self.pending = 0
        self.enabled = 0

    def reset(self) -> None:
        """Every line disabled; the vCPU's input goes low.  Lines keep their level."""
        self.enabled = 0
        self._update()

    def resume(self) -> None:
        """Drive the vCPU after a state was loaded."""
        self._update()

    def set_line(self, line: int, level: bool) -> None:
        """Drive an input."""
        if not 0 <= line < LINE_COUNT:
            raise ValueError(f"no interrupt line {line}")
        if _irq_log.enabled:
            _irq_log("line %d: %d", line, level)
        self.pending = self.pending & ~(1 << line) | int(level) << line
        self._update()

    def _update(self) -> None:
        _drive(self._vcpu.address, int(self.pending & self.enabled != 0))

    def mmio_read(self, offset: int, size: int) -> bytes:
        """A register; bytes of one, too."""
        lines = self._registers()
        return lines[offset : offset + size].ljust(size, b"\0")

    def _registers(self) -> bytes:
        words = []
        for shift in range(0, LINE_COUNT, _BANK_LINES):
            words += [self.pending >> shift & _BANK_MASK, self.enabled >> shift & _BANK_MASK]
        return b"".join(word.to_bytes(4, "big") for word in words)

    def mmio_write(self, offset: int, data: bytes) -> None:
        """Enable exactly the lines of a bank whose bits are set."""
        bank, register = divmod(offset, _BANK_SIZE)
        if register != ENABLED or len(data) != 4:
            guest_error("intc", "write of %d bytes to register %#x", len(data), offset)
            return
        shift = bank * _BANK_LINES
        value = int.from_bytes(data, "big")
        self.enabled = self.enabled & ~(_BANK_MASK << shift) | value << shift
        self._update()
