"""Progress and settings of migrations, with the names QMP users know."""

from __future__ import annotations

import enum
import time
from dataclasses import dataclass, field
from typing import Any

from emu.migration.compression import method
from emu.migration.stream import MigrationError


class MigrationStatus(enum.Enum):
    """``MigrationStatus`` of QEMU's QAPI schema."""

    NONE = "none"
    SETUP = "setup"
    ACTIVE = "active"
    DEVICE = "device"
    POSTCOPY_ACTIVE = "postcopy-active"
    POSTCOPY_PAUSED = "postcopy-paused"
    POSTCOPY_RECOVER = "postcopy-recover"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"

    @property
    def running(self) -> bool:
        """Whether a migration is under way."""
        return self.value not in ("none", "completed", "failed", "cancelled")


@dataclass
class Parameters:
    """``migrate-set-parameters``: bytes a second (0: no limit), milliseconds, percent.

    ``multifd_compression`` is the name of a method (``emu.migration.compression``).
    """

    max_bandwidth: int = 128 << 20
    max_postcopy_bandwidth: int = 0
    downtime_limit: int = 300
    cpu_throttle_initial: int = 20
    cpu_throttle_increment: int = 10
    max_cpu_throttle: int = 99
    multifd_compression: str = "none"
    multifd_zlib_level: int = 1
    multifd_zstd_level: int = 1

    def as_dict(self) -> dict[str, int | str]:
        """With QMP's names."""
        return {name.replace("_", "-"): value for name, value in vars(self).items()}

    def update(self, values: dict[str, int | str]) -> None:
        """Take new values; :class:`MigrationError` for one that cannot be, with nothing changed."""
        for name, value in values.items():
            if name == "multifd-compression":
                method(str(value))
                continue
            low, high = _RANGES[name]
            if not low <= int(value) <= high:
                raise MigrationError(
                    f"Parameter '{name}' expects an integer in the range of {low} to {high}"
                )
        for name, value in values.items():
            setattr(self, name.replace("-", "_"), value)


_RANGES = {
    "max-bandwidth": (0, 1 << 62),
    "max-postcopy-bandwidth": (0, 1 << 62),
    "downtime-limit": (0, 2_000_000),
    "cpu-throttle-initial": (1, 99),
    "cpu-throttle-increment": (1, 99),
    "max-cpu-throttle": (1, 99),
    "multifd-zlib-level": (0, 9),
    "multifd-zstd-level": (0, 20),
}
CAPABILITIES = ("auto-converge", "events", "postcopy-ram")


@dataclass
class Progress:
    """One outgoing migration; times in seconds of the monotonic clock."""

    ram_total: int
    page_size: int = 4096
    started: float = field(default_factory=time.monotonic)
    setup_seconds: float = 0.0
    ended: float | None = None
    downtime: float | None = None
    expected_downtime: float = 0.3
    transferred: int = 0
    remaining: int = 0
    zero_pages: int = 0
    normal_pages: int = 0
    dirty_syncs: int = 0
    dirty_rate: float = 0.0
    bandwidth: float = 0.0
    throttle: int = 0
    postcopy_requests: int = 0
    postcopy_bytes: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The fields of ``query-migrate``; times in milliseconds."""
        now = self.ended if self.ended is not None else time.monotonic()
        answer: dict[str, Any] = {
            "total-time": round(1000 * (now - self.started)),
            "setup-time": round(1000 * self.setup_seconds),
            "ram": {
                "transferred": self.transferred,
                "remaining": self.remaining,
                "total": self.ram_total,
                "duplicate": self.zero_pages,
                "skipped": 0,
                "normal": self.normal_pages,
                "normal-bytes": self.normal_pages * self.page_size,
                "dirty-pages-rate": round(self.dirty_rate),
                "mbps": self.bandwidth * 8 / 1e6,
                "dirty-sync-count": self.dirty_syncs,
                "postcopy-requests": self.postcopy_requests,
                "postcopy-bytes": self.postcopy_bytes,
                "page-size": self.page_size,
                "multifd-bytes": 0,
                "pages-per-second": round(self.bandwidth / self.page_size),
            },
        }
        if self.downtime is not None:
            answer["downtime"] = round(1000 * self.downtime)
        else:
            answer["expected-downtime"] = round(1000 * self.expected_downtime)
        if self.throttle:
            answer["cpu-throttle-percentage"] = self.throttle
        return answer
