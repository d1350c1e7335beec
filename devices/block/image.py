"""What a disk image is to a device."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence

SECTOR = 512
#: Most pieces one system call takes (Linux UIO_MAXIOV).
MAX_PIECES = 1024

Views = Sequence[memoryview]


class Image:
    """A disk image that is open.

    Offsets and sizes are bytes.  Every method may block and may be called from any thread, also
    by several at the same time; all raise ``OSError``.  Callers stay within :attr:`size`.

    ``nowait_fd`` is a descriptor whose offsets are the image's, for ``preadv2`` with RWF_NOWAIT
    past this object, or -1 if there is none.  ``write_back`` says that writes are complete before
    they are on stable storage (the write cache is on) until :meth:`flush`.
    """

    def __init__(self, path: str, size: int, *, read_only: bool, write_back: bool = True) -> None:
        self.path = path
        self.size = size
        self.read_only = read_only
        self.write_back = write_back
        self.nowait_fd = -1

    def preadv(self, views: Views, offset: int) -> None:
        """Fill all views; what lies beyond the host file's end is zero."""
        raise NotImplementedError

    def pwritev(self, views: Views, offset: int, *, durable: bool = False) -> None:
        """Write all views; ``durable``: and wait for stable storage."""
        raise NotImplementedError

    def flush(self) -> None:
        """Wait until all complete writes are on stable storage."""
        raise NotImplementedError

    def discard(self, offset: int, size: int) -> None:
        """Let the host forget a range, if it can and may: what is read there is undefined."""

    def write_zeroes(self, offset: int, size: int, *, unmap: bool, durable: bool = False) -> None:
        """Make a range read as zeroes; ``unmap``: the host may give its space back."""
        raise NotImplementedError

    def resize(self, size: int) -> None:
        """Change the size."""
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    def claim(self) -> None:
        """Lock the image for this process; ConfigError if another one uses it."""

    def release(self) -> None:
        """Let another process have it; nothing is read or written until :meth:`claim`."""

    def close(self) -> None:
        """Release it; idempotent, no other call is under way."""


def total(views: Views) -> int:
    """Bytes of all views."""
    return sum(len(view) for view in views)


def cut(views: Views, start: int, size: int) -> list[memoryview]:
    """The views of a part of what ``views`` hold one after the other."""
    found: list[memoryview] = []
    for view in views:
        if size <= 0:
            break
        if start >= len(view):
            start -= len(view)
            continue
        piece = view[start : start + size]
        found.append(piece)
        size -= len(piece)
        start = 0
    return found


def batches(views: Views) -> Iterator[tuple[int, Views]]:
    """Groups of at most MAX_PIECES views, each with its distance from the first byte."""
    done = 0
    for index in range(0, len(views), MAX_PIECES):
        group = views[index : index + MAX_PIECES]
        yield done, group
        done += total(group)
