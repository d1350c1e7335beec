"""Malformed rings: from almost right to plain noise."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st

from devices.virtio.records import (
    BIG_ENDIAN,
    EVENT_IDX,
    IN_ORDER,
    INDIRECT,
    NOTIFY_ON_EMPTY,
    PACKED,
)
from tests.support.ring_harness import Ring
from tests.support.ring_model import AVAIL, USED, Returned, State
from tests.support.ring_pair import Pair

EXAMPLES = settings().max_examples
"""Examples of the profile in use."""

FUZZ = 5 * EXAMPLES
"""Examples of a fuzz test: 100,000 in the profile ``fuzz``."""

_RAM = 65536
_TABLES = 0x6000

Change = tuple[int, int, int]
"""Place within the ring's areas (taken modulo their size), width, value."""


def mutations() -> st.SearchStrategy[list[Change]]:
    """A few integers to be stored anywhere in the ring's areas."""
    value = st.integers(0, 65) | st.integers(0, 65535) | st.integers(0, (1 << 64) - 1)
    return st.lists(st.tuples(st.integers(0, 4095), st.sampled_from([2, 4, 8]), value), max_size=4)


@dataclass
class GarbageRing:
    """A malformed ring made from a seed; ``level`` is the share of fields that are wrong."""

    seed: int
    packed: bool
    rng: random.Random = field(init=False, repr=False)
    level: float = field(init=False)
    state: State = field(init=False)

    @classmethod
    def split(cls, seed: int) -> GarbageRing:
        """A split ring."""
        return cls(seed, False)

    @classmethod
    def make_packed(cls, seed: int) -> GarbageRing:
        """A packed ring."""
        return cls(seed, True)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        self.level = self.rng.choice([0.0, 0.02, 0.02, 0.1, 0.5, 1.0])
        self.state = self._make_state()

    def run(self, ring: Ring, changes: Sequence[Change]) -> None:
        """Let the pair of devices loose on it."""
        self._fill(ring, changes)
        pair = Pair(ring, self.state)
        rng = self.rng
        for _ in range(rng.randint(1, 4)):
            action = rng.randrange(6)
            if action == 0:
                pair.has_work()
            elif action == 1:
                pair.set_notification(rng.random() < 0.5)
            elif action < 5:
                popped = pair.pop(rng.choice([1, 3, 512]), rng.choice([0, 1, 5, *[32768] * 9]))
                used = [Returned(e.head, rng.getrandbits(32), e.descriptors) for e in popped]
                pair.push(used)
            else:
                pair.push(self._bogus_used())

    def _bogus_used(self) -> list[Returned]:
        rng = self.rng
        return [
            Returned(rng.getrandbits(16), rng.getrandbits(32), rng.choice([0, 1, 2, 65535]))
            for _ in range(rng.randint(0, 70))
        ]

    # The record

    def _wrong(self, share: float = 1.0) -> bool:
        return self.rng.random() < self.level * share

    def _make_state(self) -> State:
        rng = self.rng
        choices = [EVENT_IDX, INDIRECT, IN_ORDER]
        if not self.packed:
            choices += [NOTIFY_ON_EMPTY, BIG_ENDIAN]
        flags = sum(flag for flag in choices if rng.random() < 0.7)
        size = rng.randint(1, 64) if self.packed else 1 << rng.randint(0, 6)
        if self._wrong(0.1):
            size = rng.choice([0, 3, 100, 32768, 32769, (1 << 32) - 1])
        position = rng.randrange(max(size, 1)) if self.packed else rng.getrandbits(16)
        state = State(
            desc=self._area(0x1000, 16 * size),
            driver=self._area(0x2000, 6 + 2 * size),
            device=self._area(0x3000, 6 + 8 * size),
            size=size,
            flags=flags | (PACKED if self.packed else 0),
            last_avail=position % 65536,
            used_idx=position % 65536,
            signalled_used=position % 65536,
            signalled_valid=rng.getrandbits(1),
            notification=rng.getrandbits(1),
            avail_wrap=rng.getrandbits(1),
        )
        state.used_wrap = state.avail_wrap
        for name, bits in (("last_avail", 16), ("used_idx", 16), ("inuse", 32)):
            if self._wrong(0.1):
                setattr(state, name, rng.getrandbits(rng.choice([6, bits])))
        return state

    def _area(self, usual: int, size: int) -> int:
        """Where an area is: usually well inside RAM, at times at its end or far away."""
        if not self._wrong(0.1):
            return usual + self.rng.choice([0, 0, 1, 7])
        end = _RAM - size + self.rng.randint(-2, 2)
        return self.rng.choice(
            [max(end, 0), usual, 0x1008, self.rng.getrandbits(64), (1 << 64) - 8]
        )

    # What is in RAM

    def _fill(self, ring: Ring, changes: Sequence[Change]) -> None:
        ring.ram.clear()
        memory = ring.ram.memory
        if self.level == 1.0:
            memory[0x1000:0x8000] = self.rng.randbytes(0x7000)
        else:
            self._descriptors(memory)
            self._indices(memory)
        for place, width, value in changes:
            area = (self.state.desc, self.state.driver, self.state.device, _TABLES)[place % 4]
            self._put(memory, area + place // 4, width, value)

    def _put(self, memory: memoryview, address: int, width: int, value: int) -> None:
        if address + width <= _RAM:
            order = "big" if self.state.flags & BIG_ENDIAN else "little"
            value &= (1 << 8 * width) - 1
            memory[address : address + width] = value.to_bytes(width, order)  # type: ignore[arg-type]

    def _descriptors(self, memory: memoryview) -> None:
        state = self.state
        for index in range(min(state.size, 64)):
            self._descriptor(memory, state.desc + 16 * index, index, state.size, True)
        for table in range(4):
            for index in range(8):
                place = _TABLES + 128 * table + 16 * index
                self._descriptor(memory, place, index, 8, False)

    def _descriptor(
        self, memory: memoryview, place: int, index: int, entries: int, top: bool
    ) -> None:
        rng = self.rng
        address, length = rng.randint(0x8000, 0xF000), rng.randint(1, 4096)
        flags = (1 if rng.random() < 0.5 and index + 1 < entries else 0) | index % 8 // 4 * 2
        if top and rng.random() < (0.3 if self.state.flags & INDIRECT else 0.01):
            address, length, flags = _TABLES + 128 * rng.randrange(4), 16 * rng.randint(1, 8), 4
        if self._wrong():
            address = rng.choice([_RAM - length, _RAM - length + 1, (1 << 64) - 1, 0, address ^ 8])
        if self._wrong():
            length = rng.choice([0, 1, 15, 17, 65536, (1 << 32) - 1, (1 << 32) - 16, length])
        if self._wrong():
            flags = rng.choice([rng.randrange(8), rng.getrandbits(16)])
        following = index + 1
        if self._wrong():
            following = rng.choice([index, 0, entries, entries - 1, rng.getrandbits(16)])
        self._put(memory, place, 8, address)
        self._put(memory, place + 8, 4, length)
        if not self.packed or not top:
            self._put(memory, place + 12, 2, flags)
            self._put(memory, place + 14, 2, following if not self.packed else flags)
            return
        wrap = self.state.avail_wrap ^ (index < self.state.last_avail) ^ self._wrong()
        self._put(memory, place + 12, 2, rng.randrange(64))
        self._put(memory, place + 14, 2, flags | (AVAIL if wrap else USED))

    def _indices(self, memory: memoryview) -> None:
        rng, state = self.rng, self.state
        if self.packed:
            self._put(memory, state.driver, 2, rng.choice([rng.randrange(64), rng.getrandbits(16)]))
            self._put(memory, state.driver + 2, 2, rng.randrange(4))
            return
        for slot in range(min(state.size, 64)):
            head = rng.getrandbits(16) if self._wrong() else rng.randrange(state.size)
            self._put(memory, state.driver + 4 + 2 * slot, 2, head)
        ahead = rng.randint(0, min(state.size, 64)) if not self._wrong() else rng.getrandbits(16)
        self._put(memory, state.driver, 2, rng.getrandbits(1))
        self._put(memory, state.driver + 2, 2, state.last_avail + ahead)
        event = state.used_idx + rng.randint(-2, 8)
        self._put(memory, state.driver + 4 + 2 * state.size, 2, event)
