"""Where kernel, initrd, firmware, RTAS and device tree go at start, and how to enter.

The places are those of QEMU's pseries machine, so that images that depend on them work on both:
kernel at 4 MiB, initrd in the next 64 KiB unit but one after it, firmware at 0, RTAS and below it
the device tree at the top of the RMA, but under 2 GiB, because RTAS runs in 32-bit mode.

All addresses are guest-physical; all sizes are bytes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from firmware.elf import ElfImage, load_elf, parse_elf
from firmware.elf_header import is_elf
from firmware.errors import ImageError
from firmware.image_file import map_image
from firmware.rtas_blob import RTAS_AREA_SIZE, rtas_blob

KERNEL_LOAD_ADDR = 0x400000
# Kernels are linked at 0xc000000000000000 or low: the offset into the image is what is kept.
KERNEL_ADDR_MASK = 0x0FFFFFFF
FIRMWARE_MAX_SIZE = 0x400000
# Power ISA 3.1B, Book III, "Interrupt Vector Locations": the System Reset vector, where a CPU
# starts.
FIRMWARE_ENTRY = 0x100
FDT_MAX_SIZE = 0x200000
RTAS_MAX_ADDR = 0x80000000
# Kernels may use 64 KiB pages; freeing the initrd works on whole pages.
PAGE_64K = 0x10000
# Zero fill is written in pieces, so that a large .bss needs no equally large buffer.
ZERO_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class AddressRange:
    """A stretch of guest-physical memory."""

    start: int
    size: int

    @property
    def end(self) -> int:
        """First address after the range."""
        return self.start + self.size


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes to put at `address`; the rest up to `memsz` bytes is zero. `name` is for messages."""

    name: str
    address: int
    data: memoryview
    memsz: int

    @property
    def end(self) -> int:
        """First address after the chunk, zero fill included."""
        return self.address + self.memsz


@dataclass(frozen=True, slots=True)
class BootPlan:
    """What to put into guest RAM, and the boot CPU's first state.

    `chunks` and `fdt` never overlap, lie inside RAM and are in ascending order. The device tree is
    not a chunk: it is built after the plan, from it, and goes to `fdt.start`, `fdt.size` bytes at
    most. The boot CPU enters at `entry` in real mode with MSR = SF (64-bit, big-endian, interrupts
    off), and the registers in `gprs`; every other register is 0. Kernels of both byte orders start
    this way: an ELFv2 Linux begins with code that is valid in both orders and switches.
    """

    chunks: tuple[Chunk, ...]
    entry: int
    fdt: AddressRange
    rtas: AddressRange
    kernel: AddressRange | None = None
    kernel_little_endian: bool = False
    initrd: AddressRange | None = None
    firmware: AddressRange | None = None
    gprs: Mapping[int, int] = field(default_factory=dict)

    def place(self, ram: memoryview) -> None:
        """Write every chunk with its zero fill into guest RAM (`ram[0]` is guest-physical 0)."""
        for chunk in self.chunks:
            data_end = chunk.address + len(chunk.data)
            ram[chunk.address : data_end] = chunk.data
            for start in range(data_end, chunk.end, ZERO_PIECE):
                end = min(start + ZERO_PIECE, chunk.end)
                ram[start:end] = bytes(end - start)


def plan_boot(
    ram_size: int,
    *,
    kernel: str | os.PathLike[str] | None = None,
    initrd: str | os.PathLike[str] | None = None,
    bios: str | os.PathLike[str] | None = None,
    rma_size: int | None = None,
    kernel_addr: int = KERNEL_LOAD_ADDR,
) -> BootPlan:
    """Lay out guest RAM for `-kernel`, `-initrd` and `-bios`.

    Without `bios` the kernel is entered directly with a flattened device tree: r3 = the tree, r4 =
    the kernel, r5 = 0 (no Open Firmware), as Linux's Documentation/powerpc/booting says. With
    `bios` the firmware is entered with r3 = the tree and finds the kernel through
    /chosen/qemu,boot-kernel; a raw firmware image goes to 0 and starts at its System Reset vector,
    an ELF one where it is linked. `rma_size` is `ram_size` unless given. Raises `ImageError` for
    unusable files, for images that do not fit, and for combinations that make no sense.
    """
    if kernel is None and bios is None:
        raise ImageError("nothing to boot: no kernel and no firmware image given")
    if kernel is None and initrd is not None:
        raise ImageError(f"{os.fspath(initrd)}: an initrd needs a kernel")
    fdt, rtas = _top_of_rma(min(ram_size, rma_size or ram_size))
    chunks = [Chunk("RTAS", rtas.start, memoryview(rtas_blob()), rtas.size)]
    plan_kernel = plan_initrd = plan_bios = image = None
    entry, gprs = 0, {3: fdt.start, 4: 0, 5: 0}
    if bios is not None:
        bios_chunks, entry = _firmware_chunks(os.fspath(bios))
        plan_bios = _span(bios_chunks)
        chunks += bios_chunks
    if kernel is not None:
        image = load_elf(kernel)
        kernel_chunks = _kernel_chunks(image, kernel_addr)
        plan_kernel = AddressRange(kernel_addr, _span(kernel_chunks).end - kernel_addr)
        chunks += kernel_chunks
        if bios is None:
            entry = _translate(image.entry, kernel_addr)
            gprs[4] = kernel_addr
        if initrd is not None:
            chunk = _initrd_chunk(os.fspath(initrd), plan_kernel)
            plan_initrd = AddressRange(chunk.address, chunk.memsz)
            chunks.append(chunk)
    chunks.sort(key=lambda chunk: chunk.address)
    _check_layout(chunks, fdt, ram_size)
    return BootPlan(
        chunks=tuple(chunks),
        entry=entry,
        fdt=fdt,
        rtas=rtas,
        kernel=plan_kernel,
        kernel_little_endian=image is not None and image.little_endian,
        initrd=plan_initrd,
        firmware=plan_bios,
        gprs=gprs,
    )


def _top_of_rma(rma_size: int) -> tuple[AddressRange, AddressRange]:
    """The device tree's and RTAS's places, RTAS uppermost."""
    top = min(rma_size, RTAS_MAX_ADDR) & -PAGE_64K
    rtas = AddressRange(top - RTAS_AREA_SIZE, RTAS_AREA_SIZE)
    fdt = AddressRange(rtas.start - FDT_MAX_SIZE, FDT_MAX_SIZE)
    if fdt.start <= 0:
        raise ImageError(
            f"RAM of {_mib(rma_size)} is too small: RTAS and the device tree alone take "
            f"{_mib(RTAS_AREA_SIZE + FDT_MAX_SIZE)}"
        )
    return fdt, rtas


def _translate(paddr: int, kernel_addr: int) -> int:
    return (paddr & KERNEL_ADDR_MASK) + kernel_addr


def _kernel_chunks(image: ElfImage, kernel_addr: int) -> list[Chunk]:
    return [
        Chunk(image.name, _translate(segment.paddr, kernel_addr), segment.data, segment.memsz)
        for segment in image.segments
    ]


def _firmware_chunks(name: str) -> tuple[list[Chunk], int]:
    """The firmware's chunks and its entry."""
    data = map_image(name)
    if is_elf(data):
        image = parse_elf(name, data)
        chunks = [Chunk(name, part.paddr, part.data, part.memsz) for part in image.segments]
        return chunks, image.entry
    if len(data) > FIRMWARE_MAX_SIZE:
        raise ImageError(
            f"{name}: firmware of {_mib(len(data))}; {_mib(FIRMWARE_MAX_SIZE)} is the most"
        )
    if len(data) <= FIRMWARE_ENTRY:
        raise ImageError(f"{name}: firmware too short: no code at {FIRMWARE_ENTRY:#x}")
    return [Chunk(name, 0, data, len(data))], FIRMWARE_ENTRY


def _initrd_chunk(name: str, kernel: AddressRange) -> Chunk:
    data = map_image(name)
    address = (kernel.end + 2 * PAGE_64K - 1) & -PAGE_64K
    return Chunk(name, address, data, len(data))


def _span(chunks: list[Chunk]) -> AddressRange:
    start = min(chunk.address for chunk in chunks)
    return AddressRange(start, max(chunk.end for chunk in chunks) - start)


def _check_layout(chunks: list[Chunk], fdt: AddressRange, ram_size: int) -> None:
    """Raise `ImageError` if a chunk leaves RAM, or touches another chunk or the tree."""
    for chunk in chunks:
        if chunk.end > ram_size:
            raise ImageError(
                f"{chunk.name}: does not fit: it needs RAM up to {chunk.end:#x}, "
                f"and there are {_mib(ram_size)}"
            )
    tree = Chunk("the device tree", fdt.start, memoryview(b""), fdt.size)
    ordered = sorted([*chunks, tree], key=lambda chunk: chunk.address)
    for below, above in pairwise(ordered):
        if below.end > above.address:
            raise ImageError(
                f"{below.name}: does not fit: it ends at {below.end:#x}, "
                f"and {above.name} starts at {above.address:#x}"
            )


def _mib(size: int) -> str:
    return f"{size / (1 << 20):g} MiB"
