"""Guest RAM: one anonymous mapping, guest real address 0 first."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

PAGE_SIZE = 4096
_MAP_NORESERVE = 0x4000  # Linux, missing from the mmap module


class GuestRam:
    """``size`` bytes of zeroed guest RAM (a multiple of 64 KiB).

    Pages take host memory when first touched.  ``address`` is the host address of guest real
    address 0; it stays valid until :meth:`close`.  Raises ``OSError`` when the host refuses.
    """

    def __init__(self, size: int) -> None:
        if size <= 0 or size % 65536:
            raise ValueError("guest RAM is a positive multiple of 64 KiB")
        self.size = size
        self._map = mmap.mmap(
            -1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        )
        self.view: npt.NDArray[np.uint8] = np.frombuffer(self._map, np.uint8)
        self.address: int = self.view.ctypes.data
        #: While pages may be missing (post-copy): reads a range of host addresses without the GIL,
        #: which waits for them.
        self.touch: Callable[[int, int], object] | None = None

    @property
    def memory(self) -> memoryview:
        """All of RAM as writable bytes, for loaders; no dirty log, no code invalidation."""
        return memoryview(self._map)

    @property
    def pages(self) -> int:
        """Number of 4 KiB pages."""
        return self.size // PAGE_SIZE

    def clear(self) -> None:
        """Make every byte zero again, giving the pages back to the host.  No vCPU runs."""
        self._map.madvise(mmap.MADV_DONTNEED)

    def discard(self, address: int, size: int) -> tuple[int, int]:
        """Give the whole host pages of a range back to the host: they read as zeros from then on.

        Returns the range given back, (address, size); the caller checked :meth:`contains`.
        Nothing while pages may be missing: the source would be asked for these again.
        """
        if self.touch is not None:
            return address, 0
        start = -(-address // mmap.PAGESIZE) * mmap.PAGESIZE
        given = max((address + size) // mmap.PAGESIZE * mmap.PAGESIZE - start, 0)
        if given:
            self._map.madvise(mmap.MADV_DONTNEED, start, given)
        return start, given

    def discard_for_source(self, address: int, size: int) -> None:
        """Let whole pages be missing: a source has newer ones."""
        self._map.madvise(mmap.MADV_DONTNEED, address, size)

    def wait_for(self, address: int, size: int) -> None:
        """Return when no page of a range is missing; others can use Python meanwhile."""
        if self.touch is not None:
            self.touch(self.address + address, size)

    def present(self, first: int, count: int) -> npt.NDArray[np.bool_]:
        """Which of ``count`` pages from number ``first`` on the host has memory for.

        The others read as zeros.  All of them, where the host does not tell.
        """
        start = (self.address // PAGE_SIZE + first) * 8
        try:
            with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
                entries = np.frombuffer(os.pread(pagemap.fileno(), 8 * count, start), "<u8")
        except OSError:
            entries = np.empty(0, np.uint64)
        if len(entries) < count or mmap.PAGESIZE != PAGE_SIZE:
            return np.ones(count, np.bool_)
        found: npt.NDArray[np.bool_] = entries >> 62 != 0  # present, or swapped out
        return found

    def contains(self, address: int, size: int) -> bool:
        """Whether ``size`` bytes at a guest real address lie in RAM."""
        return address >= 0 and size >= 0 and address + size <= self.size

    def read(self, address: int, size: int) -> bytes:
        """Bytes at a guest real address; the caller checked :meth:`contains`."""
        return ctypes.string_at(self.address + address, size)

    def write(self, address: int, data: bytes | memoryview) -> None:
        """Copy bytes in, without dirty log or code invalidation (see :class:`~.dma.Dma`)."""
        self.view[address : address + len(data)] = np.frombuffer(data, np.uint8)
