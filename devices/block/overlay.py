"""Temporary overlays (`snapshot=on`): what the guest writes goes to a file that is thrown away."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator

from devices.block.image import Image, Views, cut, total
from devices.block.raw import RawImage
from emu.chardev.config import ConfigError

CLUSTER = 64 * 1024


class OverlayImage(Image):
    """An image over another, which stays as it is; takes over ``base``.

    Clusters of 64 KiB are copied from the base when they are first written in part.  ConfigError
    if the host has no room for temporary files.
    """

    def __init__(self, base: Image) -> None:
        super().__init__(base.path, base.size, read_only=False)
        self._base = base
        self._base_size = base.size
        try:
            file = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
            file.truncate(base.size)
        except OSError as error:
            raise ConfigError(f"Could not create temporary overlay: {error.strerror}") from error
        self._file = file
        self._overlay = RawImage(
            file.fileno(), file.name, base.size, read_only=False, unmap=True, no_flush=True
        )
        self._present = bytearray(-(-base.size // CLUSTER))
        self._lock = threading.Lock()

    def preadv(self, views: Views, offset: int) -> None:
        """Fill all views, from wherever each cluster is."""
        with self._lock:
            for present, start, size in list(self._runs(offset, total(views))):
                part = cut(views, start - offset, size)
                if present:
                    self._overlay.preadv(part, start)
                else:
                    self._read_base(part, start)

    def _runs(self, offset: int, size: int) -> Iterator[tuple[int, int, int]]:
        """Parts of a range that are in the same file: (in the overlay, offset, size)."""
        end = offset + size
        while offset < end:
            present = self._present[offset // CLUSTER]
            stop = offset
            while stop < end and self._present[stop // CLUSTER] == present:
                stop = min(end, (stop // CLUSTER + 1) * CLUSTER)
            yield present, offset, stop - offset
            offset = stop

    def _read_base(self, views: Views, offset: int) -> None:
        """Read the base, and zeroes beyond its end."""
        inside = max(0, min(total(views), self._base_size - offset))
        if inside:
            self._base.preadv(cut(views, 0, inside), offset)
        for view in cut(views, inside, total(views) - inside):
            view[:] = bytes(len(view))

    def pwritev(self, views: Views, offset: int, *, durable: bool = False) -> None:
        """Write to the overlay."""
        with self._lock:
            end = offset + total(views)
            self._copy_up(offset, end)
            self._overlay.pwritev(views, offset)
            self._mark(offset, end)

    def write_zeroes(self, offset: int, size: int, *, unmap: bool, durable: bool = False) -> None:
        """Zero a range of the overlay."""
        with self._lock:
            self._copy_up(offset, offset + size)
            self._overlay.write_zeroes(offset, size, unmap=unmap)
            self._mark(offset, offset + size)

    def _copy_up(self, start: int, end: int) -> None:
        """Bring the clusters at the edges of a range to write, if they are written in part."""
        edges = {start // CLUSTER, (end - 1) // CLUSTER} if end > start else set()
        for cluster in edges:
            low, high = cluster * CLUSTER, min((cluster + 1) * CLUSTER, self.size)
            if not self._present[cluster] and (start > low or end < high):
                data = memoryview(bytearray(high - low))
                self._read_base([data], low)
                self._overlay.pwritev([data], low)

    def _mark(self, start: int, end: int) -> None:
        if end > start:
            first, last = start // CLUSTER, (end - 1) // CLUSTER
            self._present[first : last + 1] = b"\1" * (last + 1 - first)

    def flush(self) -> None:
        """Nothing: the file does not outlive the emulator."""

    def resize(self, size: int) -> None:
        """Make the overlay longer or shorter."""
        with self._lock:
            self._overlay.resize(size)
            self._base_size = min(self._base_size, size)
            count = -(-size // CLUSTER)
            self._present = self._present[:count].ljust(count, b"\0")
            self.size = size

    def close(self) -> None:
        """Throw the overlay away and close the base."""
        self._file.close()
        self._base.close()
