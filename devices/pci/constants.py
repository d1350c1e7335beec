"""Configuration space of a type 0 function: offsets and bits (PCI Local Bus 3.0, chapter 6)."""

from __future__ import annotations

import enum

CONFIG_SIZE = 256

# Offsets of registers (6.1, figure 6-1)
VENDOR_ID = 0x00
DEVICE_ID = 0x02
COMMAND = 0x04
STATUS = 0x06
REVISION_ID = 0x08
CLASS_CODE = 0x09
CACHE_LINE_SIZE = 0x0C
HEADER_TYPE = 0x0E
BAR_0 = 0x10
BAR_END = 0x28
BAR_COUNT = 6
SUBSYSTEM_VENDOR_ID = 0x2C
SUBSYSTEM_ID = 0x2E
CAPABILITIES_POINTER = 0x34
INTERRUPT_LINE = 0x3C
INTERRUPT_PIN = 0x3D
MIN_GNT = 0x3E
MAX_LAT = 0x3F
HEADER_END = 0x40

HEADER_MULTIFUNCTION = 0x80


class Command(enum.IntFlag):
    """Command register (6.2.2)."""

    IO = 1 << 0
    MEMORY = 1 << 1
    MASTER = 1 << 2
    SERR = 1 << 8
    INTX_DISABLE = 1 << 10


#: What software may change, as in QEMU's devices.
COMMAND_WRITABLE = (
    Command.IO | Command.MEMORY | Command.MASTER | Command.SERR | Command.INTX_DISABLE
)


class Status(enum.IntFlag):
    """Status register (6.2.3)."""

    INTERRUPT = 1 << 3
    CAPABILITIES = 1 << 4


class CapabilityId(enum.IntEnum):
    """Capability identifiers (appendix H)."""

    MSI = 0x05
    VENDOR = 0x09
    MSIX = 0x11


# MSI-X message control (6.8.2.3)
MSIX_ENABLE = 1 << 15
MSIX_MASK_ALL = 1 << 14
MSIX_MAX_VECTORS = 2048
