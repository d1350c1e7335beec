"""The character device: bytes out to the host, bytes in to the guest with flow control."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable

from emu.events import EventLoop

#: Takes input for the guest and returns how many of the bytes it accepted.
Receiver = Callable[[bytes], int]
#: Is told whether there is a peer now.
ConnectionListener = Callable[[bool], None]

#: Bytes of input that may wait for the guest before the backend stops reading from the host.
INPUT_HIGH_WATER = 16 * 1024
#: Bytes offered to the receiver at once.
OFFER_SIZE = 4096


class Chardev(ABC):
    """One host side of a console.

    Threads: `write` may block (it is for an output thread, never the vCPU's); `close` from any
    thread interrupts it. `set_receiver`, `accept_input` and `close` never block and are for any
    thread. With a loop, the receiver is called on the loop's thread only, so a device may hold its
    lock while it calls `accept_input`; without one (`MemoryChardev` alone), on the thread that
    sends or accepts. It is never called by two threads at once, nor from inside itself.
    """

    def __init__(self, label: str, loop: EventLoop | None) -> None:
        self.label = label
        self.closed = False
        self._loop = loop
        self._input_lock = threading.Lock()
        self._pending = bytearray()
        self._receiver: Receiver | None = None
        self._offering = False
        self._offer_again = False
        self._connection_listener: ConnectionListener | None = None
        self._connection_told = False

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Send the guest's output; returns when it is out, dropped, or the device is closed.

        Never raises for what the host does (full disk, peer gone): that is logged and dropped.
        """

    def set_receiver(self, receiver: Receiver | None) -> None:
        """Choose who gets the input; what came before is kept for it."""
        with self._input_lock:
            self._receiver = receiver
        self.accept_input()

    @property
    def peer_connected(self) -> bool:
        """Whether somebody is at the other end; always, where there is no connection."""
        return True

    def set_connection_listener(self, listener: ConnectionListener | None) -> None:
        """Choose who is told when a peer comes or goes; told at once if there is one already.

        Calls come on the loop's thread; the first may come on the caller's.
        """
        with self._input_lock:
            self._connection_listener = listener
            self._connection_told = False
        if self.peer_connected:
            self._tell_connection(True)

    def _tell_connection(self, connected: bool) -> None:
        with self._input_lock:
            listener = self._connection_listener
            if listener is None or self._connection_told is connected:
                return
            self._connection_told = connected
        listener(connected)

    def accept_input(self) -> None:
        """Say that the receiver has room again: what it refused is offered once more."""
        with self._input_lock:
            if self._receiver is None or not self._pending:
                return
        if self._loop is None or not self._loop.call_soon_threadsafe(self._offer):
            self._offer()

    @property
    def pending_input(self) -> int:
        """Bytes of input that the receiver has not accepted yet."""
        return len(self._pending)

    def peek_input(self) -> bytes:
        """Input that waits; it stays."""
        with self._input_lock:
            return bytes(self._pending)

    def prepend_input(self, data: bytes) -> None:
        """Put input in front of what waits; :meth:`accept_input` offers it."""
        with self._input_lock:
            self._pending[:0] = data

    def close(self) -> None:
        """Give back host resources and interrupt a blocked `write`. Idempotent."""
        self.closed = True

    def _feed(self, data: bytes) -> None:
        """Take input from the host and offer it; on the loop's thread, if there is a loop."""
        with self._input_lock:
            self._pending += data
        self._offer()

    def _input_drained(self) -> None:  # noqa: B027 (optional)
        """Called on the offering thread when waiting input fell below INPUT_HIGH_WATER."""

    def _offer(self) -> None:
        with self._input_lock:
            if self._offering:
                self._offer_again = True
                return
            self._offering = True
        try:
            full = len(self._pending) >= INPUT_HIGH_WATER
            while self._offer_once():
                pass
        except BaseException:
            self._offering = False
            raise
        if full and len(self._pending) < INPUT_HIGH_WATER:
            self._input_drained()

    def _offer_once(self) -> bool:
        """Offer a piece; False, with `_offering` cleared, when there is nothing more to do."""
        with self._input_lock:
            self._offer_again = False
            receiver = self._receiver
            piece = bytes(self._pending[:OFFER_SIZE])
            if not piece or receiver is None or self.closed:
                self._offering = False
                return False
        accepted = receiver(piece)
        with self._input_lock:
            del self._pending[:accepted]
            if accepted < len(piece) and not self._offer_again:
                self._offering = False
                return False
        return True
