"""Early checks of files named on the command line."""

from __future__ import annotations

import contextlib
import os

from emu.config import ConfigError


def readable_file(path: str, what: str = "") -> str:
    """Return `path` if it can be read; ConfigError with the reason if not.

    `what` the file is, for the message: scripts look for QEMU's "could not open kernel".
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # not to wait at a pipe
        try:
            with contextlib.suppress(BlockingIOError):
                os.read(fd, 1)  # a directory opens, but does not read
        finally:
            os.close(fd)
    except OSError as error:
        named = f"{what} '{path}'".lstrip()
        raise ConfigError(f"could not open {named}: {error.strerror}") from error
    return os.fspath(path)
