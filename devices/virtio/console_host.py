"""The host side of a virtio console port: bytes between the vCPU thread and a chardev.

Bytes go through two bounded buffers.  Output: the vCPU thread copies from the driver's buffers,
a thread of the port hands it to the chardev, which may block.  Input: the chardev's thread puts
it in, the vCPU thread copies it into the driver's buffers.  A full buffer stops its source, and
the source is told when there is room again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from devices.virtio.queue import Element, VirtQueue
from emu.chardev.base import Chardev

OUTPUT_SIZE = 256 * 1024
INPUT_SIZE = 64 * 1024
_CHUNK = 64 * 1024


class OutputPump:
    """Bytes on their way to a chardev, and the thread that hands them over.

    ``put`` is for the vCPU thread, the other methods are for any.  ``room`` is called on the
    pump's thread when half of the buffer is free again after ``put`` refused bytes.
    """

    def __init__(self, chardev: Chardev, room: Callable[[], None], size: int = OUTPUT_SIZE) -> None:
        self._chardev, self._room, self._size = chardev, room, size
        self._data = bytearray()
        self._in_flight = 0  # bytes the chardev is writing now
        self._refused = False
        self._closing = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def space(self) -> int:
        """Bytes that ``put`` would take now; if none, ``room`` will be called."""
        with self._changed:
            free = self._size - len(self._data) - self._in_flight
            if free <= 0:
                self._refused = True
            return max(free, 0)

    def put(self, data: bytes | memoryview) -> None:
        """Append bytes; the caller has asked for :meth:`space`."""
        with self._changed:
            self._data += data
            self._changed.notify_all()
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(
                    target=self._run, name=f"{self._chardev.label} output", daemon=True
                )
                self._thread.start()

    def flush(self, seconds: float) -> None:
        """Wait until the chardev has everything, at most so long."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while (self._data or self._in_flight) and not self._closing:
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(left)

    def close(self) -> None:
        """Close the chardev, which interrupts its write, and end the thread.  Idempotent."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._chardev.close()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while chunk := self._take():
            self._chardev.write(chunk)
            with self._changed:
                self._in_flight = 0
                tell = self._refused and len(self._data) <= self._size // 2
                if tell:
                    self._refused = False
                self._changed.notify_all()
            if tell:
                self._room()

    def _take(self) -> bytes:
        """The next bytes; none when closing."""
        with self._changed:
            while not self._data and not self._closing:
                self._changed.wait()
            if self._closing:
                return b""
            chunk = bytes(self._data[:_CHUNK])
            del self._data[: len(chunk)]
            self._in_flight = len(chunk)
            return chunk


class InputBuffer:
    """Bytes a chardev has for the guest.

    ``receive`` is the chardev's receiver, on its thread; the rest is for the vCPU thread.
    ``arrived`` is called on the chardev's thread when there is something to deliver.
    """

    def __init__(self, chardev: Chardev, arrived: Callable[[], None]) -> None:
        self._chardev, self._arrived = chardev, arrived
        self._data = bytearray()
        self._open = False
        self._refused = False
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._data)

    def save(self) -> bytes:
        """What waits for the guest, with what the chardev holds back."""
        with self._lock:
            return bytes(self._data) + self._chardev.peek_input()

    def load(self, data: bytes) -> None:
        """Take input that waited for the guest elsewhere; it comes before any other."""
        with self._lock:
            self._data[:0] = data

    def set_open(self, is_open: bool) -> None:
        """Whether the guest wants input; while it does not, nothing is accepted."""
        with self._lock:
            self._open = is_open
            again = is_open and self._refused
            if again:
                self._refused = False
        if again:
            self._chardev.accept_input()

    def receive(self, data: bytes) -> int:
        """Accept what fits, or nothing while the port is closed."""
        with self._lock:
            room = INPUT_SIZE - len(self._data) if self._open else 0
            accepted = min(room, len(data))
            if accepted < len(data):
                self._refused = True
            first = not self._data
            self._data += data[:accepted]
        if accepted and first:
            self._arrived()
        return accepted

    def fill(self, queue: VirtQueue) -> list[tuple[Element, int]]:
        """Move bytes into the driver's buffers; returns what to push."""
        used: list[tuple[Element, int]] = []
        while self._data and (elements := queue.pop(1)):
            with self._lock:
                written = elements[0].write(bytes(self._data[: elements[0].writable_bytes]))
                del self._data[:written]
            used.append((elements[0], written))
        self._ask_for_more()
        return used

    def _ask_for_more(self) -> None:
        with self._lock:
            again = self._refused and self._open and len(self._data) <= INPUT_SIZE // 2
            if again:
                self._refused = False
        if again:
            self._chardev.accept_input()
