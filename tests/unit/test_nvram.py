"""NVRAM: contents, bounds, and what a fresh one holds."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware.nvram_image import header_checksum
from machines.pseries.nvram import NVRAM_SIZE, Nvram

WORD = 0xFFFFFFFF


def test_fresh_nvram_is_one_valid_free_partition() -> None:
    """LoPAR, NVRAM structure: the partitions fill the NVRAM and their checksums are right."""
    header = Nvram().contents[:16]
    assert header[0] == 0x7F
    assert header[1] == header_checksum(bytes(header))
    assert int.from_bytes(header[2:4], "big") * 16 == NVRAM_SIZE


def test_size_is_that_of_the_contents() -> None:
    nvram = Nvram(8192)
    assert nvram.size == len(nvram.contents) == 8192


def test_stored_bytes_are_fetched() -> None:
    nvram = Nvram()
    assert nvram.store(NVRAM_SIZE - 4, b"tail")
    assert nvram.fetch(NVRAM_SIZE - 5, 5) == b"\0tail"


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, NVRAM_SIZE + 1), (NVRAM_SIZE, 1), (NVRAM_SIZE - 1, 2), (WORD, 1), (WORD, WORD), (1, WORD)],
)
def test_outside(offset: int, length: int) -> None:
    nvram = Nvram()
    assert nvram.fetch(offset, length) is None
    before = bytes(nvram.contents)
    assert not nvram.store(offset, bytes(min(length, NVRAM_SIZE + 1 - min(offset, NVRAM_SIZE))))
    assert nvram.contents == before


@pytest.mark.parametrize("offset", [0, NVRAM_SIZE])
def test_nothing_at_the_edge(offset: int) -> None:
    nvram = Nvram()
    assert nvram.fetch(offset, 0) == b""
    assert nvram.store(offset, b"")


@given(
    st.lists(
        st.tuples(
            st.one_of(st.integers(0, 300), st.integers(0, WORD)),
            st.one_of(st.binary(max_size=300), st.integers(0, 300), st.integers(0, WORD)),
        ),
        max_size=30,
    )
)
def test_any_sequence_behaves_as_bytes(sequence: list[tuple[int, bytes | int]]) -> None:
    nvram = Nvram(256)
    model = bytearray(nvram.contents)
    for offset, what in sequence:
        length = what if isinstance(what, int) else len(what)
        inside = offset + length <= 256
        if isinstance(what, int):
            assert nvram.fetch(offset, length) == (
                bytes(model[offset : offset + length]) if inside else None
            )
        else:
            assert nvram.store(offset, what) is inside
            if inside:
                model[offset : offset + length] = what
        assert nvram.contents == model
