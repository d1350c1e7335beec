"""The ELF loader: both byte orders and ABIs, every error, and damaged files."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from firmware.elf import MAX_SEGMENT_SIZE, load_elf, parse_elf
from firmware.elf_header import ET_CORE, ET_DYN, ET_EXEC, ET_REL
from firmware.errors import ImageError

KERNEL_BASE = 0xC000000000000000
EHDR, PHDR, SHDR = 64, 56, 64


@dataclass(frozen=True)
class Load:
    """A PT_LOAD segment to write."""

    vaddr: int
    paddr: int
    data: bytes
    memsz: int | None = None


def make_elf(
    loads: Sequence[Load] = (Load(KERNEL_BASE, 0, b"code" * 16, 0x100),),
    *,
    order: str = "<",
    entry: int = KERNEL_BASE,
    e_type: int = ET_EXEC,
    machine: int = 21,
    flags: int = 2,
    opd: tuple[int, bytes] | None = None,
) -> bytes:
    """A small ELF file; `opd` adds a section table with an .opd of that address and contents."""
    offset = EHDR + PHDR * len(loads)
    table, body = b"", b""
    for load in loads:
        memsz = len(load.data) if load.memsz is None else load.memsz
        where = offset + len(body)
        table += struct.pack(
            order + "IIQQQQQQ", 1, 7, where, load.vaddr, load.paddr, len(load.data), memsz, 0x10000
        )
        body += load.data
    sections = b""
    shoff = shnum = 0
    if opd is not None:
        names = b"\0.opd\0.shstrtab\0"
        opd_at = offset + len(body)
        body += opd[1] + names
        sections = bytes(SHDR) + struct.pack(
            order + "IIQQQQIIQQ", 1, 1, 3, opd[0], opd_at, len(opd[1]), 0, 0, 8, 0
        )
        sections += struct.pack(
            order + "IIQQQQIIQQ", 6, 3, 0, 0, opd_at + len(opd[1]), len(names), 0, 0, 1, 0
        )
        shoff, shnum = offset + len(body), 3
    ident = b"\x7fELF" + bytes((2, 1 if order == "<" else 2, 1)) + bytes(9)
    header = ident + struct.pack(
        order + "HHIQQQIHHHHHH",
        *(e_type, machine, 1, entry, EHDR, shoff, flags, EHDR, PHDR, len(loads)),
        *(SHDR, shnum, 2 if shnum else 0),
    )
    return header + table + body + sections


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def parse(data: bytes) -> object:
    return parse_elf("image", memoryview(data))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("e_type", [ET_EXEC, ET_DYN])
def test_a_kernel(tmp_path: Path, order: str, e_type: int) -> None:
    path = write(tmp_path / "vmlinux", make_elf(order=order, e_type=e_type))
    image = load_elf(path)
    (segment,) = image.segments
    assert (segment.paddr, segment.vaddr, segment.memsz) == (0, KERNEL_BASE, 0x100)
    assert bytes(segment.data) == b"code" * 16
    assert (image.entry, image.lowest, image.highest) == (0, 0, 0x100)
    assert image.little_endian is (order == "<")
    assert image.name == str(path)


def test_segments_come_sorted_and_entry_is_physical() -> None:
    loads = (Load(KERNEL_BASE + 0x2000, 0x12000, b"b"), Load(KERNEL_BASE, 0x8000, b"a" * 8, 0x20))
    image = parse_elf("image", memoryview(make_elf(loads, entry=KERNEL_BASE + 4)))
    assert [segment.paddr for segment in image.segments] == [0x8000, 0x12000]
    assert (image.entry, image.lowest, image.highest) == (0x8004, 0x8000, 0x12001)


def test_kernel_addresses_used_as_physical_ones() -> None:
    data = make_elf(
        [Load(KERNEL_BASE + 0x4000, KERNEL_BASE + 0x4000, b"x")], entry=KERNEL_BASE + 0x4000
    )
    image = parse_elf("image", memoryview(data))
    assert (image.lowest, image.entry) == (0x4000, 0x4000)


def test_segments_may_touch_and_empty_ones_do_not_count() -> None:
    loads = (Load(0, 0, b"a" * 16), Load(16, 16, b"b" * 16), Load(8, 8, b""))
    assert len(parse_elf("image", memoryview(make_elf(loads, entry=0))).segments) == 2


@pytest.mark.parametrize("flags", [0, 1])
def test_elfv1_entry_is_a_descriptor(flags: int) -> None:
    descriptor = struct.pack(">QQQ", 0x1010, 0x9000, 0)
    loads = (Load(0x1000, 0x1000, bytes(0x40)), Load(0x2000, 0x2000, descriptor))
    opd = (0x2000, descriptor)
    data = make_elf(loads, order=">", flags=flags, entry=0x2000, opd=opd)
    assert parse_elf("image", memoryview(data)).entry == 0x1010


def test_elfv1_kernel_entry_is_code() -> None:
    opd = (KERNEL_BASE + 0x80, struct.pack(">Q", 0x1234))
    image = parse_elf("image", memoryview(make_elf(order=">", flags=1, opd=opd)))
    assert (image.entry, image.abi) == (0, 1)


def test_elfv2_has_no_descriptors() -> None:
    opd = (KERNEL_BASE, struct.pack("<Q", KERNEL_BASE + 0x40))
    assert parse_elf("image", memoryview(make_elf(opd=opd))).entry == 0


def test_a_descriptor_that_points_nowhere() -> None:
    opd = (KERNEL_BASE, struct.pack(">Q", 0x1234))
    with pytest.raises(ImageError, match="entry point 0x1234 lies outside"):
        parse(make_elf(order=">", flags=1, opd=opd))


def test_a_damaged_section_table_is_no_error() -> None:
    data = bytearray(make_elf(order=">", flags=1, opd=(KERNEL_BASE, bytes(8))))
    struct.pack_into(">Q", data, 40, len(data) - 4)
    assert parse_elf("image", memoryview(bytes(data))).entry == 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"#!/bin/sh\n", "not an ELF file$"),
        (b"\x7fE", "not an ELF file$"),
        (b"\xfd7zXZ\0more", r"not an ELF file \(it is xz-compressed: unpack it first\)"),
        (b"\x1f\x8bmore", r"not an ELF file \(it is gzip-compressed"),
        (make_elf()[:40], "truncated ELF file: 40 bytes do not hold the header"),
        (make_elf()[:80], "truncated ELF file: program headers lie beyond its end"),
        (make_elf()[:140], "truncated ELF file: segment at 0xc000000000000000 is cut off"),
        (make_elf(machine=62), "ELF file for Advanced Micro Devices X86-64; 64-bit PowerPC"),
        (make_elf(machine=183), "ELF file for AArch64; 64-bit PowerPC"),
        (make_elf(machine=0xF00D), "ELF file for machine 61453; 64-bit PowerPC"),
        (make_elf(e_type=ET_REL), "an ELF relocatable object cannot be booted"),
        (make_elf(e_type=ET_CORE), "an ELF core dump cannot be booted"),
        (make_elf(e_type=77), "an ELF file of type 77 cannot be booted"),
        (make_elf([]), "without loadable segments"),
        (make_elf([Load(0, 0, b"")]), "without loadable segments"),
        (make_elf([Load(0, 0, b"abcd", 2)]), "larger in the file than in memory"),
        (make_elf([Load(0, 0, b"a", MAX_SEGMENT_SIZE + 1)]), "absurd size: 0x10000000001 bytes"),
        (make_elf([Load(0, (1 << 60) - 8, b"a", 16)]), "ends beyond the address space"),
        (make_elf([Load((1 << 64) - 8, 0, b"a", 16)]), "ends beyond the address space"),
        (
            make_elf([Load(0, 0x1000, b"a", 0x20), Load(0x100, 0x101F, b"b")], entry=0),
            "ELF segments at 0x1000 and 0x101f overlap",
        ),
        (make_elf(entry=KERNEL_BASE + 0x100), "entry point 0xc000000000000100 lies outside"),
    ],
)
def test_errors(tmp_path: Path, data: bytes, message: str) -> None:
    path = write(tmp_path / "image", data)
    with pytest.raises(ImageError, match=message) as raised:
        load_elf(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (4, b"\x01", "32-bit ELF file for PowerPC 64-bit|32-bit ELF file for"),
        (4, b"\x07", "unknown class 7"),
        (5, b"\x00", "unknown data encoding 0"),
        (6, b"\x02", "unknown version 2"),
        (54, b"\x20\x00", "program headers of 32 bytes instead of 56"),
        (56, b"\xff\xff", "more than 65534 ELF program headers"),
        (32, b"\xff" * 8, "program headers lie beyond its end"),
        (EHDR + 8, b"\xff" * 8, "is cut off"),
    ],
)
def test_damaged_fields(offset: int, value: bytes, message: str) -> None:
    data = bytearray(make_elf())
    data[offset : offset + len(value)] = value
    with pytest.raises(ImageError, match=message):
        parse(bytes(data))


def test_a_32_bit_powerpc_kernel() -> None:
    data = bytearray(make_elf(order=">", machine=20))
    data[4] = 1
    with pytest.raises(ImageError, match="32-bit ELF file for PowerPC; 64-bit PowerPC is needed"):
        parse(bytes(data))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "empty").touch()
    for name, message in (
        ("missing", "cannot open: No such file or directory"),
        ("", "not a regular file"),
        ("fifo", "not a regular file"),
        ("empty", "the file is empty"),
        ("a\0b", "cannot open: embedded null byte"),
    ):
        with pytest.raises(ImageError, match=message):
            load_elf(f"{tmp_path}/{name}")


def test_a_huge_zero_fill_allocates_nothing() -> None:
    image = parse_elf("image", memoryview(make_elf([Load(KERNEL_BASE, 0, b"a", MAX_SEGMENT_SIZE)])))
    assert image.highest == MAX_SEGMENT_SIZE
    assert len(image.segments[0].data) == 1


SEEDS = (
    make_elf(),
    make_elf(order=">", flags=1, opd=(KERNEL_BASE, struct.pack(">Q", KERNEL_BASE + 4))),
    make_elf((Load(0, 0, b"a" * 40), Load(0x1000, 0x1000, b"b" * 8, 0x80)), entry=8, e_type=ET_DYN),
)


@settings(max_examples=300)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 400), st.binary(min_size=1, max_size=8)), max_size=4),
    st.integers(0, 400),
)
def test_damage_gives_an_image_error_or_an_image(
    seed: bytes, edits: list[tuple[int, bytes]], cut: int
) -> None:
    data = bytearray(seed)
    for offset, value in edits:
        data[offset : offset + len(value)] = value
    del data[max(cut, 4) :]
    try:
        image = parse_elf("image", memoryview(bytes(data)))
    except ImageError:
        return
    assert all(len(part.data) <= part.memsz for part in image.segments)
    assert any(part.paddr <= image.entry < part.end for part in image.segments)


@given(st.binary(max_size=300))
def test_noise(data: bytes) -> None:
    with pytest.raises(ImageError):
        parse(b"\x7fELF" + data[:20] + bytes(60))
