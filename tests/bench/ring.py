"""Descriptors a second of the virtio ring processor alone: ``python -m tests.bench.ring``.

A queue of 256 entries is filled, taken and returned again and again through the entry points of
``devices.virtio.ring``, as devices call them; what the driver does in between is a copy of a
few bytes.  Counted are the buffers of the chains; the descriptor that refers to an indirect table
is not one.  The figures are medians over the rounds; no guest runs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Literal

import numpy as np

from devices.virtio import records, ring
from devices.virtio.records import BIG_ENDIAN, EVENT_IDX, INDIRECT, PACKED
from emu.memory.dma import Dma
from emu.memory.ram import GuestRam
from tests.support.ring_driver import Areas, Buffer, Driver, PackedDriver, SplitDriver

SIZE = 256
GOAL = 5e6
AREAS = Areas(0x10000, 0x20000, 0x30000, 0x40000)
FORMATS = {"split LE": 0, "split BE": BIG_ENDIAN, "packed": PACKED}
SHAPES = {"one buffer": (1, 0), "chain of 3": (3, 0), "table of 3": (3, 1), "table of 16": (16, 1)}


class Queue:
    """A full queue that can be made full again at once."""

    def __init__(self, flags: int, buffers: int, indirect: bool) -> None:
        self._ram = GuestRam(1 << 20)
        self._dma = Dma(self._ram, lambda address, size: None)
        self._packed = bool(flags & PACKED)
        flags |= EVENT_IDX | (INDIRECT if indirect else 0)
        self._order: Literal["big", "little"] = "big" if flags & BIG_ENDIAN else "little"
        self._queue = np.zeros(1, records.QUEUE_DTYPE)
        record = self._queue[0]
        record["dma"] = self._dma.address
        record["desc"], record["driver"], record["device"] = AREAS.desc, AREAS.driver, AREAS.device
        record["size"], record["flags"], record["enabled"] = SIZE, flags, 1
        record["notification"] = record["avail_wrap"] = record["used_wrap"] = 1
        self._elements = np.zeros(SIZE, records.ELEMENT_DTYPE)
        self._segments = np.zeros(records.MAX_QUEUE_SIZE, records.SEGMENT_DTYPE)
        self._used = np.zeros(SIZE, records.USED_DTYPE)
        arrays = (self._queue, self._elements, self._segments, self._used)
        self._addresses = [array.ctypes.data for array in arrays]
        self.chains = self._fill(buffers, indirect)
        self.buffers = self.chains * buffers

    def _fill(self, buffers: int, indirect: bool) -> int:
        """Add chains until nothing fits; packed rings must end with a whole list."""
        memory = self._ram.memory
        driver: Driver
        if self._packed:
            size = SIZE if indirect else SIZE // buffers * buffers
            self._queue[0]["size"] = size
            driver = PackedDriver(memory, AREAS, size, True)
        else:
            driver = SplitDriver(memory, AREAS, SIZE, self._order, True)
        chain = [Buffer(0x80000 + 512 * i, 512, i > 0) for i in range(buffers)]
        heads: list[int] = []
        while (head := driver.add(chain, 0 if indirect else None)) is not None:
            heads.append(head)
        driver.publish()
        if self._packed:
            self._keep_laps()
        else:  # the heads all over the ring: :meth:`_offer` does not write them again
            for slot in range(len(heads), SIZE):
                driver.put(AREAS.driver + 4 + 2 * slot, 2, heads[slot % len(heads)])
        return len(heads)

    def _keep_laps(self) -> None:
        """The ring's bytes as the driver fills it in a lap with wrap counter 1, and 0."""
        start, length = AREAS.desc, 16 * int(self._queue[0]["size"])
        self._ring = self._ram.view[start : start + length]
        odd = self._ring.copy()
        odd.view("<u2")[7::8] ^= 0x8080
        self._laps = [odd, self._ring.copy()]
        self._lap = 1

    def cycle(self) -> None:
        """Take everything, return it, and let the driver make it available again."""
        queue, elements, segments, used = self._addresses
        taken = ring.pop(queue, elements, SIZE, segments, records.MAX_QUEUE_SIZE)
        assert taken == self.chains
        self._used["head"] = self._elements["head"]
        self._used["descriptors"] = self._elements["descriptors"]
        ring.push(queue, used, taken)
        self._offer()

    def _offer(self) -> None:
        if self._packed:
            self._lap ^= 1
            self._ring[:] = self._laps[self._lap]
            return
        index = int(self._queue[0]["last_avail"]) + self.chains
        self._ram.write(AREAS.driver + 2, (index % 65536).to_bytes(2, self._order))


def rate(queue: Queue, seconds: float, clock: Callable[[], float] = time.process_time) -> float:
    """Buffers a second of CPU time in one round: neighbours on the machine do not count."""
    cycles = 0
    start = clock()
    while (passed := clock() - start) < seconds:
        for _ in range(50):
            queue.cycle()
        cycles += 50
    return cycles * queue.buffers / passed


def main() -> int:
    """Print a Markdown table; 1 if a figure is below the goal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="length of a round")
    options = parser.parse_args()
    print("| million descriptors a second |", " | ".join(SHAPES), "|")
    print("|---|" + "---|" * len(SHAPES))
    worst = float("inf")
    for name, flags in FORMATS.items():
        row = []
        for buffers, indirect in SHAPES.values():
            queue = Queue(flags, buffers, bool(indirect))
            queue.cycle()
            median = statistics.median(
                rate(queue, options.seconds) for _ in range(max(1, options.rounds))
            )
            worst = min(worst, median)
            row.append(f"{median / 1e6:.1f}")
        print(f"| {name} |", " | ".join(row), "|")
    print(f"\nlowest {worst / 1e6:.1f}, goal {GOAL / 1e6:.0f}")
    return 0 if worst >= GOAL else 1


if __name__ == "__main__":
    raise SystemExit(main())
