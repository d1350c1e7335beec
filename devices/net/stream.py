"""Frames over a stream socket: each after its length, 32 bits big-endian (QEMU's format)."""

from __future__ import annotations

import logging
import socket
import struct
import threading
from collections.abc import Callable, Sequence

from devices.net.base import MAX_FRAME, NetBackend
from emu.chardev.config import ConfigError
from emu.events import EventLoop, Timer

_log = logging.getLogger(__name__)

_READ = 256 * 1024  # bytes read at once
_BACKLOG = 4 * 1024 * 1024  # bytes that may wait for a slow peer; what goes beyond is dropped
_LENGTH = struct.Struct(">I")

Connector = Callable[[], socket.socket]
"""Makes a connection; may block; OSError."""


class FrameDecoder:
    """Cuts a byte stream into frames."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Frames completed by these bytes; ValueError if one claims to be longer than MAX_FRAME."""
        data = self._rest + data
        frames: list[bytes] = []
        start, size = 0, len(data)
        while size - start >= 4:
            (length,) = _LENGTH.unpack_from(data, start)
            if length > MAX_FRAME:
                raise ValueError(f"frame of {length} bytes")
            if size - start - 4 < length:
                break
            if length:
                frames.append(data[start + 4 : start + 4 + length])
            start += 4 + length
        self._rest = data[start:]
        return frames


class StreamBackend(NetBackend):
    """A TCP or unix stream socket with one peer at a time; without a peer frames are dropped.

    With a ``listener`` it takes the next peer when one has left. A client has a ``connect``
    function: the first connection is made at once, unless ``reconnect`` (seconds) says to try
    in the background and again whenever the peer has gone.
    """

    def __init__(
        self,
        name: str,
        loop: EventLoop,
        *,
        listener: socket.socket | None = None,
        connect: Connector | None = None,
        reconnect: float = 0.0,
        connected: socket.socket | None = None,
        on_close: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(name, loop)
        self._lock = threading.Lock()  # of the socket and the backlog
        self._socket: socket.socket | None = None
        self._backlog = bytearray()
        self._decoder = FrameDecoder()
        self._paused = False
        self._listener = listener
        self._connect = connect
        self._reconnect = reconnect
        self._timer: Timer | None = None
        self._on_close = on_close
        if connected is not None:
            self._attach(connected)
        elif listener is not None:
            listener.setblocking(False)
            loop.add_reader(listener.fileno(), self._accept)
        elif reconnect:
            loop.call_soon_threadsafe(self._try_later)
        elif connect is not None:
            self._attach(connect())

    @property
    def peer_connected(self) -> bool:
        """Whether somebody gets the frames."""
        return self._socket is not None

    @property
    def local_address(self) -> object:
        """Where the listener listens, as `socket.getsockname` says."""
        return self._listener.getsockname() if self._listener is not None else None

    # vCPU thread

    def send(self, frames: Sequence[bytes]) -> None:
        """Write what the socket takes; the rest waits, within limits."""
        if not self.link_up:
            return
        with self._lock:
            peer = self._socket
            if peer is None:
                return
            if self._backlog:
                self._queue(frames, 0)
                return
            pieces = [piece for frame in frames for piece in (_LENGTH.pack(len(frame)), frame)]
            data = b"".join(pieces)
            try:
                sent = peer.send(data)
            except BlockingIOError:
                sent = 0
            except OSError:
                return  # the reader sees it too, and hangs up
            if sent < len(data):
                self._queue(frames, sent)
                self.loop.add_writer(peer.fileno(), self._writable)

    def _queue(self, frames: Sequence[bytes], skip: int) -> None:
        """Keep frames for later but for the first ``skip`` bytes, which are out already."""
        for frame in frames:
            size = 4 + len(frame)
            if skip >= size:
                skip -= size
            elif skip or len(self._backlog) + size <= _BACKLOG:
                self._backlog += (_LENGTH.pack(len(frame)) + frame)[skip:]
                skip = 0

    # Loop thread

    def _writable(self) -> None:
        with self._lock:
            peer = self._socket
            if peer is None:
                return
            try:
                with memoryview(self._backlog) as waiting:
                    sent = peer.send(waiting[:_READ])
                del self._backlog[:sent]
            except BlockingIOError:
                return
            except OSError as error:
                why = error.strerror or str(error)
            else:
                if not self._backlog:
                    self.loop.remove_writer(peer.fileno())
                return
        self._hang_up(why)

    def _readable(self) -> None:
        peer = self._socket
        if peer is None:
            return
        try:
            data = peer.recv(_READ)
        except BlockingIOError:
            return
        except OSError as error:
            self._hang_up(error.strerror or str(error))
            return
        if not data:
            self._hang_up("")
            return
        try:
            frames = self._decoder.feed(data)
        except ValueError as error:
            self._hang_up(f"the peer sends nonsense ({error})")
            return
        self.deliver(frames)

    def _hang_up(self, why: str) -> None:
        if why:
            _log.warning("%s: connection lost: %s", self.name, why)
        self._detach()
        if self.closed:
            return
        if self._listener is not None:
            self.loop.add_reader(self._listener.fileno(), self._accept)
        elif self._reconnect:
            self._try_later(self._reconnect)

    def _accept(self) -> None:
        listener = self._listener
        if listener is None or self.closed:
            return
        try:
            peer = listener.accept()[0]
        except OSError:
            return  # the client has gone again
        # One peer at a time: others wait in the backlog of the listener.
        self.loop.remove_reader(listener.fileno())
        self._attach(peer)

    def _try_later(self, delay: float = 0.0) -> None:
        self._timer = self.loop.call_later(delay, self._try_on_thread)

    def _try_on_thread(self) -> None:
        # A name or host that does not answer takes seconds.
        if not self.closed:
            threading.Thread(target=self._try, name=f"net-{self.name}", daemon=True).start()

    def _try(self) -> None:
        assert self._connect is not None
        try:
            peer = self._connect()
        except (OSError, ConfigError):
            if not self.closed:
                self._try_later(self._reconnect)
            return
        if not self.loop.call_soon_threadsafe(self._attach, peer):
            peer.close()

    # Any thread

    def _attach(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        if peer.family in (socket.AF_INET, socket.AF_INET6):
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            if self.closed:
                peer.close()
                return
            self._socket = peer
            self._backlog.clear()
            self._decoder = FrameDecoder()
            if not self._paused:
                self.loop.add_reader(peer.fileno(), self._readable)

    def _detach(self) -> None:
        with self._lock:
            peer, self._socket = self._socket, None
            if peer is not None:
                self.loop.close_fd(peer.detach())

    def pause(self) -> None:
        """Leave what comes in the socket; the peer finds it full in the end."""
        with self._lock:
            self._paused = True
            if self._socket is not None:
                self.loop.remove_reader(self._socket.fileno())

    def resume(self) -> None:
        """Read again."""
        with self._lock:
            self._paused = False
            if self._socket is not None:
                self.loop.add_reader(self._socket.fileno(), self._readable)

    def close(self) -> None:
        """Disconnect, stop listening, remove a unix socket's name."""
        if self.closed:
            return
        super().close()
        if self._timer is not None:
            self._timer.cancel()
        self._detach()
        if self._listener is not None:
            self.loop.close_fd(self._listener.detach())
            self._listener = None
        self._on_close()
