"""ELF file, program and section headers, read with every offset checked.

Parsed here rather than with pyelftools: the input may be hostile, and each malformed field has to
become one `ImageError` without an allocation sized by the file. Layouts: System V gABI, "ELF
Header", "Program Header" and "Sections"; all fields are in the file's own byte order (`EI_DATA`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from elftools.elf.descriptions import describe_e_machine
from elftools.elf.enums import ENUM_E_MACHINE

from firmware.errors import ImageError

ELF_MAGIC = b"\x7fELF"

# gABI, "ELF Identification": indices and values of e_ident.
EI_CLASS, EI_DATA, EI_VERSION = 4, 5, 6
ELFCLASS32, ELFCLASS64 = 1, 2
ELFDATA2LSB, ELFDATA2MSB = 1, 2
EV_CURRENT = 1

# gABI, "ELF Header": e_type and e_machine.
ET_REL, ET_EXEC, ET_DYN, ET_CORE = 1, 2, 3, 4
EM_PPC64 = 21
PN_XNUM = 0xFFFF

# gABI, "Program Header": p_type; "Sections": special indices and types.
PT_LOAD = 1
SHN_XINDEX = 0xFFFF
SHT_NOBITS = 8

# 64-Bit ELF V2 ABI, "ELF Header": e_flags, EF_PPC64_ABI (0: not said, 1: ELFv1, 2: ELFv2).
EF_PPC64_ABI = 3

# e_type .. e_shstrndx, which follow the 16 bytes of e_ident; one Elf64_Phdr; one Elf64_Shdr.
_EHDR64 = "HHIQQQIHHHHHH"
_PHDR64 = "IIQQQQQQ"
_SHDR64 = "IIQQQQIIQQ"
_EHDR64_SIZE = 64
_PHDR64_SIZE = 56
_SHDR64_SIZE = 64

_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x04\x22\x4d\x18": "lz4",
}

_TYPE_NAMES = {ET_REL: "relocatable object", ET_CORE: "core dump"}


@dataclass(frozen=True, slots=True)
class ElfHeader:
    """The fields of a 64-bit PowerPC `Elf64_Ehdr` the loader uses; `order` is struct's sign."""

    order: Literal["<", ">"]
    e_type: int
    e_entry: int
    e_phoff: int
    e_shoff: int
    e_flags: int
    e_phentsize: int
    e_phnum: int
    e_shentsize: int
    e_shnum: int
    e_shstrndx: int

    @property
    def abi(self) -> int:
        """EF_PPC64_ABI of `e_flags`: 0 (not said), 1 or 2."""
        return self.e_flags & EF_PPC64_ABI


@dataclass(frozen=True, slots=True)
class ProgramHeader:
    """One `Elf64_Phdr`: offsets and sizes in bytes."""

    p_type: int
    p_offset: int
    p_vaddr: int
    p_paddr: int
    p_filesz: int
    p_memsz: int


@dataclass(frozen=True, slots=True)
class SectionHeader:
    """One `Elf64_Shdr`, as far as finding a section by name needs it."""

    sh_name: int
    sh_type: int
    sh_addr: int
    sh_offset: int
    sh_size: int


def machine_name(e_machine: int) -> str:
    """A machine's name for an error message, from its `e_machine` number."""
    for name, number in ENUM_E_MACHINE.items():
        if number == e_machine and name != "_default_":
            described = str(describe_e_machine(name))
            return name if described.startswith("<") else described
    return f"machine {e_machine}"


def is_elf(data: memoryview) -> bool:
    """Whether the file starts with the ELF magic number."""
    return bytes(data[:4]) == ELF_MAGIC


def parse_header(name: str, data: memoryview) -> ElfHeader:
    """Read the ELF header; raises `ImageError` for anything but a 64-bit PowerPC image."""
    if not is_elf(data):
        raise ImageError(f"{name}: not an ELF file{_compression_hint(data)}")
    if len(data) < _EHDR64_SIZE:
        raise ImageError(f"{name}: truncated ELF file: {len(data)} bytes do not hold the header")
    order = _byte_order(name, data)
    _check_machine(name, data, order)
    e_type, _, _, entry, phoff, shoff, flags, _, phentsize, phnum, shentsize, shnum, shstrndx = (
        struct.unpack_from(order + _EHDR64, data, 16)
    )
    if e_type not in (ET_EXEC, ET_DYN):
        kind = _TYPE_NAMES.get(e_type, f"file of type {e_type}")
        raise ImageError(f"{name}: an ELF {kind} cannot be booted; an executable is needed")
    return ElfHeader(
        order, e_type, entry, phoff, shoff, flags, phentsize, phnum, shentsize, shnum, shstrndx
    )


def program_headers(name: str, data: memoryview, header: ElfHeader) -> Iterator[ProgramHeader]:
    """Read the program headers; raises `ImageError` when the table lies outside the file."""
    if header.e_phnum == PN_XNUM:
        raise ImageError(f"{name}: more than {PN_XNUM - 1} ELF program headers are not supported")
    if header.e_phnum and header.e_phentsize != _PHDR64_SIZE:
        raise ImageError(
            f"{name}: ELF program headers of {header.e_phentsize} bytes instead of {_PHDR64_SIZE}"
        )
    if header.e_phoff + header.e_phnum * _PHDR64_SIZE > len(data):
        raise ImageError(f"{name}: truncated ELF file: program headers lie beyond its end")
    for index in range(header.e_phnum):
        p_type, _, offset, vaddr, paddr, filesz, memsz, _ = struct.unpack_from(
            header.order + _PHDR64, data, header.e_phoff + index * _PHDR64_SIZE
        )
        yield ProgramHeader(p_type, offset, vaddr, paddr, filesz, memsz)


def find_section(data: memoryview, header: ElfHeader, section_name: bytes) -> SectionHeader | None:
    """The section of that name, or None when there is none or the section table is unusable.

    Sections are not needed to load an image (gABI, "Linking View and Execution View"), so a
    damaged or stripped table is no error.
    """
    table_end = header.e_shoff + header.e_shnum * _SHDR64_SIZE
    if (
        header.e_shentsize != _SHDR64_SIZE
        or table_end > len(data)
        or header.e_shstrndx >= header.e_shnum
        or header.e_shstrndx == SHN_XINDEX
    ):
        return None
    names = _section(data, header, header.e_shstrndx)
    wanted = section_name + b"\0"
    for index in range(header.e_shnum):
        section = _section(data, header, index)
        start = names.sh_offset + section.sh_name
        if section.sh_name < names.sh_size and bytes(data[start : start + len(wanted)]) == wanted:
            return section
    return None


def _section(data: memoryview, header: ElfHeader, index: int) -> SectionHeader:
    sh_name, sh_type, _, addr, offset, size, _, _, _, _ = struct.unpack_from(
        header.order + _SHDR64, data, header.e_shoff + index * _SHDR64_SIZE
    )
    return SectionHeader(sh_name, sh_type, addr, offset, size)


def _byte_order(name: str, data: memoryview) -> Literal["<", ">"]:
    match data[EI_DATA]:
        case 1:
            return "<"
        case 2:
            return ">"
        case other:
            raise ImageError(f"{name}: damaged ELF file: unknown data encoding {other}")


def _check_machine(name: str, data: memoryview, order: Literal["<", ">"]) -> None:
    """Reject other classes, versions and machines; e_machine is at offset 18 in both classes."""
    (e_machine,) = struct.unpack_from(order + "H", data, 18)
    machine = machine_name(e_machine)
    match data[EI_CLASS]:
        case 1:
            raise ImageError(f"{name}: 32-bit ELF file for {machine}; 64-bit PowerPC is needed")
        case 2:
            pass
        case other:
            raise ImageError(f"{name}: damaged ELF file: unknown class {other}")
    if e_machine != EM_PPC64:
        raise ImageError(f"{name}: ELF file for {machine}; 64-bit PowerPC is needed")
    if data[EI_VERSION] != EV_CURRENT:
        raise ImageError(f"{name}: damaged ELF file: unknown version {data[EI_VERSION]}")


def _compression_hint(data: memoryview) -> str:
    for magic, kind in _COMPRESSED.items():
        if bytes(data[: len(magic)]) == magic:
            return f" (it is {kind}-compressed: unpack it first)"
    return ""
