"""Split virtqueues (virtio 1.2, 2.7) in either byte order.

Available ring: flags u16, idx u16, ring u16[size], used_event u16.  Used ring: flags u16,
idx u16, ring {id u32, len u32}[size], avail_event u16.  Every field has the order that
BIG_ENDIAN tells; each function is compiled once for each order.  A field of the rings is read
once, and what is used is what was checked.  vCPU thread.
"""

from __future__ import annotations

import numpy as np
from numba import literally, njit

from devices.virtio.chain import (
    DESC_F_INDIRECT,
    DESC_F_NEXT,
    DESC_SIZE,
    MAX_CHAIN,
    NO_ROOM,
    OK,
    add_segment,
    check_table,
    need_event,
    next_segment,
    start_element,
)
from devices.virtio.order import get_u16, get_u32, get_u64, set_u16, set_u32
from devices.virtio.records import (
    BIG_ENDIAN,
    EVENT_IDX,
    INDIRECT,
    MAX_QUEUE_SIZE,
    NOTIFY_ON_EMPTY,
    USED_DTYPE,
    RingError,
    used_at,
)
from emu.memory.dma import dma_at, dma_contains, dma_written
from emu.memory.native import fence

_BIG_ENDIAN = np.uint32(BIG_ENDIAN)
_EVENT_IDX = np.uint32(EVENT_IDX)
_INDIRECT = np.uint32(INDIRECT)
_NOTIFY_ON_EMPTY = np.uint32(NOTIFY_ON_EMPTY)
_AVAIL_F_NO_INTERRUPT = np.uint64(1)
_USED_F_NO_NOTIFY = np.uint64(1)

_RING = np.uint64(4)  # offset of the entries in both rings
_IDX = np.uint64(2)
_USED_ELEM_SIZE = np.uint64(8)
_USED_SIZE = np.uint64(USED_DTYPE.itemsize)
_MAX_SIZE = np.uint64(MAX_QUEUE_SIZE)
_ZERO, _ONE, _TWO, _FOUR = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(4)

_RING_OUTSIDE_RAM = np.uint32(RingError.RING_OUTSIDE_RAM)
_AVAIL_JUMP = np.uint32(RingError.AVAIL_JUMP)
_HEAD_OUT_OF_RANGE = np.int64(RingError.HEAD_OUT_OF_RANGE)
_NEXT_OUT_OF_RANGE = np.int64(RingError.NEXT_OUT_OF_RANGE)
_CHAIN_TOO_LONG = np.int64(RingError.CHAIN_TOO_LONG)
_BAD_INDIRECT = np.int64(RingError.BAD_INDIRECT)
_INDIRECT_NOT_NEGOTIATED = np.int64(RingError.INDIRECT_NOT_NEGOTIATED)


@njit(cache=True)
def split_has_work(queue):  # type: ignore[no-untyped-def]
    """Whether the available ring holds entries; a ring outside RAM sets ``error``."""
    if not _check_areas(queue):
        return False
    big = queue.flags & _BIG_ENDIAN != 0
    address = dma_at(queue.dma).ram + queue.driver + _IDX
    return np.uint16(get_u16(address, big)) != queue.last_avail


@njit(cache=True)
def split_pop(queue, elements, max_elements, segments, max_segments):  # type: ignore[no-untyped-def]
    """See :func:`devices.virtio.ring.pop`."""
    if not _check_areas(queue):
        return np.int64(0)
    if queue.flags & _BIG_ENDIAN:
        return _pop(queue, elements, max_elements, segments, max_segments, True)
    return _pop(queue, elements, max_elements, segments, max_segments, False)


@njit(cache=True)
def split_push(queue, used, count):  # type: ignore[no-untyped-def]
    """See :func:`devices.virtio.ring.push`."""
    count = min(np.uint64(count), np.uint64(queue.inuse))
    if count == _ZERO or not _check_areas(queue):
        return np.int64(0)
    if queue.flags & _BIG_ENDIAN:
        return _push(queue, used, count, True)
    return _push(queue, used, count, False)


@njit(cache=True)
def split_set_notification(queue):  # type: ignore[no-untyped-def]
    """Tell the driver what ``notification`` says (2.7.10).

    With EVENT_IDX there is no way to switch notifications off: avail_event just stays behind.
    """
    if not _check_areas(queue):
        return
    big = queue.flags & _BIG_ENDIAN != 0
    if queue.flags & _EVENT_IDX:
        _publish_avail_event(queue, big)
    else:
        dma = dma_at(queue.dma)
        flags = _ZERO if queue.notification else _USED_F_NO_NOTIFY
        set_u16(dma.ram + queue.device, flags, big)
        dma_written(dma, queue.device, _TWO)
    fence()  # before the available index is read again


# The three areas


@njit(cache=True)
def _check_areas(queue):  # type: ignore[no-untyped-def]
    """Whether all three areas lie in RAM; the event fields belong to them only with EVENT_IDX."""
    dma = dma_at(queue.dma)
    size = np.uint64(queue.size)
    event = _TWO if queue.flags & _EVENT_IDX else _ZERO
    if (
        size == _ZERO
        or size > _MAX_SIZE
        or not dma_contains(dma, queue.desc, size * DESC_SIZE)
        or not dma_contains(dma, queue.driver, _RING + size * _TWO + event)
        or not dma_contains(dma, queue.device, _RING + size * _USED_ELEM_SIZE + event)
    ):
        queue.error = _RING_OUTSIDE_RAM
        return False
    return True


# Available ring and descriptors


@njit(cache=True)
def _pop(queue, elements, max_elements, segments, max_segments, big):  # type: ignore[no-untyped-def]
    literally(big)
    taken = _ZERO
    first_segment = _ZERO
    result = OK
    # After each batch the available index is read again: what the driver added before it could
    # see the new avail_event comes without a notification.
    while result == OK and taken < max_elements:
        goal = taken + min(_available(queue, big), max_elements - taken)
        start = taken
        while taken < goal:
            element = start_element(elements, taken, first_segment)
            offset = np.uint16(queue.last_avail + (taken - start))
            result = _take(queue, offset, element, segments, max_segments, big)
            if result != OK:
                break
            first_segment = next_segment(element)
            taken += _ONE
        if taken == start:
            break
        queue.last_avail = np.uint16(queue.last_avail + (taken - start))
        queue.inuse = np.uint32(queue.inuse + (taken - start))
        if queue.flags & _EVENT_IDX:
            _publish_avail_event(queue, big)
    if result != OK and result != NO_ROOM:
        queue.error = np.uint32(result)
    return np.int64(taken)


@njit(cache=True)
def _available(queue, big):  # type: ignore[no-untyped-def]
    """Number of available entries; AVAIL_JUMP if these and those in use are too many."""
    idx = get_u16(dma_at(queue.dma).ram + queue.driver + _IDX, big)
    fence()  # the entries are read after the index (2.7.13.3)
    available = np.uint64(np.uint16(idx - np.uint64(queue.last_avail)))
    if available != _ZERO and available + np.uint64(queue.inuse) > np.uint64(queue.size):
        queue.error = _AVAIL_JUMP
        return _ZERO
    return available


@njit(cache=True)
def _publish_avail_event(queue, big):  # type: ignore[no-untyped-def]
    """Ask for a notification of the next entry, if any are wanted."""
    if queue.notification:
        dma = dma_at(queue.dma)
        place = queue.device + _RING + np.uint64(queue.size) * _USED_ELEM_SIZE
        set_u16(dma.ram + place, np.uint64(queue.last_avail), big)
        dma_written(dma, place, _TWO)
        fence()  # before the available index is read again


@njit(cache=True)
def _take(queue, position, element, segments, max_segments, big):  # type: ignore[no-untyped-def]
    """Collect the chain of one available entry."""
    literally(big)
    size = np.uint64(queue.size)
    dma = dma_at(queue.dma)
    slot = np.uint64(position) % size
    head = get_u16(dma.ram + queue.driver + _RING + slot * _TWO, big)
    if head >= size:
        return _HEAD_OUT_OF_RANGE
    element.head = np.uint16(head)
    element.descriptors = np.uint16(1)
    return _walk(queue, dma, head, element, segments, max_segments, big)


@njit(cache=True)
def _walk(queue, dma, index, element, segments, max_segments, big):  # type: ignore[no-untyped-def]
    """Follow a chain: any number of descriptors, the last may refer to an indirect table."""
    literally(big)
    table = queue.desc
    entries = np.uint64(queue.size)
    in_indirect = False
    left = entries
    while left != _ZERO:
        left -= _ONE
        place = dma.ram + table + index * DESC_SIZE
        address = get_u64(place, big)
        length = get_u32(place + np.uint64(8), big)
        flags = get_u16(place + np.uint64(12), big)
        if flags & DESC_F_INDIRECT:
            result = _check_indirect(queue, dma, address, length, flags, in_indirect)
            if result != OK:
                return result
            in_indirect = True
            table = address
            entries = length // DESC_SIZE
            left = min(entries, MAX_CHAIN)
            index = _ZERO
            continue
        result = add_segment(dma, element, segments, max_segments, address, length, flags)
        if result != OK or flags & DESC_F_NEXT == _ZERO:
            return result
        index = get_u16(place + np.uint64(14), big)
        if index >= entries:
            return _NEXT_OUT_OF_RANGE
    return _CHAIN_TOO_LONG


@njit(cache=True)
def _check_indirect(queue, dma, address, length, flags, in_indirect):  # type: ignore[no-untyped-def]
    """Whether a descriptor may refer to an indirect table (2.7.5.3); its WRITE means nothing."""
    if in_indirect:
        return _BAD_INDIRECT
    if queue.flags & _INDIRECT == 0:
        return _INDIRECT_NOT_NEGOTIATED
    if flags & DESC_F_NEXT:
        return _BAD_INDIRECT
    return check_table(dma, address, length)


# Used ring


@njit(cache=True)
def _push(queue, used, count, big):  # type: ignore[no-untyped-def]
    literally(big)
    dma = dma_at(queue.dma)
    size = np.uint64(queue.size)
    ring = queue.device + _RING
    first = np.uint64(queue.used_idx) % size
    slot = first
    count = min(count, size)
    for index in range(count):
        entry = used_at(used + np.uint64(index) * _USED_SIZE)
        place = dma.ram + ring + slot * _USED_ELEM_SIZE
        set_u32(place, np.uint64(entry.head), big)
        set_u32(place + _FOUR, np.uint64(entry.written), big)
        slot = slot + _ONE if slot + _ONE < size else _ZERO
    fence()  # the entries are there before the index says so (2.7.8.2)
    queue.used_idx = np.uint16(queue.used_idx + count)
    queue.inuse = np.uint32(queue.inuse - count)
    set_u16(dma.ram + queue.device + _IDX, np.uint64(queue.used_idx), big)
    # Entries that wrapped around follow the index directly.
    straight = min(count, size - first)
    dma_written(dma, ring + first * _USED_ELEM_SIZE, straight * _USED_ELEM_SIZE)
    dma_written(dma, queue.device + _IDX, _TWO + (count - straight) * _USED_ELEM_SIZE)
    return _wants_interrupt(queue, dma, big)


@njit(cache=True)
def _wants_interrupt(queue, dma, big):  # type: ignore[no-untyped-def]
    """Used buffer notification suppression (2.7.7); also moves ``signalled_used``."""
    fence()  # the driver's wishes are read after the index is written (2.7.7.2)
    available = dma.ram + queue.driver
    new, old = np.uint64(queue.used_idx), np.uint64(queue.signalled_used)
    valid = queue.signalled_valid != 0
    queue.signalled_used = queue.used_idx
    queue.signalled_valid = np.uint8(1)
    empty = np.uint16(get_u16(available + _IDX, big)) == queue.last_avail
    if queue.flags & _NOTIFY_ON_EMPTY and queue.inuse == 0 and empty:
        return np.int64(1)
    if queue.flags & _EVENT_IDX == 0:
        return np.int64(get_u16(available, big) & _AVAIL_F_NO_INTERRUPT == _ZERO)
    event = get_u16(available + _RING + np.uint64(queue.size) * _TWO, big)
    return np.int64(not valid or need_event(event, new, old))
