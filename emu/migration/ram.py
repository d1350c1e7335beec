"""Guest RAM in a state stream: QEMU's "ram" section, version 4.

Each record is a big-endian word, page offset and flags, and what the flags say: one byte of zero,
or 4096 bytes.  The first record of a section names the block.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit, types

from emu.memory.native import load_u8, load_u64, load_u64_be, store_u8, store_u64
from emu.memory.ram import PAGE_SIZE, GuestRam
from emu.migration.stream import MigrationError, StreamReader, StreamWriter

NAME = "ram"
VERSION = 4
BLOCK = "ppc_spapr.ram"

ZERO = 0x02
MEM_SIZE = 0x04
PAGE = 0x08
EOS = 0x10
CONTINUE = 0x20
_FLAGS = 0xFFF
#: Pages encoded at once.
CHUNK = 1024
_ZERO_RECORD = np.dtype([("word", ">u8"), ("fill", "u1")])
_PAGE_RECORD = np.dtype([("word", ">u8"), ("data", "u1", (PAGE_SIZE,))])
_READ = 256 * _PAGE_RECORD.itemsize


@njit(types.void(types.uint64, types.int64, types.uint64, types.uint64), cache=True, nogil=True)
def _find_full(pages, count, ram, full):  # type: ignore[no-untyped-def]
    """Set the byte in ``full`` of every page (int64 numbers) that is not all zeros."""
    for index in range(count):
        start = ram + load_u64(pages + np.uint64(8 * index)) * np.uint64(PAGE_SIZE)
        for offset in range(0, PAGE_SIZE, 64):
            line = start + np.uint64(offset)
            found = np.uint64(0)
            for word in range(0, 64, 8):
                found |= load_u64(line + np.uint64(word))
            if found != 0:
                store_u8(full + np.uint64(index), np.uint64(1))
                break


@njit(cache=True)
def _copy(target, source):  # type: ignore[no-untyped-def]
    for i in range(0, PAGE_SIZE, 8):
        store_u64(target + np.uint64(i), load_u64(source + np.uint64(i)))


@njit(cache=True)
def _clear(target):  # type: ignore[no-untyped-def]
    for i in range(0, PAGE_SIZE, 8):
        store_u64(target + np.uint64(i), np.uint64(0))


@njit(
    types.UniTuple(types.int64, 2)(
        types.uint64, types.int64, types.uint64, types.uint64, types.uint64
    ),
    cache=True,
    nogil=True,
)
def _apply(source, size, ram, ram_size, written):  # type: ignore[no-untyped-def]
    """Apply complete CONTINUE records at ``source`` to RAM; (bytes consumed, 0 or 1 for bad).

    ``written`` has a byte a page: a page of zeros that was never written is not touched.
    """
    at = np.int64(0)
    while at + 9 <= size:
        word = load_u64_be(source + np.uint64(at))
        flags = word & np.uint64(0xFFF)
        offset = word - flags
        if flags != np.uint64(ZERO | CONTINUE) and flags != np.uint64(PAGE | CONTINUE):
            return at, np.int64(0)
        if offset >= ram_size:
            return at, np.int64(1)
        page = written + offset // np.uint64(PAGE_SIZE)
        if flags & np.uint64(ZERO):
            if load_u8(page) != 0:
                _clear(ram + offset)
                store_u8(page, np.uint64(0))
            at += 9
        else:
            if at + 8 + PAGE_SIZE > size:
                return at, np.int64(0)
            _copy(ram + offset, source + np.uint64(at + 8))
            store_u8(page, np.uint64(1))
            at += 8 + PAGE_SIZE
    return at, np.int64(0)


class RamSource:
    """Writes RAM: all of it once, then what has become dirty."""

    def __init__(self, ram: GuestRam) -> None:
        self._pages = ram.view.reshape(-1, PAGE_SIZE)
        self._size = ram.size
        self.zero_pages = 0
        self.normal_pages = 0

    def write_setup(self, writer: StreamWriter) -> None:
        """Body of the START section: sizes."""
        writer.u64(self._size | MEM_SIZE)
        writer.text(BLOCK)
        writer.u64(self._size)
        writer.u64(EOS)

    def write_pages(self, writer: StreamWriter, pages: npt.NDArray[np.int64]) -> None:
        """Records of pages (numbers); the section's end is not written."""
        full = np.zeros(len(pages), np.bool_)
        _find_full(pages.ctypes.data, len(pages), self._pages.ctypes.data, full.ctypes.data)
        if len(pages):
            self._write_first(writer, pages[0], bool(full[0]))
            pages, full = pages[1:], full[1:]
        self._write_zero(writer, pages[~full])
        normal = pages[full]
        for start in range(0, len(normal), CHUNK):
            self._write_normal(writer, normal[start : start + CHUNK])

    def _write_first(self, writer: StreamWriter, page: np.int64, full: bool) -> None:
        writer.u64(int(page) * PAGE_SIZE | (PAGE if full else ZERO))
        writer.text(BLOCK)
        writer.write(self._pages[page].tobytes() if full else b"\0")
        self.normal_pages += full
        self.zero_pages += not full

    def _write_zero(self, writer: StreamWriter, pages: npt.NDArray[np.int64]) -> None:
        records = np.zeros(len(pages), _ZERO_RECORD)
        records["word"] = pages * PAGE_SIZE | ZERO | CONTINUE
        writer.write(records.view(np.uint8).data)
        self.zero_pages += len(pages)

    def _write_normal(self, writer: StreamWriter, pages: npt.NDArray[np.int64]) -> None:
        records = np.empty(len(pages), _PAGE_RECORD)
        records["word"] = pages * PAGE_SIZE | PAGE | CONTINUE
        records["data"] = self._pages[pages]  # the guest may be writing: then it is sent again
        writer.write(records.view(np.uint8).data)
        self.normal_pages += len(pages)

    def end(self, writer: StreamWriter) -> None:
        """End of a section's records."""
        writer.u64(EOS)


class RamTarget:
    """Reads what :class:`RamSource` writes into RAM of the same size."""

    def __init__(self, ram: GuestRam) -> None:
        self._ram = ram
        self._written = np.zeros(ram.pages, np.uint8)

    def load_setup(self, reader: StreamReader) -> None:
        """Body of the START section; :class:`MigrationError` if the sizes differ."""
        word = reader.u64()
        if word & _FLAGS != MEM_SIZE:
            raise MigrationError("ram: no sizes at its start")
        total = word & ~_FLAGS
        name, size = reader.text(), reader.u64()
        if name != BLOCK:
            raise MigrationError(f"ram: unknown block '{name}'")
        if total != self._ram.size or size != self._ram.size:
            raise MigrationError(
                f"ram: the source has {size >> 20} MiB, this machine {self._ram.size >> 20} MiB"
            )
        if reader.u64() != EOS:
            raise MigrationError("ram: sizes are not followed by the end mark")
        self._ram.clear()

    def load(self, reader: StreamReader) -> None:
        """Records up to the end mark."""
        while True:
            self._load_many(reader)
            word = reader.u64()
            flags, offset = word & _FLAGS, word & ~_FLAGS
            if flags == EOS:
                return
            if flags & ~CONTINUE not in (ZERO, PAGE):
                raise MigrationError(f"ram: unknown flags {flags:#x}")
            if not flags & CONTINUE and (name := reader.text()) != BLOCK:
                raise MigrationError(f"ram: unknown block '{name}'")
            if offset >= self._ram.size:
                raise MigrationError(f"ram: page {offset:#x} is outside RAM")
            if flags & ZERO:
                data = bytes((reader.u8(),)) * PAGE_SIZE
            else:
                data = reader.read(PAGE_SIZE)
            self._ram.write(offset, data)
            self._written[offset // PAGE_SIZE] = 1

    def _load_many(self, reader: StreamReader) -> None:
        while True:
            buffer = np.frombuffer(reader.buffered(_READ), np.uint8)
            if not len(buffer):
                return
            consumed, bad = _apply(
                buffer.ctypes.data,
                len(buffer),
                self._ram.address,
                self._ram.size,
                self._written.ctypes.data,
            )
            reader.read(int(consumed))
            if bad:
                raise MigrationError("ram: a page is outside RAM")
            if consumed < 9:
                return
