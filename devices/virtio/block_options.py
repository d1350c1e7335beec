"""Properties of virtio-blk, and what follows from them: features and configuration space."""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass

from devices.block.image import SECTOR
from devices.virtio.constants import AUTO_QUEUES
from emu.chardev.config import ConfigError
from emu.memory.endian import GuestEndian

MAX_QUEUE_SIZE = 1024  # QEMU's VIRTQUEUE_MAX_SIZE
#: Sectors of one request at most (QEMU's BDRV_REQUEST_MAX_SECTORS).
MAX_REQUEST_SECTORS = 0x7FFFFFFF // SECTOR

# struct virtio_blk_config (virtio 1.2, 5.2.4): capacity, size_max, seg_max, cylinders, heads,
# sectors, blk_size, physical_block_exp, alignment_offset, min_io_size, opt_io_size, writeback,
# (unused), num_queues, max_discard_sectors, max_discard_seg, discard_sector_alignment,
# max_write_zeroes_sectors, max_write_zeroes_seg, write_zeroes_may_unmap, (unused)
CONFIG = "QIIHBBIBBHIBxHIIIIIB3x"
CONFIG_WRITEBACK = 32


class BlockFeature(enum.IntEnum):
    """Feature bits by number (5.2.3)."""

    SEG_MAX = 2
    GEOMETRY = 4
    RO = 5
    BLK_SIZE = 6
    FLUSH = 9
    TOPOLOGY = 10
    CONFIG_WCE = 11
    MQ = 12
    DISCARD = 13
    WRITE_ZEROES = 14

    @property
    def mask(self) -> int:
        """The bit itself."""
        return 1 << self.value


@dataclass(frozen=True, kw_only=True)
class BlockOptions:
    """Properties of virtio-blk; sizes in bytes, None for QEMU's default.

    ``write_cache`` None: as the drive's `cache=` says.  ``num_queues`` 65535: one.  ConfigError
    for values that make no disk.
    """

    serial: str = ""
    logical_block_size: int | None = None
    physical_block_size: int | None = None
    min_io_size: int = 0
    opt_io_size: int = 0
    discard_granularity: int | None = None
    num_queues: int = AUTO_QUEUES
    queue_size: int = 256
    write_cache: bool | None = None
    config_wce: bool = True
    discard: bool = True
    write_zeroes: bool = True
    max_discard_sectors: int = MAX_REQUEST_SECTORS
    max_write_zeroes_sectors: int = MAX_REQUEST_SECTORS

    def __post_init__(self) -> None:
        self._check_queues()
        self._check_sizes()
        for name in ("discard", "write_zeroes"):
            if not 1 <= getattr(self, f"max_{name}_sectors") <= MAX_REQUEST_SECTORS:
                shown = name.replace("_", "-")
                raise ConfigError(
                    f"invalid max-{shown}-sectors property, must be between 1 and "
                    f"{MAX_REQUEST_SECTORS}"
                )

    def _check_queues(self) -> None:
        if self.num_queues == 0:
            raise ConfigError("num-queues property must be larger than 0")
        if self.queues > MAX_QUEUE_SIZE:
            raise ConfigError(f"num-queues property must be at most {MAX_QUEUE_SIZE}")
        size = self.queue_size
        if size & (size - 1) or not 0 < size <= MAX_QUEUE_SIZE:
            raise ConfigError(
                f"invalid queue-size property ({size}), must be a power of 2 (max {MAX_QUEUE_SIZE})"
            )
        if size <= 2:
            raise ConfigError(f"invalid queue-size property ({size}), must be > 2")

    def _check_sizes(self) -> None:
        for name in ("logical_block_size", "physical_block_size"):
            size = getattr(self, name)
            if size is not None and (size & (size - 1) or not SECTOR <= size <= 2 << 20):
                raise ConfigError(
                    f"{name} must be a power of 2 between 512 and 2097152, not {size}"
                )
        if self.block_size > self.physical_size:
            raise ConfigError("logical_block_size > physical_block_size not supported")
        for name, limit in (("min_io_size", 0xFFFF), ("opt_io_size", 0xFFFFFFFF)):
            size = getattr(self, name)
            if size % self.block_size:
                raise ConfigError(f"{name} must be a multiple of logical_block_size")
            if size // self.block_size > limit:
                raise ConfigError(f"{name} must not exceed {limit} logical blocks")
        if self.granularity % self.block_size or self.granularity >= 1 << 32:
            raise ConfigError("discard_granularity must be a multiple of logical_block_size")

    @property
    def queues(self) -> int:
        """Number of queues."""
        return 1 if self.num_queues == AUTO_QUEUES else self.num_queues

    @property
    def block_size(self) -> int:
        """Logical block size."""
        return self.logical_block_size or SECTOR

    @property
    def physical_size(self) -> int:
        """Physical block size."""
        return self.physical_block_size or self.block_size

    @property
    def granularity(self) -> int:
        """Discard granularity."""
        return self.discard_granularity or self.block_size

    def features(self, *, read_only: bool, write_back: bool) -> int:
        """Feature bits that QEMU offers for these properties."""
        wanted = {
            BlockFeature.SEG_MAX: True,
            BlockFeature.GEOMETRY: True,
            BlockFeature.RO: read_only,
            BlockFeature.BLK_SIZE: True,
            BlockFeature.FLUSH: write_back or self.config_wce,
            BlockFeature.TOPOLOGY: True,
            BlockFeature.CONFIG_WCE: self.config_wce,
            BlockFeature.MQ: self.queues > 1,
            BlockFeature.DISCARD: self.discard,
            BlockFeature.WRITE_ZEROES: self.write_zeroes,
        }
        return sum(bit.mask for bit, offered in wanted.items() if offered)

    def config_space(self, endian: GuestEndian, size: int, write_back: bool) -> bytes:
        """The configuration space of a disk of ``size`` bytes."""
        sectors = size // SECTOR
        cylinders = min(max(sectors // (16 * 63), 2), 16383)
        track = 63
        if size // track % self.block_size:
            track &= ~(self.block_size // SECTOR - 1)
        limits = [0, 0, 0]
        if self.discard:
            limits = [self.max_discard_sectors, 1, self.granularity // SECTOR]
        zeroes = [self.max_write_zeroes_sectors, 1, 1] if self.write_zeroes else [0, 0, 0]
        return struct.pack(
            endian.struct + CONFIG,
            sectors,
            0,
            self.queue_size - 2,
            cylinders,
            16,
            track,
            self.block_size,
            (self.physical_size // self.block_size).bit_length() - 1,
            0,
            self.min_io_size // self.block_size,
            self.opt_io_size // self.block_size,
            write_back,
            self.queues,
            *limits,
            *zeroes,
        )
