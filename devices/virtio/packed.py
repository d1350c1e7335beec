"""Packed virtqueues (virtio 1.2, 2.8); always little-endian.

Descriptor ring: {address u64, length u32, id u16, flags u16}[size].  Event suppression
structures: offset and wrap counter u16, flags u16.  A field of the ring is read once, and what is
used is what was checked.  vCPU thread.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from devices.virtio.chain import (
    DESC_F_INDIRECT,
    DESC_F_NEXT,
    DESC_F_WRITE,
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
from devices.virtio.records import (
    EVENT_IDX,
    INDIRECT,
    MAX_QUEUE_SIZE,
    USED_DTYPE,
    RingError,
    used_at,
)
from emu.memory.dma import dma_at, dma_contains, dma_written
from emu.memory.native import (
    fence,
    load_u16,
    load_u32,
    load_u64,
    store_u16,
    store_u32,
)

_EVENT_IDX = np.uint32(EVENT_IDX)
_INDIRECT = np.uint32(INDIRECT)

_F_AVAIL = np.uint64(1 << 7)
_F_USED = np.uint64(1 << 15)
_AVAIL_SHIFT = np.uint64(7)
_USED_SHIFT = np.uint64(15)
_WRAP_SHIFT = np.uint64(15)
_OFFSET_MASK = np.uint64(0x7FFF)

# Flags of an event suppression structure (2.8.14)
_EVENT_ENABLE = np.uint64(0)
_EVENT_DISABLE = np.uint64(1)
_EVENT_DESC = np.uint64(2)
_EVENT_MASK = np.uint64(3)
_EVENT_SIZE = np.uint64(4)

_LENGTH, _ID, _FLAGS = np.uint64(8), np.uint64(12), np.uint64(14)
_USED_SIZE = np.uint64(USED_DTYPE.itemsize)
_MAX_SIZE = np.uint64(MAX_QUEUE_SIZE)
_ZERO, _ONE, _TWO = np.uint64(0), np.uint64(1), np.uint64(2)
_SIXTEEN = np.uint64(16)

_RING_OUTSIDE_RAM = np.uint32(RingError.RING_OUTSIDE_RAM)
_AVAIL_JUMP = np.int64(RingError.AVAIL_JUMP)
_CHAIN_TOO_LONG = np.int64(RingError.CHAIN_TOO_LONG)
_BAD_INDIRECT = np.int64(RingError.BAD_INDIRECT)
_INDIRECT_NOT_NEGOTIATED = np.int64(RingError.INDIRECT_NOT_NEGOTIATED)


@njit(cache=True)
def packed_has_work(queue):  # type: ignore[no-untyped-def]
    """Whether the next descriptor is available; a ring outside RAM sets ``error``."""
    return _check_areas(queue) and _is_available(queue, dma_at(queue.dma))


@njit(cache=True)
def packed_pop(queue, elements, max_elements, segments, max_segments):  # type: ignore[no-untyped-def]
    """See :func:`devices.virtio.ring.pop`."""
    if not _check_areas(queue):
        return np.int64(0)
    dma = dma_at(queue.dma)
    taken = _ZERO
    first_segment = _ZERO
    result = OK
    # After each batch the ring is looked at again: what the driver added before it could see
    # the new event suppression structure comes without a notification.
    while result == OK:
        start = taken
        while taken < max_elements and _is_available(queue, dma):
            fence()  # the rest of the descriptor is read after its flags
            element = start_element(elements, taken, first_segment)
            result = _take(queue, dma, element, segments, max_segments)
            if result != OK:
                break
            first_segment = next_segment(element)
            taken += _ONE
        if taken == start:
            break
        if queue.flags & _EVENT_IDX and queue.notification:
            packed_set_notification(queue)
    if result != OK and result != NO_ROOM:
        queue.error = np.uint32(result)
    return np.int64(taken)


@njit(cache=True)
def packed_push(queue, used, count):  # type: ignore[no-untyped-def]
    """See :func:`devices.virtio.ring.push`.

    The flags of the batch's first descriptor are written last: the driver, who looks at used
    descriptors in order, sees none or all.
    """
    if not _check_areas(queue):
        return np.int64(0)
    dma = dma_at(queue.dma)
    size = np.uint64(queue.size)
    first, last = np.uint64(queue.used_idx), np.uint64(queue.used_idx)
    first_flags = _ZERO
    left = min(np.uint64(queue.inuse), size)
    wrapped = False
    done = _ZERO
    while done < count:
        entry = used_at(used + done * _USED_SIZE)
        descriptors = np.uint64(entry.descriptors)
        if descriptors == _ZERO or descriptors > left:
            break  # not taken from this queue since it was set up
        left -= descriptors
        last = np.uint64(queue.used_idx)
        place = dma.ram + queue.desc + last * DESC_SIZE
        flags = _used_flags(queue, np.uint64(entry.written))
        store_u32(place + _LENGTH, np.uint64(entry.written))
        store_u16(place + _ID, np.uint64(entry.head))
        if done == _ZERO:
            first_flags = flags
        else:
            store_u16(place + _FLAGS, flags)
        wrapped |= _advance_used(queue, descriptors)
        done += _ONE
    if done == _ZERO:
        return np.int64(0)
    fence()  # everything else is there before the flags of the first say so (2.8.22)
    store_u16(dma.ram + queue.desc + first * DESC_SIZE + _FLAGS, first_flags)
    _log_used(queue, dma, first, last, size)
    return _wants_interrupt(queue, dma, wrapped)


@njit(cache=True)
def packed_set_notification(queue):  # type: ignore[no-untyped-def]
    """Tell the driver what ``notification`` says, in the device's structure (2.8.14)."""
    if not _check_areas(queue):
        return
    dma = dma_at(queue.dma)
    place = dma.ram + queue.device
    if queue.notification and queue.flags & _EVENT_IDX:
        position = np.uint64(queue.last_avail) | np.uint64(queue.avail_wrap & 1) << _WRAP_SHIFT
        store_u32(place, position | _EVENT_DESC << _SIXTEEN)
        dma_written(dma, queue.device, _EVENT_SIZE)
    else:
        store_u16(place + _TWO, _EVENT_ENABLE if queue.notification else _EVENT_DISABLE)
        dma_written(dma, queue.device + _TWO, _TWO)
    fence()  # before the ring is looked at again


@njit(cache=True)
def _check_areas(queue):  # type: ignore[no-untyped-def]
    """Whether all three areas lie in RAM, and the positions in the ring."""
    dma = dma_at(queue.dma)
    size = np.uint64(queue.size)
    if (
        size == _ZERO
        or size > _MAX_SIZE
        or np.uint64(queue.last_avail) >= size
        or np.uint64(queue.used_idx) >= size
        or not dma_contains(dma, queue.desc, size * DESC_SIZE)
        or not dma_contains(dma, queue.driver, _EVENT_SIZE)
        or not dma_contains(dma, queue.device, _EVENT_SIZE)
    ):
        queue.error = _RING_OUTSIDE_RAM
        return False
    return True


# Available descriptors


@njit(cache=True)
def _is_available(queue, dma):  # type: ignore[no-untyped-def]
    """AVAIL equals the wrap counter, USED does not (2.8.1)."""
    place = dma.ram + queue.desc + np.uint64(queue.last_avail) * DESC_SIZE
    flags = np.uint64(load_u16(place + _FLAGS))
    wrap = np.uint64(queue.avail_wrap & 1)
    return (flags >> _AVAIL_SHIFT) & _ONE == wrap and (flags >> _USED_SHIFT) & _ONE != wrap


@njit(cache=True)
def _take(queue, dma, element, segments, max_segments):  # type: ignore[no-untyped-def]
    """Collect the chain at ``last_avail``, and go behind it."""
    size = np.uint64(queue.size)
    result = _walk(queue, dma, element, segments, max_segments)
    if result != OK:
        return result
    descriptors = np.uint64(element.descriptors)
    if np.uint64(queue.inuse) + descriptors > size:
        return _AVAIL_JUMP
    position = np.uint64(queue.last_avail) + descriptors
    if position >= size:
        position -= size
        queue.avail_wrap = np.uint8(queue.avail_wrap & 1 ^ 1)
    queue.last_avail = np.uint16(position)
    queue.inuse = np.uint32(queue.inuse + descriptors)
    return OK


@njit(cache=True)
def _walk(queue, dma, element, segments, max_segments):  # type: ignore[no-untyped-def]
    """Follow a list of descriptors, or the indirect table that a single one refers to.

    The buffer id is the last descriptor's (2.8.6).
    """
    size = np.uint64(queue.size)
    index = np.uint64(queue.last_avail)
    for walked in range(size):
        place = dma.ram + queue.desc + index * DESC_SIZE
        address = load_u64(place)
        length = np.uint64(load_u32(place + _LENGTH))
        flags = np.uint64(load_u16(place + _FLAGS))
        if flags & DESC_F_INDIRECT:
            if queue.flags & _INDIRECT == 0:
                return _INDIRECT_NOT_NEGOTIATED
            if walked != 0 or flags & DESC_F_NEXT:
                return _BAD_INDIRECT
            result = _walk_table(dma, address, length, element, segments, max_segments)
        else:
            result = add_segment(dma, element, segments, max_segments, address, length, flags)
        if result != OK:
            return result
        if flags & DESC_F_NEXT == _ZERO:
            element.head = load_u16(place + _ID)
            element.descriptors = np.uint16(np.uint64(walked) + _ONE)
            return OK
        index = index + _ONE if index + _ONE < size else _ZERO
    return _CHAIN_TOO_LONG


@njit(cache=True)
def _walk_table(dma, table, length, element, segments, max_segments):  # type: ignore[no-untyped-def]
    """All descriptors of an indirect table, in order; of their flags only WRITE counts (2.8.7)."""
    result = check_table(dma, table, length)
    if result != OK:
        return result
    entries = length // DESC_SIZE
    if entries > MAX_CHAIN:
        return _CHAIN_TOO_LONG
    for index in range(entries):
        place = dma.ram + table + np.uint64(index) * DESC_SIZE
        address = load_u64(place)
        size = np.uint64(load_u32(place + _LENGTH))
        flags = np.uint64(load_u16(place + _FLAGS))
        result = add_segment(dma, element, segments, max_segments, address, size, flags)
        if result != OK:
            return result
    return OK


# Used descriptors


@njit(cache=True)
def _used_flags(queue, written):  # type: ignore[no-untyped-def]
    """AVAIL and USED equal the wrap counter; WRITE says that the length means something."""
    flags = (_F_AVAIL | _F_USED) if queue.used_wrap & 1 else _ZERO
    return flags | DESC_F_WRITE if written != _ZERO else flags


@njit(cache=True)
def _advance_used(queue, descriptors):  # type: ignore[no-untyped-def]
    """Skip the ring entries of an element; whether the position wrapped around."""
    size = np.uint64(queue.size)
    position = np.uint64(queue.used_idx) + descriptors
    wraps = position >= size
    if wraps:
        position -= size
        queue.used_wrap = np.uint8(queue.used_wrap & 1 ^ 1)
    queue.used_idx = np.uint16(position)
    queue.inuse = np.uint32(queue.inuse - descriptors)
    return wraps


@njit(cache=True)
def _log_used(queue, dma, first, last, size):  # type: ignore[no-untyped-def]
    """Log from the first to the last used descriptor written, around the end of the ring."""
    start = queue.desc + first * DESC_SIZE + _LENGTH
    stop = queue.desc + (last + _ONE) * DESC_SIZE
    if last >= first:
        dma_written(dma, start, stop - start)
    else:
        dma_written(dma, start, queue.desc + size * DESC_SIZE - start)
        dma_written(dma, queue.desc, stop - queue.desc)


@njit(cache=True)
def _wants_interrupt(queue, dma, wrapped):  # type: ignore[no-untyped-def]
    """What the driver's event suppression structure says; also moves ``signalled_used``.

    Positions become comparable by counting those of the lap before as negative.
    """
    fence()  # the driver's wishes are read after the flags are written
    event = np.uint64(load_u32(dma.ram + queue.driver))
    size = np.uint64(queue.size)
    new, old = np.uint64(queue.used_idx), np.uint64(queue.signalled_used)
    valid = queue.signalled_valid != 0
    queue.signalled_used = queue.used_idx
    queue.signalled_valid = np.uint8(1)
    flags = (event >> _SIXTEEN) & _EVENT_MASK
    if flags != _EVENT_DESC or queue.flags & _EVENT_IDX == 0:
        return np.int64(flags != _EVENT_DISABLE)
    offset = event & _OFFSET_MASK
    if (event >> _WRAP_SHIFT) & _ONE != np.uint64(queue.used_wrap & 1):
        offset -= size
    if wrapped:
        old -= size
    return np.int64(not valid or need_event(offset, new, old))
