"""The thread that supplies missing pages during post-copy, in compiled code without the GIL.

A thread that waits for a page may hold the GIL, so nothing between the fault and the page may need
it.  On the connection, from the source: big-endian words, page number above twelve bits of flags,
a word with PAGE being followed by the page.  To the source: REQUEST and a page number (64 bits).
"""

from __future__ import annotations

import errno
from typing import Any

import numpy as np
from numba import njit, types

from emu.memory.native import (
    load_u8,
    load_u16,
    load_u32,
    load_u64,
    load_u64_be,
    record_pointer,
    store_u8,
    store_u32,
    store_u64,
    store_u64_be,
)
from emu.memory.ram import PAGE_SIZE
from emu.memory.userfault import (
    EVENT_PAGEFAULT,
    IOC_COPY,
    IOC_UNREGISTER,
    IOC_WAKE,
    IOC_ZEROPAGE,
    MESSAGE_SIZE,
)

GO, ZERO, PAGE, EOS = 0x01, 0x02, 0x08, 0x10
REQUEST = 0x50
#: What :func:`supply` returns.
DONE, STOPPED, LOST, NONSENSE, FAILED = 0, 1, 2, 3, 4

SUPPLY_DTYPE = np.dtype(
    [
        ("ram", "u8"),  # host address
        ("pages", "i8"),
        ("missing", "u8"),  # a byte a page: it has not come yet
        ("requested", "u8"),  # a byte a page: somebody waits for it
        ("buffer", "u8"),  # BUFFER_SIZE bytes for what comes
        ("filled", "i8"),  # bytes in it
        ("scratch", "u8"),  # SCRATCH_SIZE bytes for the kernel
        ("userfault", "i4"),
        ("connection", "i4"),
        ("stop", "i4"),  # an eventfd that ends it
        ("announce", "i4"),  # an eventfd that it sets for GO
        ("left", "i8"),  # pages that are missing
        ("requests", "i8"),  # pages asked for
        ("error", "i4"),  # errno behind LOST and FAILED
    ],
    align=True,
)
supply_at = record_pointer(SUPPLY_DTYPE)
BUFFER_SIZE = 1 << 18
SCRATCH_SIZE = 1024

_u64, _i64, _i32 = types.uint64, types.int64, types.int32
_poll = types.ExternalFunction("poll", _i32(_u64, _u64, _i32))
_read = types.ExternalFunction("read", _i64(_i32, _u64, _u64))
_write = types.ExternalFunction("write", _i64(_i32, _u64, _u64))
_send = types.ExternalFunction("send", _i64(_i32, _u64, _u64, _i32))
_recv = types.ExternalFunction("recv", _i64(_i32, _u64, _u64, _i32))
_ioctl = types.ExternalFunction("ioctl", _i32(_i32, _u64, _u64))
_memmove = types.ExternalFunction("memmove", _u64(_u64, _u64, _u64))
_errno_location = types.ExternalFunction("__errno_location", _u64())

_COPY, _ZEROPAGE, _WAKE = np.uint64(IOC_COPY), np.uint64(IOC_ZEROPAGE), np.uint64(IOC_WAKE)
_UNREGISTER = np.uint64(IOC_UNREGISTER)
_PAGE_SIZE = np.uint64(PAGE_SIZE)
_MASK = np.uint64(0xFFF)
_NOSIGNAL, _DONTWAIT = 0x4000, 0x40
_POLLIN = np.uint64(0x01)
_MORE = -1  # go on


@njit(cache=True)
def _errno():  # type: ignore[no-untyped-def]
    return np.int32(load_u32(_errno_location()))


@njit(cache=True)
def _try_again(error):  # type: ignore[no-untyped-def]
    return error == errno.EAGAIN or error == errno.EINTR


@njit(cache=True)
def _wake(supply, address):  # type: ignore[no-untyped-def]
    store_u64(supply.scratch, address)
    store_u64(supply.scratch + np.uint64(8), _PAGE_SIZE)
    _ioctl(supply.userfault, _WAKE, supply.scratch)


@njit(cache=True)
def _place_zeros(supply, page):  # type: ignore[no-untyped-def]
    """Put a page of zeros at its place; false if the kernel does not."""
    address = supply.ram + np.uint64(page) * _PAGE_SIZE
    while True:
        store_u64(supply.scratch, address)
        store_u64(supply.scratch + np.uint64(8), _PAGE_SIZE)
        store_u64(supply.scratch + np.uint64(16), np.uint64(0))
        if _ioctl(supply.userfault, _ZEROPAGE, supply.scratch) == 0:
            return True
        error = _errno()
        if error == errno.EEXIST:
            _wake(supply, address)
            return True
        if not _try_again(error):
            supply.error = error
            return False


@njit(cache=True)
def _place(supply, page, source):  # type: ignore[no-untyped-def]
    """Put a copy of what is at ``source`` at its place; false if the kernel does not."""
    address = supply.ram + np.uint64(page) * _PAGE_SIZE
    while True:
        store_u64(supply.scratch, address)
        store_u64(supply.scratch + np.uint64(8), source)
        store_u64(supply.scratch + np.uint64(16), _PAGE_SIZE)
        store_u64(supply.scratch + np.uint64(24), np.uint64(0))
        if _ioctl(supply.userfault, _COPY, supply.scratch) == 0:
            return True
        error = _errno()
        if error == errno.EEXIST:
            _wake(supply, address)
            return True
        if not _try_again(error):
            supply.error = error
            return False


@njit(cache=True)
def _ask(supply, page):  # type: ignore[no-untyped-def]
    """Ask the source for a page; false if it is gone."""
    store_u8(supply.scratch, np.uint64(REQUEST))
    store_u64_be(supply.scratch + np.uint64(1), np.uint64(page))
    done = np.int64(0)
    while done < 9:
        sent = _send(
            supply.connection, supply.scratch + np.uint64(done), np.uint64(9 - done), _NOSIGNAL
        )
        if sent > 0:
            done += sent
        elif not _try_again(_errno()):
            supply.error = _errno()
            return False
    supply.requests += 1
    return True


@njit(cache=True)
def _serve_faults(supply):  # type: ignore[no-untyped-def]
    """See who waits for what; _MORE, or why it ends."""
    messages = supply.scratch + np.uint64(256)
    size = _read(supply.userfault, messages, np.uint64(16 * MESSAGE_SIZE))
    if size < 0:
        if _try_again(_errno()):
            return _MORE
        supply.error = _errno()
        return FAILED
    result = _MORE
    for at in range(0, size, MESSAGE_SIZE):
        message = messages + np.uint64(at)
        if load_u8(message) != EVENT_PAGEFAULT:
            continue
        page = np.int64((load_u64(message + np.uint64(16)) - supply.ram) // _PAGE_SIZE)
        if not 0 <= page < supply.pages:
            continue
        if load_u8(supply.missing + np.uint64(page)) == 0:
            if not _place_zeros(supply, page):
                return FAILED
        elif load_u8(supply.requested + np.uint64(page)) == 0:
            store_u8(supply.requested + np.uint64(page), np.uint64(1))
            if result == _MORE and not _ask(supply, page):
                result = LOST  # the kernel tells a fault once: note the others too
    return result


@njit(cache=True)
def _take_pages(supply):  # type: ignore[no-untyped-def]
    """Use the complete messages in the buffer; _MORE, or why it ends."""
    at = np.int64(0)
    result = _MORE
    while result == _MORE and supply.filled - at >= 8:
        word = load_u64_be(supply.buffer + np.uint64(at))
        flags = word & _MASK
        page = np.int64(word >> np.uint64(12))
        if flags == GO:
            store_u64(supply.scratch, np.uint64(1))
            _write(supply.announce, supply.scratch, np.uint64(8))
            at += 8
        elif flags == EOS:
            at += 8
            result = DONE if supply.left == 0 else NONSENSE
        elif (flags != ZERO and flags != PAGE) or page >= supply.pages:
            result = NONSENSE
        elif flags == PAGE and supply.filled - at < 8 + PAGE_SIZE:
            break
        else:
            content = supply.buffer + np.uint64(at + 8)
            at += 8 + PAGE_SIZE if flags == PAGE else 8
            if load_u8(supply.missing + np.uint64(page)) != 0:
                store_u8(supply.missing + np.uint64(page), np.uint64(0))
                supply.left -= 1
                placed = (
                    _place(supply, page, content) if flags == PAGE else _place_zeros(supply, page)
                )
                if not placed:
                    result = FAILED
    supply.filled -= at
    if at:
        _memmove(supply.buffer, supply.buffer + np.uint64(at), np.uint64(supply.filled))
    return result


@njit(cache=True)
def _receive(supply):  # type: ignore[no-untyped-def]
    """Take what the source has sent; _MORE, or why it ends."""
    room = np.uint64(BUFFER_SIZE - supply.filled)
    place = supply.buffer + np.uint64(supply.filled)
    count = _recv(supply.connection, place, room, _DONTWAIT)
    if count < 0 and _try_again(_errno()):
        return _MORE
    if count <= 0:
        supply.error = _errno() if count < 0 else np.int32(0)
        return LOST
    supply.filled += count
    return _take_pages(supply)


@njit(cache=True)
def _ask_again(supply):  # type: ignore[no-untyped-def]
    """Ask a new source for what was asked of the last one; false if it is gone."""
    for page in range(supply.pages):
        place = np.uint64(page)
        waited_for = load_u8(supply.requested + place) and load_u8(supply.missing + place)
        if waited_for and not _ask(supply, page):
            return False
    return True


@njit(types.int64(types.uint64), cache=True, nogil=True)
def supply(address):  # type: ignore[no-untyped-def]
    """Serve faults until all pages have come, or it is stopped, or something fails."""
    supply = supply_at(address)
    if not _ask_again(supply):
        return LOST
    polled = supply.scratch + np.uint64(64)  # three struct pollfd: fd, events, revents
    while True:
        store_u32(polled, np.uint64(np.uint32(supply.userfault)))
        store_u32(polled + np.uint64(4), _POLLIN)
        store_u32(polled + np.uint64(8), np.uint64(np.uint32(supply.connection)))
        store_u32(polled + np.uint64(12), _POLLIN)
        store_u32(polled + np.uint64(16), np.uint64(np.uint32(supply.stop)))
        store_u32(polled + np.uint64(20), _POLLIN)
        if _poll(polled, np.uint64(3), np.int32(-1)) < 0:
            if _errno() == errno.EINTR:
                continue
            supply.error = _errno()
            return FAILED
        result = _MORE
        if load_u16(polled + np.uint64(22)) != 0:
            return STOPPED
        if load_u16(polled + np.uint64(6)) != 0:
            result = _serve_faults(supply)
        if result == _MORE and load_u16(polled + np.uint64(14)) != 0:
            result = _receive(supply)
        if result == DONE:  # at once: nobody would answer those who wait for untouched pages
            store_u64(supply.scratch, supply.ram)
            store_u64(supply.scratch + np.uint64(8), np.uint64(supply.pages) * _PAGE_SIZE)
            _ioctl(supply.userfault, _UNREGISTER, supply.scratch)
        if result != _MORE:
            return result


def new_supply() -> Any:
    """An empty record, in an array of one."""
    return np.zeros(1, SUPPLY_DTYPE)
