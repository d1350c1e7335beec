"""The memory map of the virtmmio machine.  Guest real addresses; docs/virtmmio.md lists them."""

from __future__ import annotations

MIB = 1 << 20
MIN_RAM_SIZE = 16 * MIB
MAX_RAM_SIZE = 16 << 30
RAM_UNIT = MIB

BOARD_BASE = 0x80_0000_0000  # far above RAM
PAGE_SIZE = 0x1000
# Devices of the board's own page: offset and size
CONSOLE_OFFSET, CONSOLE_SIZE = 0x000, 8
EXIT_OFFSET, EXIT_SIZE = 0x008, 8
INTC_OFFSET, INTC_SIZE = 0x100, 16
CONTROL_OFFSET, CONTROL_SIZE = 0x200, 0x20

SLOT_BASE = BOARD_BASE + PAGE_SIZE
SLOT_STRIDE = PAGE_SIZE
SLOT_COUNT = 32

#: Interrupt lines: slot n has line n.
CONSOLE_LINE = 32
LINE_COUNT = 64


def slot_address(slot: int) -> int:
    """Where the registers of a virtio-mmio slot are."""
    return SLOT_BASE + slot * SLOT_STRIDE
