"""What a disk image can be told, as a frozen dataclass (QEMU 7.2's `-drive` and `-blockdev`)."""

from __future__ import annotations

from dataclasses import dataclass

from emu.chardev.config import ConfigError

FORMATS = ("raw", "qcow2")


@dataclass(frozen=True)
class CacheMode:
    """One value of `cache=`.

    `write_back`: a write is complete before it is on stable storage, and the guest flushes.
    `direct`: the host's page cache is bypassed.  `no_flush`: flushes are ignored.
    """

    write_back: bool
    direct: bool
    no_flush: bool


CACHE_MODES = {
    "none": CacheMode(write_back=True, direct=True, no_flush=False),
    "off": CacheMode(write_back=True, direct=True, no_flush=False),
    "directsync": CacheMode(write_back=False, direct=True, no_flush=False),
    "writeback": CacheMode(write_back=True, direct=False, no_flush=False),
    "unsafe": CacheMode(write_back=True, direct=False, no_flush=True),
    "writethrough": CacheMode(write_back=False, direct=False, no_flush=False),
}


@dataclass(frozen=True, kw_only=True)
class DriveConfig:
    """A disk image; nothing is opened.

    `format` None stands for raw too, but then an image that is something else is refused.
    `snapshot`: writes go to a temporary file that is thrown away.  `discard` is "ignore" (the
    default, as in QEMU) or "unmap".  `locking`: "auto" locks where the host can.
    ConfigError for values that are none of these.
    """

    id: str
    file: str
    format: str | None = "raw"
    read_only: bool = False
    cache: str = "writeback"
    snapshot: bool = False
    discard: str = "ignore"
    locking: str = "auto"

    def __post_init__(self) -> None:
        if self.format is not None and self.format not in FORMATS:
            raise ConfigError(f"Unknown driver '{self.format}'")
        if self.cache not in CACHE_MODES:
            raise ConfigError("invalid cache option")
        if self.discard not in ("ignore", "off", "unmap", "on"):
            raise ConfigError("Invalid discard option")
        if self.locking not in ("auto", "on", "off"):
            raise ConfigError(f"Parameter 'locking' does not accept value '{self.locking}'")
