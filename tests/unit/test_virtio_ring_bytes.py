"""The ring processor: byte orders, what is written, and what is taken and returned."""

from __future__ import annotations

import pytest

from devices.virtio.records import (
    BIG_ENDIAN,
    EVENT_IDX,
    PACKED,
    RingError,
)
from tests.support.ring_model import (
    WRITE,
    Popped,
    Returned,
)
from tests.support.ring_small import (
    AREAS,
    DATA,
    READ,
    ROOM,
    SIZE,
    SmallRing,
    each_format,
)

# Byte order


@pytest.mark.parametrize("right", [0, BIG_ENDIAN])
def test_the_wrong_byte_order_is_noticed(right: int) -> None:
    """What one order reads as one element is a jump of 256 entries in the other."""
    ring = SmallRing(right)
    ring.offer([READ])
    ring.native.record["flags"] = ring.pair.state.flags = right ^ BIG_ENDIAN
    ring.fails(RingError.AVAIL_JUMP)


@pytest.mark.parametrize("right", [0, BIG_ENDIAN])
def test_the_wrong_byte_order_gives_other_elements(right: int) -> None:
    """Even where index and head read the same in both orders, the descriptor does not."""
    for flags in (right, right ^ BIG_ENDIAN):
        ring = SmallRing(right, start=0x0100)
        ring.descriptor(0, address=DATA, length=16, flags=WRITE)
        ring.driver.put(AREAS.driver + 2, 2, 0x0101)
        ring.native.record["flags"] = ring.pair.state.flags = flags
        if flags == right:
            assert ring.pair.pop() == [Popped(0, 1, (), ((DATA, 16),))]
        else:
            ring.fails(RingError.ADDRESS_OUTSIDE_RAM)


@pytest.mark.parametrize("flags", [0, BIG_ENDIAN])
def test_bytes_of_the_used_ring(flags: int) -> None:
    """Golden bytes, written out by hand."""
    ring = SmallRing(flags | EVENT_IDX, start=0x1232)
    head = ring.offer([READ])[0]
    ring.pair.pop()
    ring.pair.push([Returned(head, 0x01020304)])
    memory = ring.native.ram.memory
    slot = AREAS.device + 4 + 8 * (0x1232 % SIZE)
    event = AREAS.device + 4 + 8 * SIZE
    order = slice(None) if flags else slice(None, None, -1)
    assert bytes(memory[slot : slot + 4]) == bytes([0, 0, 0, head])[order]
    assert bytes(memory[slot + 4 : slot + 8]) == bytes([1, 2, 3, 4])[order]
    assert bytes(memory[AREAS.device + 2 : AREAS.device + 4]) == bytes([0x12, 0x33])[order]
    assert bytes(memory[event : event + 2]) == bytes([0x12, 0x33])[order]


def test_packed_ring_is_little_endian_whatever_the_flags_say() -> None:
    ring = SmallRing(PACKED)
    ring.offer([READ])
    ring.native.record["flags"] = PACKED | BIG_ENDIAN
    assert len(ring.native.pop()) == 1


def test_bytes_of_a_used_packed_descriptor() -> None:
    """Golden bytes: length, id, flags with and without WRITE, both wrap counters."""
    ring = SmallRing(PACKED, size=2)
    memory = ring.native.ram.memory
    for written, flags in ((0x01020304, 0x8082), (0, 0x8080), (5, 0x0002), (0, 0x0000)):
        place = AREAS.desc + 16 * ring.native.state.used_idx
        (number,) = ring.offer([ROOM])
        (element,) = ring.pair.pop()
        ring.pair.push([Returned(element.head, written, 1)])
        expected = written.to_bytes(4, "little") + number.to_bytes(2, "little")
        assert bytes(memory[place + 8 : place + 16]) == expected + flags.to_bytes(2, "little")
        ring.driver.collect()


# Taking and returning


@each_format
def test_disabled_queue_does_nothing(flags: int) -> None:
    ring = SmallRing(flags)
    ring.offer([READ])
    ring.native.record["enabled"] = 0
    assert ring.native.pop() == []
    assert not ring.native.has_work()
    assert not ring.native.set_notification(False)
    assert not ring.native.push([Returned(0, 0)])
    assert not ring.native.log


@each_format
def test_stale_used_entries_are_dropped(flags: int) -> None:
    """A request that was on its way when the queue was set up anew must not reach the ring."""
    ring = SmallRing(flags)
    ring.offer([READ], [READ])
    (element,) = ring.pair.pop(1)
    entry = Returned(element.head, 1, element.descriptors)
    ring.pair.push([entry, entry, entry])
    assert len(ring.driver.collect()) == 1
    before = bytes(ring.native.ram.memory)
    assert not ring.pair.push([entry])
    assert bytes(ring.native.ram.memory) == before


@each_format
def test_elements_that_do_not_fit_are_left(flags: int) -> None:
    ring = SmallRing(flags)
    heads = ring.offer([READ] * 3, [READ] * 2, [READ])
    assert [element.head for element in ring.pair.pop(8, 4)] == heads[:1]
    assert [element.head for element in ring.pair.pop(8, 4)] == heads[1:]


@each_format
def test_a_batch_around_the_end_of_the_ring(flags: int) -> None:
    """Logged in at most two pieces, exactly what was written for split rings."""
    ring = SmallRing(flags, start=5)
    heads = ring.offer(*[[READ]] * 6)
    ring.pair.pop()
    ring.pair.push([Returned(head, 1) for head in heads])
    if flags & PACKED:
        expected = [(AREAS.desc + 88, 40), (AREAS.desc, 48)]
    else:
        expected = [(AREAS.device + 4 + 40, 24), (AREAS.device + 2, 2 + 24)]
    assert ring.native.log == expected
    assert ring.driver.collect() == [(head, 1) for head in heads]


def test_packed_used_descriptors_skip_the_rest_of_a_list() -> None:
    ring = SmallRing(PACKED)
    ring.offer([READ, READ], [READ])
    popped = ring.pair.pop()
    ring.pair.push([Returned(element.head, 0, element.descriptors) for element in popped])
    memory = ring.native.ram.memory
    used = [bytes(memory[AREAS.desc + 16 * i + 14 :][:2]) == b"\x80\x80" for i in range(3)]
    assert used == [True, False, True]
    assert ring.native.state.used_idx == 3


def test_packed_batch_is_at_most_one_lap() -> None:
    """Even if the record claims more in use: a second lap would write over the first."""
    ring = SmallRing(PACKED)
    ring.native.record["inuse"] = ring.pair.state.inuse = 1000
    ring.pair.push([Returned(number, number) for number in range(2 * SIZE + 3)])
    assert ring.native.state.inuse == 1000 - SIZE
    assert ring.native.state.used_idx == 0
    assert ring.native.log == [(AREAS.desc + 8, 16 * SIZE - 8)]
