"""Compressed pages: what arrives is what was sent, in fewer bytes; libraries that are missing."""

from __future__ import annotations

import io
import os
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.memory.ram import PAGE_SIZE, GuestRam
from emu.migration.compression import Method, compressor, decompressor, method
from emu.migration.ram import PACKED, PAGES, RamSource, RamTarget
from emu.migration.status import Parameters
from emu.migration.stream import MigrationError, StreamReader, StreamWriter
from tests.boot.guests import BOOT_SECONDS, LE_SMALL, READY
from tests.support.process import Emulator

METHODS = [entry for entry in Method if entry is not Method.NONE]
every_method = pytest.mark.parametrize("entry", METHODS, ids=lambda entry: entry.label)
COUNT = 64


class Pipe(io.BytesIO):
    """A channel from memory."""

    def read_into(self, views: Any) -> int:
        return self.readinto(views[0])


def _sent(ram: GuestRam, entry: Method) -> tuple[bytes, RamSource, int]:
    pipe = Pipe()
    writer, source = StreamWriter(pipe), RamSource(ram)  # type: ignore[arg-type]
    if entry is not Method.NONE:
        source.use_compression(entry.number, compressor(entry, 1))
    source.write_pages(writer, np.arange(COUNT, dtype=np.int64))
    source.end(writer)
    writer.flush()
    return pipe.getvalue(), source, int(writer.pages_checksum)


def _load(data: bytes) -> tuple[GuestRam, int]:
    ram = GuestRam(COUNT * PAGE_SIZE)
    reader = StreamReader(Pipe(data))  # type: ignore[arg-type]
    RamTarget(ram).load(reader)
    return ram, int(reader.pages_checksum)


@pytest.fixture
def ram() -> GuestRam:
    """Text in every other page, noise in a few, zeros in the rest."""
    memory = GuestRam(COUNT * PAGE_SIZE)
    for page in range(0, COUNT, 2):
        memory.write(page * PAGE_SIZE, (b"page %6d " % page * 400)[:PAGE_SIZE])
    memory.write(5 * PAGE_SIZE, os.urandom(3 * PAGE_SIZE))
    return memory


@every_method
def test_pages_come_back_in_fewer_bytes(ram: GuestRam, entry: Method) -> None:
    plain, _, checksum = _sent(ram, Method.NONE)
    packed, source, same = _sent(ram, entry)
    assert len(packed) < len(plain) / 2
    assert source.compressed
    assert same == checksum
    target, arrived = _load(packed)
    assert arrived == checksum
    assert bytes(target.view) == bytes(ram.view)


@every_method
def test_what_does_not_shrink_goes_as_it_is(entry: Method) -> None:
    memory = GuestRam(COUNT * PAGE_SIZE)
    memory.write(0, os.urandom(COUNT * PAGE_SIZE))
    data, source, _ = _sent(memory, entry)
    assert source.compressed == 0
    assert data[:8] == (COUNT << 12 | PAGES).to_bytes(8, "big")
    assert bytes(_load(data)[0].view) == bytes(memory.view)


@every_method
@given(place=st.integers(0, 400), value=st.integers(0, 255))
def test_damaged_data_are_refused_or_noticed(entry: Method, place: int, value: int) -> None:
    memory = GuestRam(COUNT * PAGE_SIZE)
    memory.write(0, (bytes(range(1, 251)) * 1100)[: COUNT * PAGE_SIZE])
    data, _, checksum = _sent(memory, entry)
    start = data.index((COUNT << 12 | PACKED).to_bytes(8, "big")) + 8 + 4 * COUNT
    broken = bytearray(data)
    broken[start + min(place, len(data) - start - 9)] = value
    try:
        target, arrived = _load(bytes(broken))
    except MigrationError:
        return
    assert bytes(target.view) == bytes(memory.view) or arrived != checksum


@every_method
def test_size_that_is_not_the_pages_is_refused(entry: Method) -> None:
    """Above all a small input that grows without end."""
    data, undo = compressor(entry, 1)(bytes(64 << 20)), decompressor(entry.number)
    tracemalloc.start()
    with pytest.raises(MigrationError, match="compressed pages"):
        undo(data, PAGE_SIZE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_library_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zstandard", None)
    parameters = Parameters()
    with pytest.raises(MigrationError, match="needs the Python package 'zstandard'"):
        parameters.update({"multifd-compression": "zstd"})
    with pytest.raises(MigrationError, match="zstandard"):
        decompressor(Method.ZSTD.number)
    assert parameters.multifd_compression == "none"


def test_unknown_methods() -> None:
    with pytest.raises(MigrationError, match="does not accept value 'xz'"):
        method("xz")
    with pytest.raises(MigrationError, match="unknown compression 99"):
        decompressor(99)


@pytest.mark.boot
@pytest.mark.timeout(300)
@every_method
def test_guest_moves_compressed(tmp_path: Path, entry: Method) -> None:
    if LE_SMALL.missing:
        pytest.skip(LE_SMALL.missing)
    uri = f"unix:{tmp_path}/migration"
    arguments = LE_SMALL.arguments(cpu="power9")
    with (
        Emulator(tmp_path, "source", arguments) as source,
        Emulator(tmp_path, "target", [*arguments, "-incoming", uri]) as target,
    ):
        source.wait_for(READY, BOOT_SECONDS)
        source.wait_for("# ", BOOT_SECONDS)
        source.run("write /tmp/data 4000000 8", 120.0)
        source.command("migrate-set-parameters", max_bandwidth=0, multifd_compression=entry.label)
        answer = source.migrate(uri)
        assert answer["status"] == "completed", answer
        assert answer["ram"]["transferred"] < answer["ram"]["normal-bytes"] * 0.7
        assert "verified" in target.run("verify /tmp/data 4000000 8", 120.0)
