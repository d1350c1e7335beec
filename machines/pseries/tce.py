"""Translation control entries: DMA windows of I/O adapters (LoPAPR 1.1, chapters 3 and 14).

A window is an array of 64-bit entries, one a page: the page's guest real address and, in the low
bits, whether the adapter may read and write it.  A window is known by its logical I/O bus number
(LIOBN).  Entries are kept as the guest gives them and are checked when they are used: what an
adapter reaches through them is bounded by :class:`emu.memory.dma.Dma`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from emu.memory.dma import DmaError

TCE_READ, TCE_WRITE = 1, 2
_PERMISSIONS = TCE_READ | TCE_WRITE
#: Entries of the largest window: 32 MiB of host memory.
MAX_ENTRIES = 1 << 22

Entries = npt.NDArray[np.uint64]


class TceTable:
    """One window: ``bus_offset`` is its first bus address, pages have ``1 << page_shift`` bytes.

    Without entries it is not there.  vCPU thread.
    """

    def __init__(self, liobn: int) -> None:
        self.liobn = liobn
        self.bus_offset = 0
        self.page_shift = 12
        self.entries: Entries = np.zeros(0, np.uint64)

    @property
    def enabled(self) -> bool:
        """Whether the window is there."""
        return len(self.entries) > 0

    @property
    def size(self) -> int:
        """Bytes of bus addresses."""
        return len(self.entries) << self.page_shift

    def enable(self, page_shift: int, bus_offset: int, count: int) -> bool:
        """Make the window of ``count`` empty entries; False when that is too large."""
        if not 0 < count <= MAX_ENTRIES:
            return False
        self.page_shift, self.bus_offset = page_shift, bus_offset
        self.entries = np.zeros(count, np.uint64)
        return True

    def disable(self) -> None:
        """Remove the window."""
        self.bus_offset, self.page_shift = 0, 12
        self.entries = np.zeros(0, np.uint64)

    def index(self, address: int, count: int = 1) -> int | None:
        """The entry of a bus address; None unless it and ``count - 1`` more are in the window."""
        first = (address - self.bus_offset) >> self.page_shift
        return first if 0 <= first <= len(self.entries) - count else None

    def translate(self, address: int, size: int, write: bool) -> list[tuple[int, int]]:
        """Guest real (address, size) pieces of a range of bus addresses, in order.

        :class:`DmaError` unless the adapter may access every page of it.
        """
        if size <= 0:
            return []
        last = (address + size - 1 - self.bus_offset) >> self.page_shift
        first = (address - self.bus_offset) >> self.page_shift
        if not 0 <= first <= last < len(self.entries):
            raise DmaError(f"LIOBN {self.liobn:#x}: {size} bytes at {address:#x} are outside")
        entries = self.entries[first : last + 1]
        allowed = np.uint64(TCE_WRITE if write else TCE_READ)
        if not np.all(entries & allowed):
            raise DmaError(f"LIOBN {self.liobn:#x}: no access to {address:#x}")
        return self._pieces(entries, address, size)

    def _pieces(self, entries: Entries, address: int, size: int) -> list[tuple[int, int]]:
        page = 1 << self.page_shift
        pages = entries & np.uint64(((1 << 64) - page) & ~_PERMISSIONS)
        breaks = np.flatnonzero(pages[1:] != pages[:-1] + np.uint64(page)) + 1
        starts = [0, *breaks.tolist()]
        inside = (address - self.bus_offset) & (page - 1)
        pieces = []
        for start, end in zip(starts, [*starts[1:], len(pages)], strict=True):
            length = min(((end - start) << self.page_shift) - inside, size)
            pieces.append((int(pages[start]) + inside, length))
            size -= length
            inside = 0
        return pieces


class TceTables:
    """The windows of a machine by LIOBN.  vCPU thread."""

    def __init__(self) -> None:
        self._tables: dict[int, TceTable] = {}

    def add(self, liobn: int) -> TceTable:
        """Create the window of a LIOBN, not there yet; ``ValueError`` if the number is taken."""
        if liobn in self._tables:
            raise ValueError(f"LIOBN {liobn:#x} exists already")
        self._tables[liobn] = TceTable(liobn)
        return self._tables[liobn]

    def find(self, liobn: int) -> TceTable | None:
        """The window of a LIOBN, if it is there."""
        table = self._tables.get(liobn)
        return table if table is not None and table.enabled else None

    def translate(self, liobn: int, address: int, size: int, write: bool) -> list[tuple[int, int]]:
        """As :meth:`TceTable.translate`, :class:`DmaError` also without such a window."""
        table = self.find(liobn)
        if table is None:
            raise DmaError(f"no LIOBN {liobn:#x}")
        return table.translate(address, size, write)
