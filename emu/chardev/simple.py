"""Backends without input: null and file."""

from __future__ import annotations

import os

from emu.chardev.base import Chardev
from emu.chardev.config import ConfigError
from emu.chardev.fdio import FdChardev
from emu.events import EventLoop


class NullChardev(Chardev):
    """Drops all output; there is no input."""

    def __init__(self, label: str = "null") -> None:
        super().__init__(label, None)

    def write(self, data: bytes) -> None:
        """Drop the output."""


class FileChardev(FdChardev):
    """Writes output to a file, truncated first unless `append`; ConfigError if it cannot be."""

    def __init__(self, label: str, loop: EventLoop, path: str, *, append: bool = False) -> None:
        super().__init__(label, loop)
        mode = os.O_APPEND if append else os.O_TRUNC
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | mode, 0o666)
        except OSError as error:
            raise ConfigError(f"could not open '{path}': {error.strerror}") from error
        self._attach(None, fd)
