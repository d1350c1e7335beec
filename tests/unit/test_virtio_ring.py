"""Every error of the ring processor by name, each where it begins."""

from __future__ import annotations

import time
from typing import Literal

import pytest

from devices.virtio.records import (
    BIG_ENDIAN,
    EVENT_IDX,
    INDIRECT,
    MAX_QUEUE_SIZE,
    PACKED,
    RingError,
)
from emu.memory.ram import GuestRam
from tests.support.ring_driver import Buffer
from tests.support.ring_harness import Ring
from tests.support.ring_model import (
    AVAIL,
    IS_INDIRECT,
    NEXT,
    USED,
    Popped,
    State,
)
from tests.support.ring_small import (
    AREAS,
    DATA,
    RAM,
    READ,
    ROOM,
    SIZE,
    TABLE,
    SmallRing,
    each_format,
    flags_of,
)

# Every error, in each format where the driver can make it


@each_format
@pytest.mark.parametrize("area", ["desc", "driver", "device"])
@pytest.mark.parametrize("place", [RAM - 1, RAM, (1 << 64) - 2, 1 << 63])
def test_ring_outside_ram(flags: int, area: str, place: int) -> None:
    ring = SmallRing(flags)
    ring.offer([READ])
    ring.native.record[area] = place
    setattr(ring.pair.state, area, place)
    ring.fails(RingError.RING_OUTSIDE_RAM)


@each_format
@pytest.mark.parametrize("event_idx", [0, EVENT_IDX])
def test_areas_may_end_with_ram(flags: int, event_idx: int) -> None:
    """The event fields belong to the areas only with EVENT_IDX."""
    event = 2 if event_idx else 0
    for area, size in (
        ("desc", 16 * SIZE),
        ("driver", 4 if flags & PACKED else 4 + 2 * SIZE + event),
        ("device", 4 if flags & PACKED else 4 + 8 * SIZE + event),
    ):
        for beyond in (0, 1):
            ring = SmallRing(flags | event_idx)
            place = RAM - size + beyond
            ring.native.record[area] = place
            setattr(ring.pair.state, area, place)
            ring.pair.pop()
            expected = RingError.RING_OUTSIDE_RAM if beyond else RingError.NONE
            assert ring.native.error == expected, (area, beyond)


@each_format
@pytest.mark.parametrize("size", [0, MAX_QUEUE_SIZE + 1, (1 << 32) - 1])
def test_ring_of_impossible_size(flags: int, size: int) -> None:
    ring = SmallRing(flags)
    ring.native.record["size"] = ring.pair.state.size = size
    ring.fails(RingError.RING_OUTSIDE_RAM)


@pytest.mark.parametrize("flags", [0, BIG_ENDIAN])
def test_avail_jump(flags: int) -> None:
    """As many new entries as the queue has are right, one more is not."""
    ring = SmallRing(flags, start=65530)
    ring.driver.put(AREAS.driver + 2, 2, (65530 + SIZE + 1) % 65536)
    ring.fails(RingError.AVAIL_JUMP)
    ring = SmallRing(flags, start=65530)
    ring.offer(*[[READ]] * SIZE)
    assert len(ring.pair.pop()) == SIZE


@pytest.mark.parametrize("flags", [0, BIG_ENDIAN])
def test_avail_index_going_backwards(flags: int) -> None:
    ring = SmallRing(flags, start=10)
    ring.driver.put(AREAS.driver + 2, 2, 9)
    ring.fails(RingError.AVAIL_JUMP)


@each_format
def test_more_in_use_than_the_queue_has(flags: int) -> None:
    """A driver that makes entries available again before it got them back."""
    ring = SmallRing(flags)
    ring.offer(*[[READ]] * SIZE)
    assert len(ring.pair.pop()) == SIZE
    if flags & PACKED:
        ring.descriptor(0, flags=USED)
    else:
        ring.driver.put(AREAS.driver + 2, 2, SIZE + 1)
    assert ring.pair.has_work()
    ring.fails(RingError.AVAIL_JUMP)


@pytest.mark.parametrize("flags", [0, BIG_ENDIAN])
@pytest.mark.parametrize("head", [SIZE, 0xFFFF])
def test_head_out_of_range(flags: int, head: int) -> None:
    ring = SmallRing(flags)
    ring.offer([READ], [READ])
    ring.driver.put(AREAS.driver + 4 + 2, 2, head)
    ring.fails(RingError.HEAD_OUT_OF_RANGE, before=1)


@pytest.mark.parametrize("flags", [0, BIG_ENDIAN])
@pytest.mark.parametrize("following", [SIZE, 0xFFFF])
def test_next_out_of_range(flags: int, following: int) -> None:
    ring = SmallRing(flags)
    (head,) = ring.offer([READ, ROOM])
    ring.descriptor(head, next=following)
    ring.fails(RingError.NEXT_OUT_OF_RANGE)


@pytest.mark.parametrize("flags", [0, BIG_ENDIAN])
def test_next_out_of_an_indirect_table(flags: int) -> None:
    ring = SmallRing(flags | INDIRECT)
    head = ring.driver.add([READ, READ], direct=0)
    assert head is not None
    ring.driver.publish()
    ring.change(AREAS.tables + 256 * head, next=2)
    ring.fails(RingError.NEXT_OUT_OF_RANGE)


@pytest.mark.parametrize("flags", [0, BIG_ENDIAN])
def test_chain_too_long_by_a_loop(flags: int) -> None:
    ring = SmallRing(flags)
    (head,) = ring.offer([READ])
    ring.descriptor(head, flags=NEXT, next=head)
    ring.fails(RingError.CHAIN_TOO_LONG)


@pytest.mark.parametrize("flags", [0, BIG_ENDIAN])
def test_chain_too_long_by_a_loop_in_a_table(flags: int) -> None:
    ring = SmallRing(flags | INDIRECT)
    ring.offer([READ])
    head = ring.driver.add([READ, READ, READ], direct=0)
    assert head is not None
    ring.driver.publish()
    table = AREAS.tables + 256 * head
    ring.change(table + 16, flags=NEXT, next=0)
    ring.fails(RingError.CHAIN_TOO_LONG, before=1)


def test_endless_list_in_a_packed_ring() -> None:
    """CVE-2026-16457: every descriptor is available and says that another one follows."""
    ring = SmallRing(PACKED)
    for index in range(SIZE):
        ring.descriptor(index, address=DATA, length=16, flags=AVAIL | NEXT)
    ring.fails(RingError.CHAIN_TOO_LONG)


def test_packed_ring_available_for_ever() -> None:
    """Every descriptor looks available in this lap, again and again: one lap is all there is."""
    ring = SmallRing(PACKED)
    for index in range(SIZE):
        ring.descriptor(index, address=DATA, length=16, flags=AVAIL)
    assert len(ring.pair.pop()) == SIZE
    assert ring.pair.pop() == []
    assert ring.native.error == RingError.NONE
    for index in range(SIZE):
        ring.descriptor(index, flags=USED)
    ring.fails(RingError.AVAIL_JUMP)


@pytest.mark.parametrize("flags", [0, BIG_ENDIAN])
def test_overlong_indirect_chain(flags: int) -> None:
    """A table may be longer than the queue, but there is an end: the segments have to fit."""
    for entries, error in (
        (MAX_QUEUE_SIZE, RingError.NONE),
        (MAX_QUEUE_SIZE + 1, RingError.CHAIN_TOO_LONG),
    ):
        ring = SmallRing(flags | INDIRECT, ram=1 << 20)
        (head,) = ring.offer([Buffer(0x10000, 16 * entries)])
        ring.descriptor(head, flags=IS_INDIRECT)
        for index in range(entries):
            more = NEXT if index + 1 < entries else 0
            ring.change(
                0x10000 + 16 * index, address=DATA, length=1, flags=more, next=(index + 1) % 65536
            )
        popped = ring.native.pop()
        assert ring.native.error == error
        assert [len(element.readable) for element in popped] == [entries] * (not error)


def test_overlong_packed_indirect_table() -> None:
    ring = SmallRing(PACKED | INDIRECT, ram=1 << 20)
    entries = MAX_QUEUE_SIZE + 1
    ring.offer([Buffer(0x10000, 16 * entries)])
    ring.descriptor(0, flags=AVAIL | IS_INDIRECT)
    for index in range(entries):
        ring.change(0x10000 + 16 * index, address=DATA, length=1)
    assert ring.native.pop() == []
    assert ring.native.error == RingError.CHAIN_TOO_LONG


@each_format
def test_chain_too_big(flags: int) -> None:
    """4 GiB in all are right, a byte more is not."""
    quarter = 1 << 30
    for extra, error in ((0, RingError.NONE), (1, RingError.CHAIN_TOO_BIG)):
        ring = SmallRing(flags, ram=quarter)
        chain = [Buffer(0, quarter)] * 3 + [
            Buffer(0, quarter - 1, True),
            Buffer(0, 1 + extra, True),
        ]
        ring.offer(chain)
        assert len(ring.native.pop()) == (not error)
        assert ring.native.error == error


@each_format
@pytest.mark.parametrize(
    ("address", "length"),
    [(RAM, 1), (RAM - 15, 16), ((1 << 64) - 16, 16), ((1 << 64) - 8, 16), (1, RAM), (0, RAM + 1)],
)
def test_address_outside_ram(flags: int, address: int, length: int) -> None:
    ring = SmallRing(flags)
    ring.offer([READ], [Buffer(address, length)])
    ring.fails(RingError.ADDRESS_OUTSIDE_RAM, before=1)


@each_format
@pytest.mark.parametrize("address", [RAM - 16, (1 << 64) - 16, (1 << 64) - 32])
def test_indirect_table_outside_ram(flags: int, address: int) -> None:
    ring = SmallRing(flags | INDIRECT)
    (head,) = ring.offer([Buffer(address, 32)])
    ring.descriptor(0 if flags & PACKED else head, flags=flags_of(ring, IS_INDIRECT))
    ring.fails(RingError.ADDRESS_OUTSIDE_RAM)


@each_format
def test_buffers_may_be_all_of_ram(flags: int) -> None:
    ring = SmallRing(flags)
    ring.offer([Buffer(0, RAM), Buffer(RAM - 1, 1, True)])
    (element,) = ring.pair.pop()
    assert element.readable == ((0, RAM),)
    assert element.writable == ((RAM - 1, 1),)


@each_format
@pytest.mark.parametrize("writable", [False, True])
def test_zero_length(flags: int, writable: bool) -> None:
    ring = SmallRing(flags)
    ring.offer([READ, Buffer(DATA, 0, writable)])
    ring.fails(RingError.ZERO_LENGTH)


@each_format
def test_readable_after_writable(flags: int) -> None:
    ring = SmallRing(flags)
    ring.offer([READ, ROOM], [ROOM, READ])
    ring.fails(RingError.READABLE_AFTER_WRITABLE, before=1)


@pytest.mark.parametrize("flags", [0, BIG_ENDIAN])
def test_bad_indirect_nested(flags: int) -> None:
    ring = SmallRing(flags | INDIRECT)
    head = ring.driver.add([READ, READ], direct=0)
    assert head is not None
    ring.driver.publish()
    ring.change(AREAS.tables + 256 * head, address=TABLE, length=16, flags=IS_INDIRECT)
    ring.fails(RingError.BAD_INDIRECT)


@each_format
def test_bad_indirect_with_next(flags: int) -> None:
    ring = SmallRing(flags | INDIRECT)
    (head,) = ring.offer([Buffer(TABLE, 16), READ])
    bad = flags_of(ring, IS_INDIRECT | NEXT)
    ring.descriptor(0 if flags & PACKED else head, flags=bad)
    ring.fails(RingError.BAD_INDIRECT)


def test_bad_indirect_within_a_packed_list() -> None:
    """Packed lists are all direct, or a single indirect descriptor (2.8.5)."""
    ring = SmallRing(PACKED | INDIRECT)
    ring.offer([READ, Buffer(TABLE, 16)])
    ring.descriptor(1, flags=AVAIL | IS_INDIRECT)
    ring.fails(RingError.BAD_INDIRECT)


@pytest.mark.parametrize("flags", [0, BIG_ENDIAN])
def test_indirect_after_direct_in_a_split_chain(flags: int) -> None:
    """A device has to take that (2.7.5.3.2)."""
    ring = SmallRing(flags | INDIRECT)
    head = ring.driver.add([READ, ROOM, ROOM], direct=1)
    assert head is not None
    ring.driver.publish()
    pieces = [(buffer.address, buffer.length) for buffer in (READ, ROOM, ROOM)]
    assert ring.pair.pop() == [Popped(head, 1, tuple(pieces[:1]), tuple(pieces[1:]))]


@each_format
@pytest.mark.parametrize("length", [1, 8, 17, 31, 0xFFFFFFFF])
def test_bad_indirect_size(flags: int, length: int) -> None:
    ring = SmallRing(flags | INDIRECT)
    (head,) = ring.offer([Buffer(TABLE, length)])
    ring.descriptor(0 if flags & PACKED else head, flags=flags_of(ring, IS_INDIRECT))
    ring.fails(RingError.BAD_INDIRECT)


@each_format
def test_indirect_not_negotiated(flags: int) -> None:
    ring = SmallRing(flags)
    (head,) = ring.offer([Buffer(TABLE, 16)])
    ring.descriptor(0 if flags & PACKED else head, flags=flags_of(ring, IS_INDIRECT))
    ring.fails(RingError.INDIRECT_NOT_NEGOTIATED)


@each_format
def test_empty_chain_by_an_indirect_table_of_length_zero(flags: int) -> None:
    """QEMU's issue 3984 for packed rings."""
    ring = SmallRing(flags | INDIRECT)
    (head,) = ring.offer([Buffer(TABLE, 0)])
    ring.descriptor(0 if flags & PACKED else head, flags=flags_of(ring, IS_INDIRECT))
    ring.fails(RingError.EMPTY_CHAIN)


def test_every_error_has_a_test() -> None:
    names = " ".join(name for name in globals() if name.startswith("test_"))
    for error in RingError:
        if error != RingError.NONE:
            assert f"test_{error.name.lower()}" in names


@each_format
def test_elements_before_a_bad_chain_are_returned(flags: int) -> None:
    ring = SmallRing(flags)
    ring.offer([READ], [READ, ROOM], [Buffer(DATA, 0)], [READ])
    assert len(ring.pair.pop()) == 2
    assert ring.native.error == RingError.ZERO_LENGTH
    assert ring.native.state.inuse == (3 if flags & PACKED else 2)
    assert ring.native.state.last_avail == (3 if flags & PACKED else 2)


@each_format
def test_garbage_takes_bounded_time(flags: int) -> None:
    """The largest ring, every chain as long as can be: a call does a bounded amount of work."""
    size = MAX_QUEUE_SIZE
    ring = Ring(GuestRam(1 << 21))
    state = State(0x10000, 0x100000, 0x140000, size, flags)
    ring.load(state)
    order: Literal["big", "little"] = "big" if flags & BIG_ENDIAN else "little"
    for index in range(size):
        tail = (
            (index.to_bytes(2, order) + (AVAIL | NEXT).to_bytes(2, order))
            if flags & PACKED
            else (NEXT.to_bytes(2, order) + ((index + 1) % size).to_bytes(2, order))
        )
        data = (0).to_bytes(8, order) + (1).to_bytes(4, order) + tail
        ring.ram.write(0x10000 + 16 * index, data)
    ring.ram.write(0x100002, size.to_bytes(2, order))
    start = time.monotonic()
    assert ring.pop() == []
    assert ring.error == RingError.CHAIN_TOO_LONG
    assert time.monotonic() - start < 1
