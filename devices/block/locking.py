"""Image locks that QEMU understands (its `block/file-posix.c`, documented in docs/image-locking).

Each use of an image is a shared lock on one byte: byte 100 + n for a permission that is held,
byte 200 + n for one that others must not hold.  Who opens an image takes its locks, then looks
whether others have locks that contradict.  The locks belong to the open file (F_OFD_SETLK) and
go with it.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import fcntl
import os
import struct

from emu.chardev.config import ConfigError

_HELD_BASE = 100
_REFUSED_BASE = 200
_FLOCK = struct.Struct("hhqqi4x")  # struct flock of 64-bit Linux; l_pid stays 0


class _Permission(enum.IntEnum):
    CONSISTENT_READ = 0
    WRITE = 1

    @property
    def label(self) -> str:
        return self.name.lower().replace("_", " ")


def lock_image(
    fd: int, path: str, *, read_only: bool, share_write: bool = False, required: bool = False
) -> None:
    """Lock an open image as QEMU's disks do, until ``fd`` is closed.

    ``share_write``: others may write too.  ConfigError if another process uses the image in a
    way that contradicts, or if the host cannot lock and it is ``required``.
    """
    held = [_Permission.CONSISTENT_READ]
    if not read_only:
        held.append(_Permission.WRITE)
    refused = [] if share_write else [_Permission.WRITE]
    try:
        for permission in held:
            _take(fd, _HELD_BASE + permission, permission.label, path)
        for permission in refused:
            _take(fd, _REFUSED_BASE + permission, f'shared "{permission.label}"', path)
        for permission in held:
            if _is_locked(fd, _REFUSED_BASE + permission):
                raise _locked(f'"{permission.label}"', path)
        for permission in refused:
            if _is_locked(fd, _HELD_BASE + permission):
                raise _locked(f'shared "{permission.label}"', path)
    except OSError as error:
        if required or error.errno not in (errno.EINVAL, errno.ENOLCK, errno.EOPNOTSUPP):
            raise ConfigError(f"Could not lock '{path}': {error.strerror}") from error


def unlock_image(fd: int) -> None:
    """Give all locks of an open image back.  Raises nothing."""
    everything = _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, _HELD_BASE, 2 * _REFUSED_BASE, 0)
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, everything)


def _take(fd: int, byte: int, what: str, path: str) -> None:
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, byte, 1, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            raise _locked(what, path) from error
        raise


def _is_locked(fd: int, byte: int) -> bool:
    """Whether anybody else has a lock on a byte."""
    probe = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
    kind, *_ = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, probe))
    return bool(kind != fcntl.F_UNLCK)


def _locked(what: str, path: str) -> ConfigError:
    return ConfigError(f"Failed to get {what} lock: is another process using the image '{path}'?")
