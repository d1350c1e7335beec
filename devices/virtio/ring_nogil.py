"""The ring processor's entry points without the GIL: for guest RAM that may have to be waited for.

They cost more to call than those of :mod:`devices.virtio.ring`, so these are for post-copy only.
"""

from __future__ import annotations

from numba import njit, types

from devices.virtio import ring

_u64, _i64 = types.uint64, types.int64


@njit(_i64(_u64, _u64, _u64, _u64, _u64), cache=True, nogil=True)
def pop(queue_address, elements, max_elements, segments, max_segments):  # type: ignore[no-untyped-def]
    """As in ``ring``."""
    return ring.pop(queue_address, elements, max_elements, segments, max_segments)


@njit(_i64(_u64, _u64, _u64), cache=True, nogil=True)
def push(queue_address, used, count):  # type: ignore[no-untyped-def]
    """As in ``ring``."""
    return ring.push(queue_address, used, count)


@njit(_i64(_u64, _u64), cache=True, nogil=True)
def set_notification(queue_address, enable):  # type: ignore[no-untyped-def]
    """As in ``ring``."""
    return ring.set_notification(queue_address, enable)


@njit(_i64(_u64), cache=True, nogil=True)
def has_work(queue_address):  # type: ignore[no-untyped-def]
    """As in ``ring``."""
    return ring.has_work(queue_address)
