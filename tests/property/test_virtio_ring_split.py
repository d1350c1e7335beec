"""Split virtqueues: random plays agree with a slow model, random garbage does no harm."""

from __future__ import annotations

import random
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.virtio.records import BIG_ENDIAN, EVENT_IDX, IN_ORDER, INDIRECT, NOTIFY_ON_EMPTY
from tests.support.ring_driver import Areas, Buffer, SplitDriver
from tests.support.ring_garbage import EXAMPLES, FUZZ, GarbageRing, mutations
from tests.support.ring_harness import GuardedRam, Ring
from tests.support.ring_model import Returned, State
from tests.support.ring_pair import Pair
from tests.support.ring_play import STEPS, Play

FLAGS = (BIG_ENDIAN, EVENT_IDX, INDIRECT, IN_ORDER, NOTIFY_ON_EMPTY)


@pytest.fixture(scope="module")
def ring() -> Ring:
    return Ring(GuardedRam())


def start_play(
    ring: Ring, flags: int, log_size: int, start: int, shift: int = 0
) -> tuple[SplitDriver, Pair]:
    """A driver and the pair of devices on an empty ring whose indices begin at ``start``."""
    ring.ram.clear()
    order: Literal["big", "little"] = "big" if flags & BIG_ENDIAN else "little"
    areas = Areas(0x1000 + shift, 0x2000 + shift, 0x3000 + shift)
    size = 1 << log_size
    driver = SplitDriver(ring.ram.memory, areas, size, order, bool(flags & EVENT_IDX), start)
    state = State(
        desc=areas.desc,
        driver=areas.driver,
        device=areas.device,
        size=size,
        flags=flags,
        last_avail=start,
        used_idx=start,
        signalled_used=start,
    )
    return driver, Pair(ring, state)


@given(
    flags=st.sets(st.sampled_from(FLAGS)).map(sum),
    log_size=st.integers(0, 6),
    start=st.integers(65500, 65535) | st.integers(0, 65535),
    shift=st.just(0) | st.integers(0, 15),
    steps=STEPS,
)
@settings(max_examples=3 * EXAMPLES)
@pytest.mark.timeout(7200)
def test_agrees_with_the_model(
    ring: Ring, flags: int, log_size: int, start: int, shift: int, steps: list[Any]
) -> None:
    driver, pair = start_play(ring, flags, log_size, start, shift)
    Play(driver, pair).run(steps)


@given(order=st.sampled_from([0, BIG_ENDIAN]), log_size=st.integers(0, 6), seed=st.integers(0))
@settings(max_examples=max(5, EXAMPLES // 20))
@pytest.mark.timeout(7200)
def test_goes_once_around_the_indices(ring: Ring, order: int, log_size: int, seed: int) -> None:
    """More than 65536 buffers, so that every index wraps around wherever it started."""
    driver, pair = start_play(ring, order | EVENT_IDX, log_size, seed % 65536)
    rng = random.Random(seed)
    total = 0
    while total < 66000:
        heads = [driver.add([Buffer(0x8000, 1)]) for _ in range(rng.randint(1, 1 << log_size))]
        driver.publish()
        popped = pair.ring.pop()
        assert [element.head for element in popped] == heads
        rng.shuffle(popped)
        pair.ring.push([Returned(element.head, element.head) for element in popped])
        assert driver.collect() == [(element.head, element.head) for element in popped]
        total += len(heads)
    assert pair.ring.state.last_avail == pair.ring.state.used_idx == (seed + total) % 65536


@given(garbage=st.builds(GarbageRing.split, st.integers(0, (1 << 64) - 1)), changes=mutations())
@settings(max_examples=FUZZ)
@pytest.mark.timeout(7200)
def test_garbage_does_no_harm(ring: Ring, garbage: GarbageRing, changes: Any) -> None:
    """Anything in the areas and in the record: the model's result, and nothing else touched."""
    garbage.run(ring, changes)
