"""A ring of 64-bit words from compiled code on the vCPU thread to Python.

A record is one header word and ``length - 1`` further words.  The header holds, from the least
significant bit on: 8 bits kind, 8 bits vCPU number, 16 bits length in words, 32 bits of the
kind's own.

The writer never waits for the reader: it either calls the reader itself when there is no room
(``ON_FULL_DRAIN``, nothing is lost) or drops the record and counts it (``ON_FULL_DROP``).
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from emu.memory.native import call_1, fence, load_u64, record_pointer, store_u64

RING_DTYPE = np.dtype(
    [
        ("words", "u8"),  # host address of the buffer
        ("size", "u8"),  # in words, a power of two
        ("head", "u8"),  # words written since the start; the writer's
        ("tail", "u8"),  # words read; the reader's
        ("drain", "u8"),  # native uint64 drain(uint64) that makes room, or 0
        ("dropped", "u8"),  # records there was no room for
    ],
    align=True,
)
ring_at = record_pointer(RING_DTYPE)

MAX_RECORD = 1 << 12  # words
_ONE = np.uint64(1)
_log = logging.getLogger(__name__)
_DRAIN = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64)


@njit(cache=True)
def _has_room(ring, length):  # type: ignore[no-untyped-def]
    return ring.size - (ring.head - ring.tail) >= length


@njit(cache=True)
def begin_record(ring, kind, vcpu_index, length, extra):  # type: ignore[no-untyped-def]
    """Write a record's header; false when there is no room and the record is dropped.

    ``length`` counts the header.  Follow it with :func:`put_word` for each further word, then
    with :func:`end_record`.
    """
    if not _has_room(ring, length):
        if ring.drain != 0:
            call_1(ring.drain, np.uint64(0))
        if not _has_room(ring, length):
            ring.dropped += _ONE
            return False
    header = np.uint64(kind) | np.uint64(vcpu_index) << np.uint64(8)
    header |= np.uint64(length) << np.uint64(16) | np.uint64(extra) << np.uint64(32)
    put_word(ring, np.uint64(0), header)
    return True


@njit(cache=True)
def put_word(ring, position, value):  # type: ignore[no-untyped-def]
    """Write the word at a position in the record that was begun."""
    index = (ring.head + np.uint64(position)) & (ring.size - _ONE)
    store_u64(ring.words + index * np.uint64(8), np.uint64(value))


@njit(cache=True)
def get_word(ring, position):  # type: ignore[no-untyped-def]
    """The word at a position in the record that was begun."""
    index = (ring.head + np.uint64(position)) & (ring.size - _ONE)
    return load_u64(ring.words + index * np.uint64(8))


@njit(cache=True)
def end_record(ring, length):  # type: ignore[no-untyped-def]
    """Show a record to the reader."""
    fence()
    ring.head += np.uint64(length)


class Ring:
    """The reader's end.

    ``consume`` gets all new words as one array, on the thread that calls :meth:`drain`: any
    thread, one at a time.  With ``on_full_drain`` that includes the writer's, with the GIL.
    """

    def __init__(
        self,
        words: int,
        consume: Callable[[npt.NDArray[np.uint64]], None],
        *,
        on_full_drain: bool,
    ) -> None:
        if words & (words - 1) or words < MAX_RECORD:
            raise ValueError(f"a ring of {words} words")
        self._consume = consume
        self._lock = threading.RLock()
        self._draining = False
        self._words = np.zeros(words, np.uint64)
        self._array = np.zeros(1, RING_DTYPE)
        self.record: Any = self._array[0]
        self.address: int = self._array.ctypes.data
        self.record["words"] = self._words.ctypes.data
        self.record["size"] = words
        self._callback = _DRAIN(self._drain_from_native)
        if on_full_drain:
            callback = ctypes.cast(self._callback, ctypes.c_void_p)
            self.record["drain"] = callback.value or 0

    def _drain_from_native(self, _unused: int) -> int:
        self.drain()
        return 0

    def drain(self) -> None:
        """Give everything written so far to ``consume``.

        Does nothing when called from inside ``consume``.  What ``consume`` raises is logged: the
        guest goes on.
        """
        with self._lock:
            if self._draining:
                return
            self._draining = True
            try:
                self._drain()
            except Exception:
                _log.exception("reading a trace")
            finally:
                self._draining = False

    def _drain(self) -> None:
        record, size = self.record, len(self._words)
        head, tail = int(record["head"]), int(record["tail"])
        if head == tail:
            return
        first, last = tail % size, head % size
        if first < last:
            words = self._words[first:last].copy()
        else:
            words = np.concatenate((self._words[first:], self._words[:last]))
        record["tail"] = head
        self._consume(words)

    @property
    def waiting(self) -> bool:
        """Whether something was written and not read yet."""
        return bool(self.record["head"] != self.record["tail"])

    @property
    def dropped(self) -> int:
        """Records there was no room for."""
        return int(self.record["dropped"])
