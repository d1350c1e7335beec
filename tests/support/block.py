"""Disk images for tests: in memory, with faults and with a gate that holds requests back."""

from __future__ import annotations

import errno
import os
import threading

from devices.block.image import Image, Views


class MemoryImage(Image):
    """An image in memory that keeps a log of what it is asked for.

    ``fault`` is raised by every request while it is set.  While ``gate`` is clear, requests wait
    at its door; ``arrived`` are those that have come so far.
    """

    def __init__(self, size: int = 1 << 20, *, read_only: bool = False) -> None:
        super().__init__("memory", size, read_only=read_only)
        self.data = bytearray(size)
        self.log: list[str] = []
        self.fault: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.arrived: list[str] = []
        self.closed = False

    def _enter(self, what: str) -> None:
        self.arrived.append(what)
        assert self.gate.wait(20)
        if self.fault is not None:
            raise self.fault
        self.log.append(what)

    def preadv(self, views: Views, offset: int) -> None:
        """Read."""
        self._enter("read")
        for view in views:
            view[:] = self.data[offset : offset + len(view)]
            offset += len(view)

    def pwritev(self, views: Views, offset: int, *, durable: bool = False) -> None:
        """Write."""
        self._enter("durable write" if durable else "write")
        for view in views:
            self.data[offset : offset + len(view)] = view
            offset += len(view)

    def flush(self) -> None:
        """Flush."""
        self._enter("flush")

    def discard(self, offset: int, size: int) -> None:
        """Forget a range."""
        self._enter(f"discard {offset} {size}")

    def write_zeroes(self, offset: int, size: int, *, unmap: bool, durable: bool = False) -> None:
        """Zero a range."""
        self._enter(f"zero {offset} {size}{' unmap' if unmap else ''}")
        self.data[offset : offset + size] = bytes(size)

    def resize(self, size: int) -> None:
        """Change the size."""
        if size > 1 << 30:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        self.data = self.data[:size].ljust(size, b"\0")
        self.size = size

    def close(self) -> None:
        """Remember it."""
        self.closed = True


def numbered(sectors: int) -> bytes:
    """Sectors that all differ."""
    return b"".join(number.to_bytes(4, "big") * 128 for number in range(sectors))
