"""The ring processor: interrupts and notifications, with and without event index."""

from __future__ import annotations

import itertools

import pytest

from devices.virtio.records import (
    BIG_ENDIAN,
    EVENT_IDX,
    INDIRECT,
    NOTIFY_ON_EMPTY,
    PACKED,
)
from tests.support.ring_model import (
    DESC,
    DISABLE,
    WRITE,
    Returned,
)
from tests.support.ring_small import (
    AREAS,
    FORMATS,
    READ,
    ROOM,
    SIZE,
    SmallRing,
    each_format,
)

# Interrupts


@pytest.mark.parametrize("flags", [0, BIG_ENDIAN, PACKED])
def test_interrupts_without_event_index(flags: int) -> None:
    ring = SmallRing(flags)
    for enable in (True, False, True):
        ring.driver.want_interrupts(enable)
        (head,) = ring.offer([READ])
        ring.pair.pop()
        assert ring.pair.push([Returned(head, 0)]) == enable


@pytest.mark.parametrize("flags", [0, BIG_ENDIAN])
def test_event_index_is_ignored_unless_negotiated(flags: int) -> None:
    ring = SmallRing(flags)
    ring.driver.put(AREAS.driver + 4 + 2 * SIZE, 2, 0x7777)
    for _ in range(3):
        (head,) = ring.offer([READ])
        ring.pair.pop()
        assert ring.pair.push([Returned(head, 0)])
        ring.driver.collect()


@pytest.mark.parametrize("flags", [0, BIG_ENDIAN])
@pytest.mark.parametrize("start", [0, 100, 65533])
def test_used_event_exactly(flags: int, start: int) -> None:
    """For every batch and event: an interrupt if and only if the event's entry is in the batch."""
    for batch, event in itertools.product(range(1, SIZE + 1), range(-3, SIZE + 3)):
        ring = SmallRing(flags | EVENT_IDX, start=start)
        ring.native.record["signalled_valid"] = ring.pair.state.signalled_valid = 1
        ring.driver.put(AREAS.driver + 4 + 2 * SIZE, 2, (start + event) % 65536)
        heads = ring.offer(*[[READ]] * batch)
        ring.pair.pop()
        assert ring.pair.push([Returned(head, 0) for head in heads]) == (0 <= event < batch)


@pytest.mark.parametrize("start", range(5))
def test_packed_event_exactly(start: int) -> None:
    """The same for positions and wrap counters, in every place of a ring of five."""
    size = 5
    for batch, position, wrap in itertools.product(range(1, 6), range(size), (0, 1)):
        ring = SmallRing(PACKED | EVENT_IDX, size=size, start=start)
        ring.native.record["signalled_valid"] = ring.pair.state.signalled_valid = 1
        ring.driver.put(AREAS.driver, 2, position | wrap << 15)
        ring.driver.put(AREAS.driver + 2, 2, DESC)
        ring.offer(*[[READ]] * batch)
        popped = ring.pair.pop()
        passed = [divmod(start + step, size) for step in range(batch)]
        expected = any((position, wrap) == (at, 1 - lap) for lap, at in passed)
        used = [Returned(element.head, 0, element.descriptors) for element in popped]
        assert ring.pair.push(used) == expected, (batch, position, wrap)


@pytest.mark.parametrize("flags", [EVENT_IDX, EVENT_IDX | BIG_ENDIAN, EVENT_IDX | PACKED])
def test_first_batch_always_interrupts(flags: int) -> None:
    """Nothing is known about earlier interrupts then (``signalled_valid``)."""
    ring = SmallRing(flags)
    ring.driver.want_interrupt_after(6)
    for expected in (True, False):
        (head,) = ring.offer([READ])
        ring.pair.pop()
        assert ring.pair.push([Returned(head, 0)]) == expected
        ring.driver.collect()


@pytest.mark.parametrize("flags", [PACKED, PACKED | EVENT_IDX])
def test_packed_event_flags(flags: int) -> None:
    """DISABLE, the reserved value, reserved bits, and DESC without EVENT_IDX (2.8.14)."""
    for value, expected in ((DISABLE, False), (3, True), (0xFFFC, True), (0xFFFD, False)):
        ring = SmallRing(flags)
        ring.driver.put(AREAS.driver + 2, 2, value)
        (number,) = ring.offer([READ])
        ring.pair.pop()
        assert ring.pair.push([Returned(number, 0)]) == expected
    ring = SmallRing(PACKED)
    ring.native.record["signalled_valid"] = ring.pair.state.signalled_valid = 1
    ring.driver.put(AREAS.driver, 4, DESC << 16 | 5)
    (number,) = ring.offer([READ])
    ring.pair.pop()
    assert ring.pair.push([Returned(number, 0)])


@pytest.mark.parametrize("flags", [0, BIG_ENDIAN])
def test_notify_on_empty(flags: int) -> None:
    """A legacy driver is interrupted when nothing is left, though it asked not to be."""
    ring = SmallRing(flags | NOTIFY_ON_EMPTY)
    ring.driver.want_interrupts(False)
    first, second, third = ring.offer([READ], [READ], [READ])
    ring.pair.pop(2)
    assert not ring.pair.push([Returned(first, 0)])  # one in use
    assert not ring.pair.push([Returned(second, 0)])  # one available
    ring.pair.pop()
    assert ring.pair.push([Returned(third, 0)])


@each_format
def test_an_empty_batch_interrupts_nobody(flags: int) -> None:
    ring = SmallRing(flags | (0 if flags & PACKED else NOTIFY_ON_EMPTY))
    assert not ring.pair.push([])
    assert not ring.native.log


# Notifications


@each_format
def test_notifications_without_event_index(flags: int) -> None:
    ring = SmallRing(flags)
    for enable in (True, False, True):
        assert not ring.pair.set_notification(enable)
        ring.driver.add([READ])
        assert ring.driver.publish() == enable
        ring.pair.pop()


@each_format
def test_set_notification_tells_of_waiting_work(flags: int) -> None:
    for event_idx, enable in itertools.product((0, EVENT_IDX), (False, True)):
        ring = SmallRing(flags | event_idx)
        ring.offer([READ])
        assert ring.pair.set_notification(enable)


@pytest.mark.parametrize("flags", [EVENT_IDX, EVENT_IDX | BIG_ENDIAN, EVENT_IDX | PACKED])
def test_event_index_asks_for_the_next_buffer_only(flags: int) -> None:
    ring = SmallRing(flags)
    ring.pair.set_notification(True)
    ring.driver.add([READ])
    assert ring.driver.publish()
    ring.driver.add([READ])
    assert not ring.driver.publish()
    assert len(ring.pair.pop()) == 2
    ring.driver.add([READ])
    assert ring.driver.publish()


@pytest.mark.parametrize("flags", [EVENT_IDX, EVENT_IDX | BIG_ENDIAN, EVENT_IDX | PACKED])
def test_no_notification_is_asked_for_when_they_are_off(flags: int) -> None:
    ring = SmallRing(flags)
    ring.offer([READ])
    ring.pair.set_notification(False)
    before = bytes(ring.native.ram.memory)
    ring.pair.pop()
    assert bytes(ring.native.ram.memory) == before


@pytest.mark.parametrize("flags", [EVENT_IDX, EVENT_IDX | BIG_ENDIAN, EVENT_IDX | PACKED])
def test_a_buffer_added_just_before_the_event_moves_is_not_lost(flags: int) -> None:
    """The driver sees the old event and does not notify: the device has to look again."""
    ring = SmallRing(flags)
    (first,) = ring.offer([READ])
    added: list[int | None] = []

    def add_late(address: int, size: int) -> None:
        if not added:
            added.append(ring.driver.add([READ, ROOM]))
            ring.driver.publish()

    ring.native.on_write = add_late
    assert [element.head for element in ring.native.pop()] == [first, *added]
    assert len(added) == 1
    ring.native.on_write = None
    ring.driver.add([READ])
    assert ring.driver.publish()


def test_write_flag_of_an_indirect_descriptor_means_nothing() -> None:
    """Neither split (2.7.5.3.2) nor packed (2.8.7)."""
    for flags in FORMATS:
        ring = SmallRing(flags | INDIRECT)
        for _ in range(3):  # the driver sets it for odd numbers
            ring.driver.add([READ, ROOM], direct=0)
        ring.driver.publish()
        popped = ring.pair.pop()
        assert {element.head % 2 for element in popped} == {0, 1}
        for element in popped:
            assert (len(element.readable), len(element.writable)) == (1, 1)


def test_flags_in_a_packed_table_mean_nothing_but_write() -> None:
    ring = SmallRing(PACKED | INDIRECT)
    number = ring.driver.add([READ, ROOM], direct=0)
    assert number is not None
    ring.driver.publish()
    table = AREAS.tables + 256 * number
    ring.change(table, flags=0xFFFF & ~WRITE)
    ring.change(table + 16, flags=0xFFFF)
    (element,) = ring.pair.pop()
    assert (len(element.readable), len(element.writable)) == (1, 1)
