"""Guest RAM in a state stream: the "ram" section, version 5.

Its frame is QEMU's; its records are not.  Each begins with a big-endian word: flags in the lower
twelve bits, a count above.

    ZEROS   count runs of pages that are all zeros: first page, number of pages (32 bits each)
    MISSING count runs of pages, likewise, that come only when the guest runs (post-copy)
    PAGES   numbers of count pages (32 bits each), then their contents, one after the other
    PACKED  numbers of count pages, method (8 bits), size (32 bits), then their contents compressed
    EOS     end of the section

Contents travel between RAM and the channel as they are; they are not part of the stream's
checksum but have one of their own (``emu.migration.ram_native``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from emu.memory.ram import PAGE_SIZE, GuestRam
from emu.migration import ram_native
from emu.migration.compression import Compressor, Decompressor, decompressor
from emu.migration.stream import MigrationError, StreamReader, StreamWriter

NAME = "ram"
VERSION = 5
BLOCK = "ppc_spapr.ram"

MEM_SIZE = 0x04
EOS = 0x10
MISSING = 0x200
ZEROS = 0x400
PAGES = 0x800
PACKED = 0xC00
_FLAGS = 0xFFF
_COUNT_SHIFT = 12
#: Pages in a record: their copy stays in the host's second-level cache.
BATCH = 256
_MAX_BATCH = 4096
_MAX_RUNS = 1 << 20

PageNumbers = npt.NDArray[np.int64]


def runs_of(pages: PageNumbers) -> list[tuple[int, int]]:
    """Runs of consecutive numbers as (first, count)."""
    if not len(pages):
        return []
    starts = np.flatnonzero(np.diff(pages, prepend=pages[0] - 2) != 1)
    counts = np.diff(starts, append=len(pages))
    return list(zip(pages[starts].tolist(), counts.tolist(), strict=True))


class RamSource:
    """Writes pages; the guest may be writing to them, then they have to be sent again."""

    def __init__(self, ram: GuestRam) -> None:
        self._ram = ram
        self._words = ram.view.view(np.uint32)
        self._batch = np.zeros(BATCH * PAGE_SIZE, np.uint8)
        self._compress: Compressor | None = None
        self._method = 0
        self.zero_pages = 0
        self.normal_pages = 0
        self.compressed = 0  # bytes that pages took compressed

    def use_compression(self, method: int, compress: Compressor) -> None:
        """Compress pages from now on."""
        self._method, self._compress = method, compress

    def write_setup(self, writer: StreamWriter) -> None:
        """Body of the START section: sizes."""
        writer.u64(self._ram.size | MEM_SIZE)
        writer.text(BLOCK)
        writer.u64(self._ram.size)
        writer.u64(EOS)

    def write_zeros(self, writer: StreamWriter, pages: PageNumbers) -> PageNumbers:
        """Write which of the pages are zeros; returns the others."""
        full = self._find_full(pages)
        _write_runs(writer, ZEROS, pages[~full])
        self.zero_pages += len(pages) - int(np.count_nonzero(full))
        return pages[full]

    def _find_full(self, pages: PageNumbers) -> npt.NDArray[np.bool_]:
        untouched = self._untouched(pages)
        full = untouched.copy()  # these need no look
        ram_native.find_full(self._words, pages, full)
        found: npt.NDArray[np.bool_] = full & ~untouched
        return found

    def _untouched(self, pages: PageNumbers) -> npt.NDArray[np.bool_]:
        """Pages that the host has no memory for: reading them would get them some."""
        if len(pages) < BATCH:
            return np.zeros(len(pages), np.bool_)
        first, last = int(pages[0]), int(pages[-1])
        if last - first >= 4 * len(pages):
            return np.zeros(len(pages), np.bool_)
        present = self._ram.present(first, last - first + 1)
        return ~present[pages - first]

    def write_missing(self, writer: StreamWriter, pages: PageNumbers) -> None:
        """Write which pages come later; at least one record."""
        if not len(pages):
            writer.u64(MISSING)
        _write_runs(writer, MISSING, pages)

    def write_batch(self, writer: StreamWriter, pages: PageNumbers) -> None:
        """Write up to ``BATCH`` pages, copied first: what is sent is what was summed up."""
        batch = self._batch[: len(pages) * PAGE_SIZE]
        writer.pages_checksum = ram_native.gather(
            self._words, pages, batch.view(np.uint32), np.uint64(writer.pages_checksum)
        )
        self.normal_pages += len(pages)
        packed = self._compress(batch.data) if self._compress is not None else None
        if packed is not None and len(packed) < len(batch):
            writer.u64(len(pages) << _COUNT_SHIFT | PACKED)
            writer.write(pages.astype(">u4").tobytes())
            writer.u8(self._method)
            writer.u32(len(packed))
            writer.pass_on(packed)
            self.compressed += len(packed)
        else:
            writer.u64(len(pages) << _COUNT_SHIFT | PAGES)
            writer.write(pages.astype(">u4").tobytes())
            writer.pass_on(batch.data)

    def write_pages(self, writer: StreamWriter, pages: PageNumbers) -> None:
        """Write pages, as many as there are."""
        full = self.write_zeros(writer, pages)
        for batch in batches(full):
            self.write_batch(writer, batch)

    def end(self, writer: StreamWriter) -> None:
        """End of a section's records."""
        writer.u64(EOS)


def _write_runs(writer: StreamWriter, kind: int, pages: PageNumbers) -> None:
    runs = runs_of(pages)
    for start in range(0, len(runs), _MAX_RUNS):
        piece = np.array(runs[start : start + _MAX_RUNS], ">u4")
        writer.u64(len(piece) << _COUNT_SHIFT | kind)
        writer.write(piece.tobytes())


def batches(pages: PageNumbers) -> Iterator[PageNumbers]:
    """Pieces of up to ``BATCH`` pages."""
    for start in range(0, len(pages), BATCH):
        yield pages[start : start + BATCH]


class RamTarget:
    """Reads what :class:`RamSource` writes into RAM of the same size."""

    def __init__(self, ram: GuestRam) -> None:
        self._ram = ram
        self._words = ram.view.view(np.uint32)
        self.written = np.zeros(ram.pages, np.bool_)
        #: Pages that come later; None unless the source has announced post-copy.
        self.missing: npt.NDArray[np.bool_] | None = None
        self.has_missing = False  # it does post-copy
        self._decompressors: dict[int, Decompressor] = {}

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
            word = reader.u64()
            kind, count = word & _FLAGS, word >> _COUNT_SHIFT
            if kind == EOS:
                return
            if kind == ZEROS and count <= _MAX_RUNS:
                self._load_zeros(reader, count)
            elif kind == MISSING and count <= _MAX_RUNS:
                self._load_missing(reader, count)
            elif kind in (PAGES, PACKED) and count <= _MAX_BATCH:
                self._load_pages(reader, count, packed=kind == PACKED)
            else:
                raise MigrationError(f"ram: unknown record {word:#x}")

    def _load_runs(self, reader: StreamReader, count: int) -> list[tuple[int, int]]:
        runs = np.frombuffer(reader.read(8 * count), ">u4").reshape(-1, 2).astype(np.int64)
        if len(runs) and runs.sum(axis=1).max() > self._ram.pages:
            raise MigrationError("ram: a page is outside RAM")
        if runs[:, 1].sum() > self._ram.pages:  # it could take for ever
            raise MigrationError("ram: runs of pages overlap")
        return [(first, size) for first, size in runs.tolist()]

    def _load_missing(self, reader: StreamReader, count: int) -> None:
        if self.missing is None:
            raise MigrationError("ram: pages are to come later, but post-copy was not announced")
        self.has_missing = True
        for first, size in self._load_runs(reader, count):
            self.missing[first : first + size] = True

    def _load_zeros(self, reader: StreamReader, count: int) -> None:
        for first, size in self._load_runs(reader, count):
            stale = first + np.flatnonzero(self.written[first : first + size])
            for start, length in runs_of(stale):
                self._ram.view[start * PAGE_SIZE : (start + length) * PAGE_SIZE] = 0
            self.written[stale] = False

    def _load_pages(self, reader: StreamReader, count: int, *, packed: bool) -> None:
        pages = np.frombuffer(reader.read(4 * count), ">u4").astype(np.int64)
        if len(pages) and pages.max() >= self._ram.pages:
            raise MigrationError("ram: a page is outside RAM")
        self.written[pages] = True
        if packed:
            self._unpack(reader, pages)
        else:
            reader.into(self._views(pages))
        reader.pages_checksum = ram_native.check(
            self._words, pages, np.uint64(reader.pages_checksum)
        )

    def _views(self, pages: PageNumbers) -> Sequence[memoryview]:
        memory = self._ram.memory
        return [
            memory[first * PAGE_SIZE : (first + size) * PAGE_SIZE] for first, size in runs_of(pages)
        ]

    def _unpack(self, reader: StreamReader, pages: PageNumbers) -> None:
        method, size = reader.u8(), reader.u32()
        if size > len(pages) * PAGE_SIZE:
            raise MigrationError("ram: compressed pages are larger than pages")
        data = bytearray(size)
        reader.into([memoryview(data)])
        if method not in self._decompressors:
            self._decompressors[method] = decompressor(method)
        content = self._decompressors[method](data, len(pages) * PAGE_SIZE)
        page_array = self._ram.view.reshape(-1, PAGE_SIZE)
        page_array[pages] = np.frombuffer(content, np.uint8).reshape(-1, PAGE_SIZE)
