"""System calls on files that the standard library does not have (Linux)."""

from __future__ import annotations

import ctypes
import fcntl
import os

_FALLOC_FL_KEEP_SIZE = 1
_FALLOC_FL_PUNCH_HOLE = 2
_FALLOC_FL_ZERO_RANGE = 16
_BLKGETSIZE64 = 0x80081272  # _IOR(0x12, 114, size_t)

_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def punch_hole(fd: int, offset: int, size: int) -> None:
    """Give a range back to the file system; it reads as zeroes.  ``OSError``."""
    _check(_fallocate(fd, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, offset, size))


def zero_range(fd: int, offset: int, size: int) -> None:
    """Make a range read as zeroes and keep its space.  ``OSError``."""
    _check(_fallocate(fd, _FALLOC_FL_ZERO_RANGE | _FALLOC_FL_KEEP_SIZE, offset, size))


def block_device_size(fd: int) -> int:
    """Bytes of a host block device.  ``OSError``."""
    data = fcntl.ioctl(fd, _BLKGETSIZE64, bytes(8))
    return int.from_bytes(data, "little")


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
