"""The real-time clock behind get-time-of-day and set-time-of-day (LoPAPR 1.1, 7.3.2)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import MAXYEAR, MINYEAR, UTC, datetime, timedelta


def _host_utc() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None)


class Rtc:
    """Guest time as the host's clock plus an offset, which is all the state there is.

    ``base`` is ``"utc"``, ``"localtime"``, or the naive datetime (UTC) to start from.
    """

    def __init__(
        self, base: str | datetime = "utc", host: Callable[[], datetime] = _host_utc
    ) -> None:
        self._host = host
        self.offset = timedelta()
        if base == "localtime":
            self.offset = datetime.now().astimezone().utcoffset() or timedelta()
        elif isinstance(base, datetime):
            self.offset = base - host()

    def now(self) -> datetime:
        """Guest time, naive."""
        return self._host() + self.offset

    def set(self, when: datetime) -> None:
        """Set guest time; ``ValueError`` if it could soon not be told any more."""
        if not MINYEAR < when.year < MAXYEAR:
            raise ValueError(f"year {when.year}")
        self.offset = when - self._host()
