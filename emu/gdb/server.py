"""Serves gdb on a character device: one client after the other.

Input is cut into packets on the event loop's thread; packets are answered, and the guest's stops
told, on the server's own thread, in the order they came.  So a client that does not read its
answers holds up nobody but itself.
"""

from __future__ import annotations

import logging
import queue
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from emu.chardev.base import Chardev
from emu.events import RunState
from emu.gdb.packet import Packet, PacketReader, Signal, frame
from emu.gdb.session import Session
from emu.gdb.target import Target

if TYPE_CHECKING:
    from emu.machine import Machine

#: Items that wait for the server's thread before it takes no more input.
_MAX_QUEUED = 64
_CLOSE_SECONDS = 2.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Peer:
    """A client comes or goes; every time has a number of its own."""

    connected: bool
    connection: int


class _Settled:
    """The vCPU thread has seen the latest request to stop."""


_Item = Packet | Signal | RunState | _Peer | _Settled | None


class GdbServer:
    """The stub of one machine; :meth:`start` once, :meth:`close` while its vCPUs still exist."""

    def __init__(self, machine: Machine, chardev: Chardev) -> None:
        self.chardev = chardev
        self._machine = machine
        self._queue: queue.Queue[_Item] = queue.Queue()
        self._reader = PacketReader()
        self._target = Target(machine)
        self._session: Session | None = None
        self._last = b""  # what a NACK asks for again
        # A reply for one client must not reach the next: which is there, and which is served
        self._connection = self._served = 0
        self._write_lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="gdb", daemon=True)
        self._unsubscribe = machine.state.subscribe(lambda _old, new: self._queue.put(new))
        self._closing = False

    def start(self) -> None:
        """Listen to clients."""
        self._thread.start()
        self.chardev.set_connection_listener(self._peer_changed)
        self.chardev.set_receiver(self._receive)

    def close(self) -> None:
        """Let go of the guest and the client.  Any thread but the server's waits for it."""
        if self._closing:
            return
        self._closing = True
        self._unsubscribe()
        self._queue.put(None)
        if threading.current_thread() is self._thread:
            return
        self._thread.join(_CLOSE_SECONDS)
        self.chardev.close()  # interrupts a write to a client that does not read
        self._thread.join()

    def _peer_changed(self, connected: bool) -> None:
        self._reader = PacketReader()
        with self._write_lock:  # a write to a client that went has been interrupted
            self._connection += 1
            self._queue.put(_Peer(connected, self._connection))

    def _receive(self, data: bytes) -> int:
        if self._queue.qsize() > _MAX_QUEUED:
            return 0
        for item in self._reader.feed(data):
            self._queue.put(item)
        return len(data)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                self._serve(item)
            except Exception:
                _log.exception("internal error in the gdb stub")
            self.chardev.accept_input()
        self._drop()
        self.chardev.close()

    def _serve(self, item: _Item) -> None:
        if isinstance(item, _Peer):
            self._drop()
            self._served = item.connection
            if item.connected:
                self._session = Session(self._target, self._interrupted)
                self._target.attach()
        elif self._session is None:
            return
        elif isinstance(item, Packet):
            self._acknowledge(b"+")
            self._answer(self._session, item.content)
        elif isinstance(item, RunState):
            self._send_all(self._session.state_changed(item))
        elif isinstance(item, _Settled):
            self._send_all(self._session.settled())
        elif item is Signal.INTERRUPT:
            self._session.interrupt()
        elif item is Signal.NACK:
            if self._session.acknowledges and self._last:
                self._write(self._last)
        elif item is Signal.CORRUPT:
            self._acknowledge(b"-")
        elif item is Signal.TOO_LONG:
            self._acknowledge(b"+")
            self._send(b"E22")

    def _answer(self, session: Session, content: bytes) -> None:
        for reply in session.handle(content):
            self._send(reply)

    def _send_all(self, replies: list[bytes]) -> None:
        for reply in replies:
            self._send(reply)

    def _acknowledge(self, sign: bytes) -> None:
        if self._session is not None and self._session.acknowledges:
            self._write(sign)

    def _send(self, reply: bytes) -> None:
        self._last = frame(reply)
        self._write(self._last)

    def _write(self, data: bytes) -> None:
        with self._write_lock:
            if self._served == self._connection:
                self.chardev.write(data)

    def _interrupted(self) -> None:
        self._queue.put(_Settled())

    def _drop(self) -> None:
        """No client any more."""
        if self._session is not None:
            self._session = None
            self._last = b""
            self._target.release()
