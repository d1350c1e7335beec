"""Frames over a datagram socket, one in each datagram."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any

from devices.net.base import MAX_FRAME, NetBackend
from emu.events import EventLoop

_BATCH = 64  # datagrams read before others get their turn


class DatagramBackend(NetBackend):
    """A bound UDP or unix datagram socket; frames go to ``remote``, or to its connected peer.

    A datagram that the host does not take is dropped, as on a cable.
    """

    def __init__(
        self,
        name: str,
        loop: EventLoop,
        sock: socket.socket,
        remote: Any = None,
        on_close: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(name, loop)
        sock.setblocking(False)
        self._lock = threading.Lock()
        self._socket: socket.socket | None = sock
        self._remote = remote
        self._on_close = on_close
        loop.add_reader(sock.fileno(), self._readable)

    @property
    def local_address(self) -> object:
        """Where it listens, as `socket.getsockname` says."""
        return self._socket.getsockname() if self._socket is not None else None

    def send(self, frames: Sequence[bytes]) -> None:
        """Send each frame as a datagram."""
        with self._lock:
            sock = self._socket
            if sock is None or not self.link_up:
                return
            for frame in frames:
                # No peer yet, no room, too long for a datagram: lost.
                with contextlib.suppress(OSError):
                    if self._remote is None:
                        sock.send(frame)
                    else:
                        sock.sendto(frame, self._remote)

    def _readable(self) -> None:
        frames: list[bytes] = []
        sock = self._socket
        if sock is None:
            return
        # Ends when nothing is left, or with the news that a datagram of ours was refused.
        with contextlib.suppress(OSError):
            while len(frames) < _BATCH:
                frames.append(sock.recv(MAX_FRAME))
        self.deliver([frame for frame in frames if frame])

    def pause(self) -> None:
        """Leave datagrams in the socket, which drops them when it is full."""
        with self._lock:
            if self._socket is not None:
                self.loop.remove_reader(self._socket.fileno())

    def resume(self) -> None:
        """Read again."""
        with self._lock:
            if self._socket is not None:
                self.loop.add_reader(self._socket.fileno(), self._readable)

    def close(self) -> None:
        """Close the socket, remove a unix socket's name."""
        if self.closed:
            return
        super().close()
        with self._lock:
            sock, self._socket = self._socket, None
        if sock is not None:
            self.loop.close_fd(sock.detach())
        self._on_close()
