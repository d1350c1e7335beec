"""Loadable 64-bit PowerPC ELF images: both byte orders, both ABIs, fixed or relocatable."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from firmware.elf_header import (
    PT_LOAD,
    SHT_NOBITS,
    ElfHeader,
    ProgramHeader,
    find_section,
    parse_header,
    program_headers,
)
from firmware.errors import ImageError
from firmware.image_file import map_image

# Power ISA 3.1B, Book III, "Real Addressing Mode": bits 0:3 of an effective address are ignored,
# which makes a kernel linked at 0xc000000000000000 run at physical 0.
REAL_ADDRESS_MASK = (1 << 60) - 1

# More than any image needs, far less than would overflow an address computation.
MAX_SEGMENT_SIZE = 1 << 40


@dataclass(frozen=True, slots=True)
class Segment:
    """One PT_LOAD segment: `data` goes to physical `paddr`, zeros fill up to `memsz` bytes."""

    paddr: int
    vaddr: int
    data: memoryview
    memsz: int

    @property
    def end(self) -> int:
        """First physical address after the segment."""
        return self.paddr + self.memsz


@dataclass(frozen=True, slots=True)
class ElfImage:
    """A checked image: its segments in ascending physical order, not overlapping, at least one.

    `entry` is the physical address of the first instruction (for an ELFv1 program, of the code its
    function descriptor names). `abi` is EF_PPC64_ABI: 0 when the file does not say.
    """

    name: str
    segments: tuple[Segment, ...]
    entry: int
    little_endian: bool
    abi: int

    @property
    def lowest(self) -> int:
        """Lowest physical address of any segment."""
        return self.segments[0].paddr

    @property
    def highest(self) -> int:
        """First physical address after all segments, zero fill included."""
        return self.segments[-1].end


def load_elf(path: str | os.PathLike[str]) -> ElfImage:
    """Read an ELF image's loadable segments.

    The file is mapped, not read: `Segment.data` are views of it. Raises `ImageError`, and nothing
    else, for every file that is not a loadable 64-bit PowerPC image.
    """
    return parse_elf(os.fspath(path), map_image(path))


def parse_elf(name: str, data: memoryview) -> ElfImage:
    """`load_elf` for bytes already in memory; `name` is used in error messages."""
    header = parse_header(name, data)
    segments = sorted(
        (
            _segment(name, data, program_header)
            for program_header in program_headers(name, data, header)
            if program_header.p_type == PT_LOAD and program_header.p_memsz
        ),
        key=lambda segment: segment.paddr,
    )
    if not segments:
        raise ImageError(f"{name}: ELF file without loadable segments")
    for below, above in pairwise(segments):
        if below.end > above.paddr:
            raise ImageError(
                f"{name}: ELF segments at {below.paddr:#x} and {above.paddr:#x} overlap"
            )
    entry = _translate(name, segments, _entry_address(name, data, header))
    return ElfImage(name, tuple(segments), entry, header.order == "<", header.abi)


def _segment(name: str, data: memoryview, header: ProgramHeader) -> Segment:
    """Check one PT_LOAD header (gABI, "Program Header": p_filesz may not exceed p_memsz)."""
    where = f"{name}: ELF segment at {header.p_vaddr:#x}"
    if header.p_filesz > header.p_memsz:
        raise ImageError(f"{where} is larger in the file than in memory")
    if header.p_memsz > MAX_SEGMENT_SIZE:
        raise ImageError(f"{where} has an absurd size: {header.p_memsz:#x} bytes")
    if header.p_offset + header.p_filesz > len(data):
        raise ImageError(f"{name}: truncated ELF file: segment at {header.p_vaddr:#x} is cut off")
    paddr = header.p_paddr & REAL_ADDRESS_MASK
    if paddr + header.p_memsz > REAL_ADDRESS_MASK or header.p_vaddr + header.p_memsz > 1 << 64:
        raise ImageError(f"{where} ends beyond the address space")
    contents = data[header.p_offset : header.p_offset + header.p_filesz]
    return Segment(paddr, header.p_vaddr, contents, header.p_memsz)


def _entry_address(name: str, data: memoryview, header: ElfHeader) -> int:
    """e_entry, or what its function descriptor says.

    64-bit PowerPC ELF ABI Supplement 1.9 (ELFv1), "Function Descriptors": a program's e_entry is
    the address of a descriptor in .opd, whose first doubleword is the code address. Linux's
    vmlinux, ELFv1 too when big-endian, puts the code address itself in e_entry; hence the look at
    where e_entry points.
    """
    if header.abi == 2:
        return header.e_entry
    opd = find_section(data, header, b".opd")
    if opd is None or not opd.sh_addr <= header.e_entry < opd.sh_addr + opd.sh_size:
        return header.e_entry
    offset = opd.sh_offset + header.e_entry - opd.sh_addr
    if opd.sh_type == SHT_NOBITS or offset + 8 > len(data):
        raise ImageError(f"{name}: truncated ELF file: the entry point's descriptor is cut off")
    (code,) = struct.unpack_from(header.order + "Q", data, offset)
    return int(code)


def _translate(name: str, segments: Iterable[Segment], entry: int) -> int:
    """Physical address of a virtual one, by the segment it lies in."""
    for segment in segments:
        if segment.vaddr <= entry < segment.vaddr + segment.memsz:
            return segment.paddr + (entry - segment.vaddr)
    raise ImageError(f"{name}: ELF entry point {entry:#x} lies outside every segment")
