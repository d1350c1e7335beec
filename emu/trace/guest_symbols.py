"""The symbols of a machine's images, wherever they run at the moment.

A 64-bit Book III-S kernel is not randomised: Linux runs at the addresses it is linked at.  But it
is loaded elsewhere (4 MiB on pseries), and starts there in real mode, then copies itself down to
the real address of its link address, where its real-mode code runs from then on.  Addresses of
real mode are translated here; which of the two holds is seen from guest RAM.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from emu.chardev.config import ConfigError
from emu.config import MachineConfig
from emu.config_trace import SymbolFile
from emu.trace.symbols import Symbol, SymbolTable, load_symbols
from firmware.boot_image import KERNEL_ADDR_MASK, KERNEL_LOAD_ADDR
from firmware.elf import REAL_ADDRESS_MASK, load_elf
from firmware.elf_header import is_elf
from firmware.errors import ImageError
from firmware.image_file import map_image

if TYPE_CHECKING:
    from emu.memory.ram import GuestRam

_SEEN_BYTES = 16


@dataclass(frozen=True)
class _Segment:
    """A kernel's segment: where it is linked, loaded, and its first bytes."""

    linked: int
    loaded: int
    size: int
    head: bytes

    @property
    def real(self) -> int:
        """Guest real address of its link address."""
        return self.linked & REAL_ADDRESS_MASK


class GuestSymbols:
    """Names of addresses of one machine.  Any thread.

    Reads the files given with ``-symbols`` at once (:class:`ConfigError` for a bad one) and those
    of the images when first asked; an image without symbols is no error.
    """

    def __init__(self, config: MachineConfig) -> None:
        self._config = config
        self._table = SymbolTable()
        for file in config.trace.symbols:
            self._table.add(load_symbols(file))
        self._segments: list[_Segment] = []
        self._ram: GuestRam | None = None
        self._images_read = False

    def set_ram(self, ram: GuestRam) -> None:
        """Tell where the guest's RAM is."""
        self._ram = ram

    def load(self) -> SymbolTable:
        """The table, with the images' symbols."""
        if not self._images_read:
            self._images_read = True
            for image in (self._config.kernel, self._config.bios):
                if image is not None:
                    self._add_image(os.fspath(image))
            if self._config.kernel is not None and self._config.machine == "pseries":
                self._add_segments(os.fspath(self._config.kernel))
        return self._table

    def _add_image(self, path: str) -> None:
        try:
            if is_elf(map_image(path)):
                self._table.add(load_symbols(SymbolFile(path)))
        except (ConfigError, ImageError, OSError):
            return  # an image that boots need not have good symbols

    def _add_segments(self, path: str) -> None:
        try:
            image = load_elf(path)
        except ImageError:
            return
        for segment in image.segments:
            loaded = (segment.paddr & KERNEL_ADDR_MASK) + KERNEL_LOAD_ADDR
            head = bytes(segment.data[:_SEEN_BYTES])
            self._segments.append(_Segment(segment.vaddr, loaded, segment.memsz, head))

    def add(self, file: SymbolFile) -> int:
        """Read another file and return how many symbols it has; :class:`ConfigError`."""
        symbols = load_symbols(file)
        self.load().add(symbols)
        return len(symbols)

    def find(self, address: int) -> Symbol | None:
        """The symbol at an effective address, moved to where it was found."""
        table = self.load()
        found = table.find(address)
        if found is not None or address > REAL_ADDRESS_MASK:
            return found
        for segment in self._segments:
            starts = (segment.real, segment.loaded)
            for start in starts if self._has_moved(segment) else reversed(starts):
                if start <= address < start + segment.size:
                    shift = segment.linked - start
                    found = table.find(address + shift)
                    if found is not None:
                        return replace(found, start=found.start - shift, end=found.end - shift)
        return None

    def address_of(self, name: str) -> int | None:
        """Where a symbol is linked."""
        return self.load().address_of(name)

    def _has_moved(self, segment: _Segment) -> bool:
        """Whether the kernel has copied itself to where it is linked."""
        ram = self._ram
        if ram is None or not ram.contains(segment.real, len(segment.head)):
            return False
        return ram.read(segment.real, len(segment.head)) == segment.head
