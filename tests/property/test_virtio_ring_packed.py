"""Packed virtqueues: random plays agree with a slow model, random garbage does no harm."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.virtio.records import EVENT_IDX, IN_ORDER, INDIRECT, PACKED
from tests.support.ring_driver import Areas, Buffer, PackedDriver
from tests.support.ring_garbage import EXAMPLES, FUZZ, GarbageRing, mutations
from tests.support.ring_harness import GuardedRam, Ring
from tests.support.ring_model import Returned, State
from tests.support.ring_pair import Pair
from tests.support.ring_play import STEPS, Play

FLAGS = (EVENT_IDX, INDIRECT, IN_ORDER)


@pytest.fixture(scope="module")
def ring() -> Ring:
    return Ring(GuardedRam())


def start_play(
    ring: Ring, flags: int, size: int, start: int = 0, wrap: int = 1, shift: int = 0
) -> tuple[PackedDriver, Pair]:
    """A driver and the pair of devices on an empty ring at a position and wrap counter."""
    ring.ram.clear()
    areas = Areas(0x1000 + shift, 0x2000 + shift, 0x3000 + shift)
    driver = PackedDriver(ring.ram.memory, areas, size, bool(flags & EVENT_IDX), start, wrap)
    state = State(
        desc=areas.desc,
        driver=areas.driver,
        device=areas.device,
        size=size,
        flags=flags | PACKED,
        last_avail=start,
        used_idx=start,
        signalled_used=start,
        avail_wrap=wrap,
        used_wrap=wrap,
    )
    return driver, Pair(ring, state)


@given(
    flags=st.sets(st.sampled_from(FLAGS)).map(sum),
    size=st.integers(1, 64),
    start=st.integers(0, 63),
    wrap=st.integers(0, 1),
    shift=st.just(0) | st.integers(0, 15),
    steps=STEPS,
)
@settings(max_examples=3 * EXAMPLES)
@pytest.mark.timeout(7200)
def test_agrees_with_the_model(
    ring: Ring, flags: int, size: int, start: int, wrap: int, shift: int, steps: list[Any]
) -> None:
    driver, pair = start_play(ring, flags, size, start % size, wrap, shift)
    Play(driver, pair).run(steps)


@given(size=st.integers(1, 64), seed=st.integers(0))
@settings(max_examples=max(5, EXAMPLES // 20))
@pytest.mark.timeout(7200)
def test_goes_around_many_times(ring: Ring, size: int, seed: int) -> None:
    """Lists of one to three descriptors, so that they lie across the ring's end at times."""
    driver, pair = start_play(ring, EVENT_IDX, size, seed % size)
    rng = random.Random(seed)
    for _ in range(3000):
        lengths = [rng.randint(1, min(3, size)) for _ in range(rng.randint(1, size))]
        numbers = [driver.add([Buffer(0x8000, 1)] * length) for length in lengths]
        driver.publish()
        popped = pair.ring.pop()
        assert [element.head for element in popped] == [n for n in numbers if n is not None]
        rng.shuffle(popped)
        used = [Returned(e.head, e.head, e.descriptors) for e in popped]
        pair.ring.push(used)
        assert driver.collect() == [(entry.head, entry.written) for entry in used]
    assert pair.ring.state.inuse == 0


@given(
    garbage=st.builds(GarbageRing.make_packed, st.integers(0, (1 << 64) - 1)), changes=mutations()
)
@settings(max_examples=FUZZ)
@pytest.mark.timeout(7200)
def test_garbage_does_no_harm(ring: Ring, garbage: GarbageRing, changes: Any) -> None:
    """Anything in the areas and in the record: the model's result, and nothing else touched."""
    garbage.run(ring, changes)
