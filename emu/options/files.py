"""Early checks of files named on the command line."""

from __future__ import annotations

import os

from emu.config import ConfigError


def readable_file(path: str) -> str:
    """Return `path` if it can be read; ConfigError with the reason if not."""
    try:
        with open(path, "rb") as file:
            file.peek(1)  # a directory opens, but does not read
    except OSError as error:
        raise ConfigError(f"could not open '{path}': {error.strerror}") from error
    return os.fspath(path)
