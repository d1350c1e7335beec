"""The board's console, "ppc64emu,console": byte registers in front of a chardev.

| offset | access | |
|---|---|---|
| 0 | write | the byte is printed |
| 4 | read | status: bit 0 a byte of input waits |
| 5 | read | takes the next byte of input, 0 if there is none |

The interrupt line is high while input waits.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from emu.chardev.base import Chardev
from emu.log import guest_error

DATA, STATUS, INPUT = 0, 4, 5
INPUT_READY = 1
OUTPUT_SIZE = 1 << 20
INPUT_SIZE = 1 << 12
_WAIT_SLICE = 0.05


class BoardConsole:
    """Registers and the host side.  Without a chardev output is dropped.

    Register handlers run on the vCPU thread; a thread of its own writes to the chardev, whose
    threads bring input.  ``set_line`` is called on the vCPU thread, through ``post`` for input;
    ``is_ending`` ends the wait of a guest that prints faster than the host takes it.
    """

    def __init__(
        self,
        chardev: Chardev | None,
        set_line: Callable[[bool], None],
        post: Callable[[Callable[[], None]], None],
        is_ending: Callable[[], bool],
    ) -> None:
        self._chardev, self._set_line, self._post = chardev, set_line, post
        self._is_ending = is_ending
        self._changed = threading.Condition()
        self._output = bytearray()
        self._writing = False
        self._input = bytearray()
        self._closing = False
        self._thread = threading.Thread(target=self._drain, name="console output", daemon=True)
        if chardev is not None:
            self._thread.start()
            chardev.set_receiver(self._receive)

    def mmio_read(self, offset: int, size: int) -> bytes:
        """Status or input; other bytes are 0."""
        if size == 1 and offset == INPUT:
            return self._take()
        with self._changed:
            status = INPUT_READY if self._input else 0
        registers = bytes(STATUS) + bytes([status])
        return registers[offset : offset + size].ljust(size, b"\0")

    def _take(self) -> bytes:
        with self._changed:
            byte = bytes(self._input[:1]) or b"\0"
            was_full = len(self._input) == INPUT_SIZE
            del self._input[:1]
        self._update_line()
        if was_full and self._chardev is not None:
            self._chardev.accept_input()
        return byte

    def mmio_write(self, offset: int, data: bytes) -> None:
        """Print a byte."""
        if offset != DATA or len(data) != 1:
            guest_error("console", "write of %d bytes to register %d", len(data), offset)
            return
        if self._chardev is None:
            return
        with self._changed:
            while len(self._output) >= OUTPUT_SIZE and not self._is_ending():
                self._changed.wait(_WAIT_SLICE)
            self._output += data
            self._changed.notify_all()

    def _receive(self, data: bytes) -> int:
        """Chardev receiver, any thread: keep what fits."""
        with self._changed:
            accepted = min(len(data), INPUT_SIZE - len(self._input))
            self._input += data[:accepted]
        if accepted:
            self._post(self._update_line)
        return accepted

    @property
    def input(self) -> bytes:
        """Input that waits for the guest."""
        with self._changed:
            return bytes(self._input)

    @input.setter
    def input(self, data: bytes) -> None:
        with self._changed:
            self._input[:] = data

    def _update_line(self) -> None:
        with self._changed:
            level = bool(self._input)
        self._set_line(level)

    def _drain(self) -> None:
        assert self._chardev is not None
        while True:
            with self._changed:
                self._writing = False
                self._changed.notify_all()
                while not self._output and not self._closing:
                    self._changed.wait()
                if not self._output:
                    return
                data, self._output = bytes(self._output), bytearray()
                self._writing = True
                self._changed.notify_all()
            self._chardev.write(data)

    def flush(self, seconds: float) -> None:
        """Wait until all output is with the chardev, for so long at most."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while (self._output or self._writing) and not self._closing:
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(left)

    def close(self) -> None:
        """End the thread; no vCPU is running."""
        if self._chardev is None or self._closing:
            return
        self._chardev.set_receiver(None)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._chardev.close()
        self._thread.join()
