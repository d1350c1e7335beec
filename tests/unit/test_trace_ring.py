"""The ring between compiled code and Python: nothing lost, nothing mixed up, never stuck."""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import pytest
from numba import njit, types

from emu.trace.ring import MAX_RECORD, Ring, begin_record, end_record, put_word, ring_at


@njit(types.int64(types.uint64, types.int64, types.int64), cache=True, nogil=True)
def write_many(address, first, count):  # type: ignore[no-untyped-def]
    """Write records of 1 to 5 words, their number in all of them; returns how many went in."""
    ring = ring_at(address)
    written = 0
    for i in range(first, first + count):
        length = np.uint64(1 + i % 5)
        if begin_record(ring, i % 250, i % 16, length, np.uint64(i)):
            for word in range(1, length):
                put_word(ring, word, np.uint64(i * 100 + word))
            end_record(ring, length)
            written += 1
    return written


def records(words: list[int]) -> list[int]:
    """The numbers of the records, each checked to be whole."""
    found = []
    at = 0
    while at < len(words):
        header = words[at]
        number, length = header >> 32, header >> 16 & 0xFFFF
        assert length == 1 + number % 5
        assert header & 0xFF == number % 250
        assert header >> 8 & 0xFF == number % 16
        assert words[at + 1 : at + length] == [number * 100 + word for word in range(1, length)]
        found.append(number)
        at += length
    return found


class Reader:
    """What a ring has given."""

    def __init__(self) -> None:
        self.words: list[int] = []

    def __call__(self, words: npt.NDArray[np.uint64]) -> None:
        self.words += words.tolist()


def test_records_come_whole_and_in_order_across_many_turns_of_the_ring() -> None:
    reader = Reader()
    ring = Ring(MAX_RECORD, reader, on_full_drain=True)
    assert write_many(ring.address, 0, 20_000) == 20_000
    assert ring.waiting
    ring.drain()
    assert not ring.waiting
    assert records(reader.words) == list(range(20_000))
    assert ring.dropped == 0


def test_a_full_ring_drops_and_counts_when_told_to() -> None:
    reader = Reader()
    ring = Ring(MAX_RECORD, reader, on_full_drain=False)
    written = write_many(ring.address, 0, 5_000)
    assert 0 < written < 5_000
    assert ring.dropped == 5_000 - written
    ring.drain()
    assert len(records(reader.words)) == written
    assert write_many(ring.address, 0, 100) == 100  # there is room again


def test_a_second_thread_may_drain_while_records_are_written() -> None:
    reader = Reader()
    ring = Ring(MAX_RECORD, reader, on_full_drain=True)
    done = threading.Event()

    def drain() -> None:
        while not done.is_set():
            ring.drain()

    thread = threading.Thread(target=drain)
    thread.start()
    try:
        for first in range(0, 100_000, 10_000):
            assert write_many(ring.address, first, 10_000) == 10_000
    finally:
        done.set()
        thread.join()
    ring.drain()
    assert records(reader.words) == list(range(100_000))


def test_a_reader_that_fails_does_not_stop_the_writer(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_words: npt.NDArray[np.uint64]) -> None:
        raise RuntimeError("no")

    ring = Ring(MAX_RECORD, fail, on_full_drain=True)
    assert write_many(ring.address, 0, 10_000) == 10_000
    assert "reading a trace" in caplog.text


def test_a_reader_may_ask_for_draining() -> None:
    ring: Ring
    calls: list[int] = []

    def consume(words: npt.NDArray[np.uint64]) -> None:
        calls.append(len(words))
        ring.drain()

    ring = Ring(MAX_RECORD, consume, on_full_drain=True)
    write_many(ring.address, 0, 5)
    ring.drain()
    assert calls == [15]


@pytest.mark.parametrize("words", [0, 100, MAX_RECORD // 2, MAX_RECORD + 1])
def test_sizes_are_powers_of_two_with_room_for_a_record(words: int) -> None:
    with pytest.raises(ValueError, match="ring"):
        Ring(words, lambda _: None, on_full_drain=False)
