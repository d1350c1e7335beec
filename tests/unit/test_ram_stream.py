"""Memory in a state stream: what is written comes back, and nothing else than RAM is touched."""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.memory.ram import PAGE_SIZE, GuestRam
from emu.migration.compression import compressor, method
from emu.migration.ram import BLOCK, RamSource, RamTarget
from emu.migration.stream import MigrationError, StreamReader, StreamWriter

PAGES = 64
EOS, MISSING, ZEROS, PLAIN, PACKED = 0x10, 0x200, 0x400, 0x800, 0xC00


class Memory:
    """A channel of one direction."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = io.BytesIO(data)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.data.write(data)

    def read(self, size: int) -> bytes:
        return self.data.read(size)

    def read_into(self, views: Sequence[memoryview]) -> int:
        return self.data.readinto(views[0])


def target() -> tuple[GuestRam, RamTarget]:
    ram = GuestRam(PAGES * PAGE_SIZE)
    return ram, RamTarget(ram)


def load(part: RamTarget, *records: bytes) -> StreamReader:
    reader = StreamReader(Memory(b"".join(records) + struct.pack(">Q", EOS)))
    part.load(reader)
    return reader


def record(kind: int, count: int, body: bytes = b"") -> bytes:
    return struct.pack(">Q", count << 12 | kind) + body


def runs(*pairs: tuple[int, int]) -> bytes:
    return b"".join(struct.pack(">II", *pair) for pair in pairs)


def page(byte: int) -> bytes:
    return bytes((byte,)) * PAGE_SIZE


contents = st.lists(
    st.one_of(st.just(bytes(PAGE_SIZE)), st.integers(1, 255).map(page)),
    min_size=PAGES,
    max_size=PAGES,
)


@given(first=contents, second=contents, packed=st.booleans())
def test_memory_comes_back_also_when_it_changes_between(
    first: list[bytes], second: list[bytes], packed: bool
) -> None:
    """A page of zeros too that was none before."""
    source = GuestRam(PAGES * PAGE_SIZE)
    writer_side = RamSource(source)
    if packed:
        writer_side.use_compression(1, compressor(method("zlib"), 1))
    channel = Memory()
    writer = StreamWriter(channel)
    for memory in (first, second):
        source.write(0, b"".join(memory))
        writer_side.write_pages(writer, np.arange(PAGES, dtype=np.int64))
    writer_side.end(writer)
    writer.flush()
    ram, part = target()
    reader = StreamReader(Memory(channel.data.getvalue()))
    part.load(reader)
    assert ram.read(0, ram.size) == b"".join(second)
    assert reader.pages_checksum == writer.pages_checksum
    assert (reader.position, reader.checksum) == (writer.position, writer.checksum)


def test_start_names_sizes_that_differ() -> None:
    sizes = struct.pack(">Q", 32 << 20 | 4) + bytes((len(BLOCK),)) + BLOCK.encode()
    sizes += struct.pack(">QQ", 32 << 20, EOS)
    with pytest.raises(MigrationError, match="the source has 32 MiB, this machine 0 MiB"):
        target()[1].load_setup(StreamReader(Memory(sizes)))


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (record(PLAIN, 1, struct.pack(">I", PAGES) + page(1)), "outside RAM"),
        (record(PLAIN, 1, struct.pack(">I", 0xFFFFFFFF) + page(1)), "outside RAM"),
        (record(ZEROS, 1, runs((PAGES - 1, 2))), "outside RAM"),
        (record(ZEROS, 1, runs((0xFFFFFFFF, 0xFFFFFFFF))), "outside RAM"),
        (record(ZEROS, 2, runs((0, PAGES), (0, 1))), "overlap"),
        (record(PLAIN, 1 << 40), "unknown record"),
        (record(ZEROS, 1 << 40), "unknown record"),
        (record(0x100, 1), "unknown record"),
        (record(MISSING, 1, runs((0, 1))), "post-copy was not announced"),
        (record(PLAIN, 1, struct.pack(">I", 0) + b"short"), "ends after"),
        (record(PACKED, 1, struct.pack(">IBI", 0, 99, 4) + b"data"), "unknown compression 99"),
        (record(PACKED, 1, struct.pack(">IBI", 0, 1, 4) + b"data"), "damaged"),
        (record(PACKED, 1, struct.pack(">IBI", 0, 1, 1 << 30)), "larger than pages"),
    ],
)
def test_bad_record_is_refused(bad: bytes, why: str) -> None:
    with pytest.raises(MigrationError, match=why):
        load(target()[1], bad)


def test_many_runs_of_everything_take_no_time() -> None:
    """Eight megabytes of stream would be a million times all of memory."""
    part = RamTarget(GuestRam(1 << 30))
    begun = time.monotonic()
    with pytest.raises(MigrationError, match="overlap"):
        load(part, record(ZEROS, 1 << 20, runs((0, 1 << 18)) * (1 << 20)))
    assert time.monotonic() - begun < 10
