"""Fields declared once: what is saved is loaded, and what is wrong is named."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest

from emu.migration.fields import (
    Description,
    blob,
    flag,
    i64,
    raw,
    same,
    structure,
    u8,
    u16,
    u32,
    u64,
)
from emu.migration.sections import (
    FULL,
    Component,
    DeviceLoader,
    Integrity,
    read_header,
    skip_description,
    write_devices,
    write_header,
)
from emu.migration.stream import MigrationError, StreamReader, StreamWriter


class Memory:
    """A channel that keeps what is written, and gives it back in small pieces."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = io.BytesIO(data)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.data.write(data)

    def read(self, size: int) -> bytes:
        return self.data.read(min(size, 7))

    def read_into(self, views: Sequence[memoryview]) -> int:
        raise AssertionError("there are no pages here")


@dataclass
class Inner:
    value: int = 0


@dataclass
class Part:
    """Something with a field of every kind."""

    byte: int = 0
    half: int = 0
    words: list[int] = field(default_factory=lambda: [0, 0, 0])
    wide: int = 0
    signed: int = 0
    on: bool = False
    buffer: bytes = bytes(5)
    text: bytes = b""
    inner: list[Inner] = field(default_factory=lambda: [Inner(), Inner()])
    extra: int = 0
    record: np.ndarray = field(default_factory=lambda: np.zeros(1, [("n", "u4")]))


EXTRA = Description("part/extra", 1, (u16("extra"),), needed=lambda part: part.extra != 0)
PART = Description(
    "part",
    3,
    (
        u8("byte"),
        u16("half"),
        u32("words", count=3),
        u64("wide"),
        i64("signed"),
        flag("on"),
        raw("buffer", 5),
        blob("text", 10),
        structure("inner", Description("inner", 1, (u32("value"),)), count=2),
    ),
    minimum=2,
    subsections=(EXTRA,),
)


def example(extra: int = 0) -> Part:
    return Part(1, 2, [3, 4, 5], 1 << 63, -6, True, b"12345", b"hello", [Inner(7), Inner(8)], extra)


def saved(part: Part) -> bytes:
    channel = Memory()
    writer = StreamWriter(channel)
    PART.save(writer, part)
    writer.flush()
    return channel.data.getvalue()


@pytest.mark.parametrize("extra", [0, 9])
def test_every_kind_of_field_comes_back(extra: int) -> None:
    target = Part()
    PART.load(StreamReader(Memory(saved(example(extra)))), target, 3)
    assert target.__dict__ | {"record": None} == example(extra).__dict__ | {"record": None}
    assert type(target.on) is bool


def test_integers_are_big_endian_and_in_order() -> None:
    assert saved(example()).startswith(bytes.fromhex("01 0002 00000003 00000004 00000005"))


def test_subsection_is_sent_only_when_needed() -> None:
    assert b"part/extra" in saved(example(9))
    assert b"part/extra" not in saved(example(0))


def test_unknown_subsection_is_named() -> None:
    stream = saved(example()) + b"\x05\x0cpart/unknown" + bytes(4)
    with pytest.raises(MigrationError, match="part/unknown"):
        PART.load(StreamReader(Memory(stream)), Part(), 3)


def test_doubled_subsection_is_refused() -> None:
    once = saved(example(9))
    stream = once + once[once.index(b"\x05\x0apart/extra") :]
    with pytest.raises(MigrationError, match="part/extra"):
        PART.load(StreamReader(Memory(stream)), Part(), 3)


@pytest.mark.parametrize("version", [0, 1, 4])
def test_unknown_version_is_named(version: int) -> None:
    with pytest.raises(MigrationError, match=f"part: version {version}"):
        PART.load(StreamReader(Memory(saved(example()))), Part(), version)


def test_reading_touches_nothing() -> None:
    """It is for another thread than the component's."""
    target = Part()
    state = PART.read(StreamReader(Memory(saved(example(9)))), 3)
    assert target.__dict__ | {"record": None} == Part().__dict__ | {"record": None}
    state.apply(target)
    assert target.extra == 9


@pytest.mark.parametrize("value", [2, 255])
def test_flag_is_0_or_1(value: int) -> None:
    broken = bytearray(saved(example()))
    at = 1 + 2 + 3 * 4 + 8 + 8
    assert broken[at] == 1
    broken[at] = value
    with pytest.raises(MigrationError, match=f"on: {value} is neither 0 nor 1"):
        PART.load(StreamReader(Memory(bytes(broken))), Part(), 3)


def test_what_both_machines_must_have_is_compared_first() -> None:
    """Before what depends on it is read, of which there may be more or less."""
    for here, there in ((3, 3), (3, 4)):
        channel = Memory()
        writer = StreamWriter(channel)
        Description("part", 1, (same("words", there), u8("byte"))).save(writer, example())
        writer.flush()
        data = channel.data.getvalue()
        assert data == there.to_bytes(4, "big") + b"\1"
        description = Description("part", 1, (same("words", here), u8("byte")))
        if here == there:
            description.load(StreamReader(Memory(data)), Part(), 1)
            continue
        with pytest.raises(MigrationError, match="words: 4 at the source, 3 at this machine"):
            description.load(StreamReader(Memory(data[:4])), Part(), 1)


def test_description_has_the_sizes_of_this_stream() -> None:
    """Not the limits of what varies."""
    part = example(9)
    described = PART.describe(part)
    entries = {entry["name"]: entry for entry in described["fields"] if "index" not in entry}
    assert entries["text"]["size"] == len(part.text)
    assert PART.size_in(part) + len(b"\x05\x0apart/extra") + 4 + 2 == len(saved(part))
    whole = Description("whole", 1, (structure("part", PART, getter=lambda p: p),))
    (entry,) = whole.describe(part)["fields"]
    assert entry["size"] == PART.size_in(part)


def test_truncated_stream_is_refused_at_every_byte() -> None:
    whole = saved(example())
    for size in range(len(whole)):
        with pytest.raises(MigrationError, match="ends after"):
            PART.load(StreamReader(Memory(whole[:size])), Part(), 3)


def test_overlong_blob_is_refused() -> None:
    broken = saved(example()).replace(bytes.fromhex("00000005") + b"hello", b"\xff" * 4)
    with pytest.raises(MigrationError, match="text"):
        PART.load(StreamReader(Memory(broken)), Part(), 3)


def stream_of(*parts: Part) -> bytes:
    channel = Memory()
    writer = StreamWriter(channel)
    write_header(writer, "board")
    write_devices(writer, [Component("part", PART, part, n) for n, part in enumerate(parts)], 2)
    writer.flush()
    return channel.data.getvalue()


def load_stream(data: bytes, *parts: Part) -> DeviceLoader:
    reader = StreamReader(Memory(data))
    read_header(reader, "board")
    loader = DeviceLoader([Component("part", PART, part, n) for n, part in enumerate(parts)])
    while True:
        before = Integrity.of(reader)
        kind = reader.u8()
        if kind == 0:
            break
        assert kind == FULL
        loader.read(reader, before)
    skip_description(reader)
    loader.finish()
    return loader


def test_sections_find_their_components_by_instance() -> None:
    first, second = Part(), Part()
    load_stream(stream_of(example(1), example(2)), first, second)
    assert (first.extra, second.extra) == (1, 2)


def test_missing_section_is_named() -> None:
    with pytest.raises(MigrationError, match="'part', instance 1 is missing"):
        load_stream(stream_of(example()), Part(), Part())


def test_unknown_section_is_named() -> None:
    with pytest.raises(MigrationError, match="unknown section 'part', instance 1"):
        load_stream(stream_of(example(), example()), Part())


def test_other_machine_is_named() -> None:
    with pytest.raises(MigrationError, match="'board', not 'other'"):
        read_header(StreamReader(Memory(stream_of(example()))), "other")


def test_any_flipped_bit_before_the_integrity_section_is_noticed() -> None:
    whole = stream_of(example())
    end = whole.index(b"ppc64emu/integrity")
    for position in range(end):
        for bit in (0, 7):
            broken = bytearray(whole)
            broken[position] ^= 1 << bit
            with pytest.raises((MigrationError, AssertionError)):
                load_stream(bytes(broken), Part())


def test_checks_run_after_everything_is_loaded_and_resume_last() -> None:
    order: list[str] = []
    parts = [Part(), Part()]
    components = [
        Component(
            "part",
            PART,
            part,
            n,
            check=lambda n=n: order.append(f"check{n} {parts[1].extra}"),  # type: ignore[misc]
            resume=lambda n=n: order.append(f"resume{n}"),  # type: ignore[misc]
        )
        for n, part in enumerate(parts)
    ]
    reader = StreamReader(Memory(stream_of(example(1), example(2))))
    read_header(reader, "board")
    loader = DeviceLoader(components)
    for _ in range(3):
        before = Integrity.of(reader)
        reader.u8()
        loader.read(reader, before)
    loader.finish()
    loader.resume()
    assert order == ["check0 2", "check1 2", "resume0", "resume1"]
