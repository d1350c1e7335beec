"""Numbers of the virtio 1.2 specification that more than one file needs."""

from __future__ import annotations

import enum

VENDOR_QUMRANET = 0x1AF4
AUTO_QUEUES = 65535  # as a property: as many as is usual


class VirtioId(enum.IntEnum):
    """Device types (virtio 1.2, 5)."""

    NET = 1
    BLOCK = 2
    CONSOLE = 3
    RNG = 4
    BALLOON = 5
    SCSI = 8
    NINE_P = 9


class Status(enum.IntFlag):
    """Device status field (virtio 1.2, 2.1)."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    NEEDS_RESET = 0x40
    FAILED = 0x80


class Isr(enum.IntFlag):
    """Interrupt status (virtio 1.2, 4.1.4.5)."""

    QUEUE = 1
    CONFIG = 2


class Feature(enum.IntEnum):
    """Device-independent feature bits by number (virtio 1.2, 6; 6.3 for legacy)."""

    NOTIFY_ON_EMPTY = 24  # legacy only
    ANY_LAYOUT = 27  # legacy only
    RING_INDIRECT_DESC = 28
    RING_EVENT_IDX = 29
    BAD_FEATURE = 30  # a legacy driver that acknowledges it is broken
    VERSION_1 = 32
    ACCESS_PLATFORM = 33
    RING_PACKED = 34
    IN_ORDER = 35
    ORDER_PLATFORM = 36
    RING_RESET = 40

    @property
    def mask(self) -> int:
        """The bit itself."""
        return 1 << self.value


LEGACY_ONLY = Feature.NOTIFY_ON_EMPTY.mask | Feature.ANY_LAYOUT.mask
"""Offered to legacy drivers only; modern ones do not see these bits."""
