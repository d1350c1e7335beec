"""Records of the ring processor, and its entry points for both ring formats.

A :data:`QUEUE_DTYPE` record is one virtqueue: where its three areas are in guest RAM, how they
are to be read, and how far the device has come.  :func:`pop` collects what the driver has made
available as a batch of :data:`ELEMENT_DTYPE` with their :data:`SEGMENT_DTYPE`; :func:`push`
returns a batch of :data:`USED_DTYPE`.  Nothing the guest writes makes these functions fail,
loop, or touch anything outside RAM: a bad ring puts a :class:`RingError` into ``error``, and
from then on the queue yields nothing until it is set up anew.

All run on the vCPU thread.
"""

from __future__ import annotations

import numpy as np
from numba import njit, types

from devices.virtio.packed import packed_has_work, packed_pop, packed_push, packed_set_notification
from devices.virtio.records import (
    ELEMENT_DTYPE,
    MAX_QUEUE_SIZE,
    PACKED,
    QUEUE_DTYPE,
    SEGMENT_DTYPE,
    USED_DTYPE,
    RingError,
    queue_at,
)
from devices.virtio.split import split_has_work, split_pop, split_push, split_set_notification

__all__ = [
    "ELEMENT_DTYPE",
    "MAX_QUEUE_SIZE",
    "QUEUE_DTYPE",
    "SEGMENT_DTYPE",
    "USED_DTYPE",
    "RingError",
    "has_work",
    "pop",
    "push",
    "set_notification",
]

_PACKED = np.uint32(PACKED)
_u64, _i64 = types.uint64, types.int64


@njit(_i64(_u64, _u64, _u64, _u64, _u64), cache=True)
def pop(queue_address, elements, max_elements, segments, max_segments):  # type: ignore[no-untyped-def]
    """Take up to ``max_elements`` available chains; returns their number.

    ``elements`` and ``segments`` are host addresses of ELEMENT_DTYPE and SEGMENT_DTYPE arrays;
    ``max_segments`` is at least MAX_QUEUE_SIZE, so that any one valid chain fits.  An element whose
    segments do not fit any more is left for the next call.  When the ring turns out bad,
    ``error`` is set; elements before the bad one are still returned.
    """
    queue = queue_at(queue_address)
    if queue.enabled == 0 or queue.error != 0:
        return np.int64(0)
    if queue.flags & _PACKED:
        return packed_pop(queue, elements, max_elements, segments, max_segments)
    return split_pop(queue, elements, max_elements, segments, max_segments)


@njit(_i64(_u64, _u64, _u64), cache=True)
def push(queue_address, used, count):  # type: ignore[no-untyped-def]
    """Return ``count`` USED_DTYPE entries to the driver; 1 if it wants an interrupt, else 0.

    Entries beyond what is in use are dropped: they were taken before the queue was set up anew.
    Elements go back in the order of ``used``; with IN_ORDER negotiated that must be the order
    :func:`pop` gave them in (2.7.9, 2.8.8), so devices that finish requests in another order do
    not offer it.  Each element gets a used entry of its own.
    """
    queue = queue_at(queue_address)
    if queue.enabled == 0 or queue.error != 0:
        return np.int64(0)
    if queue.flags & _PACKED:
        return packed_push(queue, used, count)
    return split_push(queue, used, count)


@njit(_i64(_u64, _u64), cache=True)
def set_notification(queue_address, enable):  # type: ignore[no-untyped-def]
    """Ask the driver for notifications, or not; 1 if there is work waiting right now."""
    queue = queue_at(queue_address)
    if queue.enabled == 0 or queue.error != 0:
        return np.int64(0)
    queue.notification = np.uint8(enable)
    if queue.flags & _PACKED:
        packed_set_notification(queue)
        return np.int64(packed_has_work(queue))
    split_set_notification(queue)
    return np.int64(split_has_work(queue))


@njit(_i64(_u64), cache=True)
def has_work(queue_address):  # type: ignore[no-untyped-def]
    """1 if the driver has made something available."""
    queue = queue_at(queue_address)
    if queue.enabled == 0 or queue.error != 0:
        return np.int64(0)
    if queue.flags & _PACKED:
        return np.int64(packed_has_work(queue))
    return np.int64(split_has_work(queue))
