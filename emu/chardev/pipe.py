"""Named pipes as a character device: PATH.in to the guest, PATH.out from it, as QEMU has them."""

from __future__ import annotations

import os

from emu.chardev.config import ConfigError
from emu.chardev.fdio import FdChardev
from emu.events import EventLoop

_FLAGS = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class PipeChardev(FdChardev):
    """Opens PATH.in and PATH.out or, if one of them is missing, PATH for both directions.

    ConfigError if that cannot be opened either. Each is opened for reading and writing, so that
    nothing waits for the other end and nothing ends when it goes.
    """

    def __init__(self, label: str, loop: EventLoop, path: str) -> None:
        super().__init__(label, loop)
        self._attach(*(_open_pair(path) or _open_one(path)))


def _open_pair(path: str) -> tuple[int, int] | None:
    """Descriptors of both pipes; None if one cannot be opened."""
    try:
        read = os.open(f"{path}.in", _FLAGS)
    except OSError:
        return None
    try:
        return read, os.open(f"{path}.out", _FLAGS)
    except OSError:
        os.close(read)
        return None


def _open_one(path: str) -> tuple[int, int]:
    try:
        fd = os.open(path, _FLAGS)
    except OSError as error:
        raise ConfigError(f"could not open '{path}': {error.strerror}") from error
    return fd, os.dup(fd)
