"""Boot images as read-only memory maps: nothing is copied until it goes into guest RAM."""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path

from firmware.errors import ImageError


def map_image(path: str | os.PathLike[str]) -> memoryview:
    """Map a file read-only and return its bytes.

    The map lives as long as the returned view or a slice of it does. Raises `ImageError` when the
    file is missing, unreadable, empty, or not a regular file (a pipe or a device has no size to
    check against).
    """
    name = os.fspath(path)
    try:
        # O_NONBLOCK: opening a FIFO nobody writes to must give the error below, not hang.
        descriptor = os.open(Path(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ImageError(f"{name}: cannot open: {reason}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{name}: not a regular file")
        if status.st_size == 0:
            raise ImageError(f"{name}: the file is empty")
        return memoryview(mmap.mmap(descriptor, status.st_size, access=mmap.ACCESS_READ))
    except (OSError, ValueError, OverflowError) as error:
        raise ImageError(f"{name}: cannot map: {error}") from error
    finally:
        os.close(descriptor)
