"""Time under a test's control, and interference by another thread."""

from __future__ import annotations

import ctypes
import threading
import time
from types import TracebackType

from emu.cpu.partition import Partition
from emu.cpu.vcpu import Vcpu

_CLOCK = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64)


class ManualClock:
    """A partition's clock source that moves only when told: ``now`` is in nanoseconds."""

    def __init__(self, partition: Partition, now: int = 1_000_000_000) -> None:
        self.now = now
        self._function = _CLOCK(lambda _: self.now)
        partition.record["clock_read"] = ctypes.cast(self._function, ctypes.c_void_p).value

    def ticks(self, count: int) -> None:
        """Move on by a number of timebase ticks, a multiple of 64."""
        assert count % 64 == 0
        self.now += count // 64 * 125


class Kicker:
    """Kicks a vCPU again and again from another thread, for the length of a ``with`` block."""

    def __init__(self, vcpu: Vcpu, period: float = 0.001) -> None:
        self._vcpu = vcpu
        self._period = period
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.kicks = 0

    def _run(self) -> None:
        while not self._done.is_set():
            time.sleep(self._period)
            self._vcpu.kick()
            self.kicks += 1

    def __enter__(self) -> Kicker:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
