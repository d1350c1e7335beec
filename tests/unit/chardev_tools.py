"""What the tests of character devices share."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

from emu.chardev import Chardev

TIMEOUT = 30.0
PASTE = bytes(range(256)) * 400  # 100 KiB


class SmallGuest:
    """A console buffer of 16 bytes that another thread empties, as a guest does."""

    def __init__(self, chardev: Chardev, expected: int) -> None:
        self.data = bytearray()
        self._chardev = chardev
        self._buffer = bytearray()
        self._expected = expected
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        chardev.set_receiver(self.receive)

    def receive(self, data: bytes) -> int:
        with self._changed:
            accepted = min(len(data), 16 - len(self._buffer))
            self._buffer += data[:accepted]
            self._changed.notify()
            return accepted

    def _run(self) -> None:
        while len(self.data) < self._expected:
            with self._changed:
                if not self._changed.wait_for(lambda: self._buffer, TIMEOUT):
                    return
                self.data += self._buffer
                self._buffer.clear()
                self._chardev.accept_input()  # with the device's lock held

    def result(self) -> bytes:
        self._thread.join(TIMEOUT)
        return bytes(self.data)


def poll_until(condition: Callable[[], object]) -> None:
    """Wait for what cannot be waited for otherwise; fails after TIMEOUT."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def write_all(fd: int, data: bytes) -> None:
    """Write everything to a blocking descriptor."""
    while data:
        data = data[os.write(fd, data) :]


def read_exactly(fd: int, length: int) -> bytes:
    """Read `length` bytes from a blocking descriptor."""
    data = bytearray()
    while len(data) < length:
        piece = os.read(fd, length - len(data))
        assert piece
        data += piece
    return bytes(data)
