"""Where the random bytes of virtio-rng come from: the objects rng-builtin and rng-random."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from typing import Protocol

from emu.chardev.config import ConfigError
from emu.events import EventLoop, Timer

_log = logging.getLogger(__name__)
_RETRY_SECONDS = 1.0


class EntropySource(Protocol):
    """Gives random bytes without blocking.  vCPU thread."""

    def read(self, size: int) -> bytes:
        """At most ``size`` (positive) bytes; none if there are none now: then wait for a call."""

    def close(self) -> None:
        """Release host resources."""


class SystemEntropy:
    """The host kernel's generator (rng-builtin), which always has bytes."""

    def read(self, size: int) -> bytes:
        """Between one and ``size`` bytes."""
        return os.getrandom(size)

    def close(self) -> None:
        """Nothing to release."""


class FileEntropy:
    """A file, device or pipe (rng-random).

    ``ready`` is called on the loop's thread when there may be bytes again after a read that gave
    none.  A file at its end, a pipe without a writer and a device that fails are tried again
    after a second.  Raises :class:`ConfigError` if ``path`` cannot be opened.
    """

    def __init__(self, path: str, loop: EventLoop, ready: Callable[[], None]) -> None:
        try:
            if os.path.isdir(path):  # which opens, but does not read
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(f"could not open '{path}': {error.strerror}") from error
        self._path = path
        self._loop = loop
        self._ready = ready
        self._timer: Timer | None = None
        self._warned = False
        self._closed = False

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes of the file."""
        try:
            data = os.read(self._fd, size)
        except BlockingIOError:
            self._loop.add_reader(self._fd, self._readable)
            return b""
        except OSError as error:
            self._try_later(error.strerror or str(error))
            return b""
        if not data:
            self._try_later("end of file")
        return data

    def close(self) -> None:
        """Stop watching the file and close it.  Idempotent."""
        if not self._closed:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()
            self._loop.close_fd(self._fd)

    def _readable(self) -> None:
        self._loop.remove_reader(self._fd)
        self._ready()

    def _try_later(self, why: str) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("no random bytes from '%s': %s", self._path, why)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(_RETRY_SECONDS, self._ready)
