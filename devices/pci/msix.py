"""MSI-X: vector table and pending bits (PCI Local Bus 3.0, 6.8.2).

An entry is 16 bytes, little-endian: message address (64 bits), message data, vector control,
whose bit 0 masks.  A vector that fires while it or the function is masked stays in the pending
bit array and is sent when the mask goes away.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from devices.pci.constants import MSIX_ENABLE, MSIX_MASK_ALL, MSIX_MAX_VECTORS

ENTRY_SIZE = 16
_CONTROL = 12
_MASKED = 1
_MESSAGE = struct.Struct("<QI")
_BAR_SIZE = 4096
_MASKED_ENTRY = bytes(_CONTROL) + struct.pack("<I", _MASKED)


class Msix:
    """Table and pending bits of a function, and the handler of the BAR they are in.

    ``control`` gives the message control register as it is now; ``send`` gets a message's
    address and data.  ``table`` and ``pending`` are the whole state.  vCPU thread.
    """

    def __init__(
        self,
        vectors: int,
        control: Callable[[], int],
        send: Callable[[int, int], None],
        table_offset: int = 0,
        pba_offset: int | None = None,
    ) -> None:
        if not 0 < vectors <= MSIX_MAX_VECTORS:
            raise ValueError(f"{vectors} MSI-X vectors; 1 to {MSIX_MAX_VECTORS} are possible")
        self.vectors = vectors
        self.table = bytearray(_MASKED_ENTRY * vectors)
        self.pending = bytearray(8 * -(-vectors // 64))
        self.table_offset = table_offset
        table_end = table_offset + len(self.table)
        self.pba_offset = max(_BAR_SIZE // 2, table_end) if pba_offset is None else pba_offset
        if table_offset % 8 or self.pba_offset % 8:
            raise ValueError("MSI-X table and pending bits are 8-byte aligned")
        pba_end = self.pba_offset + len(self.pending)
        if table_offset < pba_end and self.pba_offset < table_end:
            raise ValueError("MSI-X table and pending bits overlap")
        self.bar_size = 1 << (max(_BAR_SIZE, pba_end, table_end) - 1).bit_length()
        self._control = control
        self._send = send

    def reset(self) -> None:
        """All vectors masked, none pending."""
        self.table[:] = _MASKED_ENTRY * self.vectors
        self.pending[:] = bytes(len(self.pending))

    @property
    def enabled(self) -> bool:
        """MSI-X Enable; a masked function counts, too."""
        return bool(self._control() & MSIX_ENABLE)

    @property
    def _live(self) -> bool:
        return self._control() & (MSIX_ENABLE | MSIX_MASK_ALL) == MSIX_ENABLE

    def is_masked(self, vector: int) -> bool:
        """Whether a vector's own mask bit is set."""
        return bool(self.table[ENTRY_SIZE * vector + _CONTROL] & _MASKED)

    def is_pending(self, vector: int) -> bool:
        """Whether a vector waits for a mask to go away."""
        return bool(self.pending[vector >> 3] >> (vector & 7) & 1)

    def notify(self, vector: int) -> None:
        """Fire a vector: send its message, or note it while masked.

        Nothing happens for an unknown vector or while MSI-X is disabled.
        """
        if not 0 <= vector < self.vectors or not self.enabled:
            return
        if self._live and not self.is_masked(vector):
            self._send(*self.message(vector))
        else:
            self.pending[vector >> 3] |= 1 << (vector & 7)

    def message(self, vector: int) -> tuple[int, int]:
        """(address, data) of an entry."""
        address, data = _MESSAGE.unpack_from(self.table, ENTRY_SIZE * vector)
        return address, data

    def set_message(self, vector: int, address: int, data: int) -> None:
        """Program an entry as a platform does for its guest, and unmask it."""
        _MESSAGE.pack_into(self.table, ENTRY_SIZE * vector, address, data)
        self.table[ENTRY_SIZE * vector + _CONTROL] &= ~_MASKED & 0xFF
        self._deliver(vector)

    def clear_message(self, vector: int) -> None:
        """Put an entry into its state after reset."""
        self.table[ENTRY_SIZE * vector : ENTRY_SIZE * (vector + 1)] = _MASKED_ENTRY
        self.pending[vector >> 3] &= ~(1 << (vector & 7)) & 0xFF

    def deliver_pending(self) -> None:
        """Send what waits and may be sent: the function may have been unmasked."""
        if any(self.pending):
            for vector in range(self.vectors):
                self._deliver(vector)

    def _deliver(self, vector: int) -> None:
        if self.is_pending(vector) and self._live and not self.is_masked(vector):
            self.pending[vector >> 3] &= ~(1 << (vector & 7)) & 0xFF
            self._send(*self.message(vector))

    def mmio_read(self, offset: int, size: int) -> bytes:
        """Table or pending bits; zeros elsewhere."""
        for start, memory in ((self.table_offset, self.table), (self.pba_offset, self.pending)):
            at = offset - start
            if at >= 0 and at + size <= len(memory):
                return bytes(memory[at : at + size])
        return bytes(size)

    def mmio_write(self, offset: int, data: bytes) -> None:
        """Entries of the table; the pending bits are read-only (6.8.2.10)."""
        at = offset - self.table_offset
        end = at + len(data)
        if at < 0 or end > len(self.table):
            return
        self.table[at:end] = data
        for vector in range(at // ENTRY_SIZE, (end - 1) // ENTRY_SIZE + 1):
            self._normalise(vector)
            self._deliver(vector)

    def _normalise(self, vector: int) -> None:
        """Messages go to aligned addresses; the control's other bits are reserved."""
        entry = ENTRY_SIZE * vector
        self.table[entry] &= 0xFC
        self.table[entry + _CONTROL] &= _MASKED
        self.table[entry + _CONTROL + 1 : entry + ENTRY_SIZE] = bytes(3)
