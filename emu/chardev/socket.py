"""Console over a unix or TCP socket, as a server or as a client."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
import threading

from emu.chardev.config import ConfigError, SocketConfig
from emu.chardev.fdio import FdChardev, FdOutput
from emu.events import EventLoop, Timer


class SocketChardev(FdChardev):
    """A stream socket with at most one peer; output without a peer is dropped.

    A server takes the next client when one has left. A client with `reconnect` tries again that
    many seconds after a connection ended or failed. ConfigError if the socket cannot be set up.
    """

    def __init__(self, config: SocketConfig, loop: EventLoop) -> None:
        super().__init__(config.id, loop)
        self._config = config
        self._listener: socket.socket | None = None
        self._bound_path: str | None = None
        self._timer: Timer | None = None
        if config.server:
            self._listen()
        elif config.reconnect:
            self.loop.call_soon_threadsafe(self._connect_again)
        else:
            try:
                self._connected(_connect(config))
            except (OSError, UnicodeError) as error:
                raise self._error("failed to connect to", error) from error

    @property
    def address(self) -> str:
        """Where the server listens, with the port that was chosen; else the peer's address."""
        if self._listener is not None and self._config.path is None:
            host, port = self._listener.getsockname()[:2]
            return f"tcp:{host}:{port}"
        return self._config.address

    @property
    def peer_connected(self) -> bool:
        """Whether somebody gets the output."""
        return self._output is not None

    def close(self) -> None:
        """Disconnect, stop listening, remove the unix socket's name."""
        if self.closed:
            return
        super().close()
        if self._timer is not None:
            self._timer.cancel()
        if self._listener is not None:
            self.loop.close_fd(self._listener.detach())
        if self._bound_path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._bound_path)

    def _listen(self) -> None:
        try:
            self._listener = _bind(self._config)
        except (OSError, UnicodeError) as error:
            raise self._error("failed to listen on", error) from error
        self._bound_path = self._config.path
        if self._config.wait:
            print(
                f"ppc64emu: {self.label}: waiting for connection on {self.address}",
                file=sys.stderr,
            )
            try:
                peer = self._listener.accept()[0]
            except BaseException:
                self.close()
                raise
            self._listener.setblocking(False)
            self._connected(peer)
        else:
            self._listener.setblocking(False)
            self._accept_next()

    def _accept_next(self) -> None:
        if self._listener is not None and not self.closed:
            self.loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        listener = self._listener
        if listener is None or self.closed:
            return
        try:
            peer = listener.accept()[0]
        except OSError:
            return  # the client has gone again, or there is no descriptor left
        # One peer at a time: further clients wait in the backlog, as with QEMU.
        self.loop.remove_reader(listener.fileno())
        self._connected(peer)

    def _connect_again(self) -> None:
        # On its own thread, because a name or host that does not answer takes seconds.
        if not self.closed:
            threading.Thread(target=self._try_connect, name=self.label, daemon=True).start()

    def _try_connect(self) -> None:
        try:
            peer = _connect(self._config)
        except (OSError, UnicodeError):
            self._timer = self.loop.call_later(self._config.reconnect, self._connect_again)
            return
        if not self.loop.call_soon_threadsafe(self._connected, peer):
            peer.close()

    def _connected(self, peer: socket.socket) -> None:
        peer.setblocking(False)
        if peer.family != socket.AF_UNIX:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        fd = peer.detach()
        self._attach(os.dup(fd), fd)
        if self.closed:  # while the connection was made
            self._detach()
        else:
            self._tell_connection(True)

    def _hangup(self, error: OSError | None) -> None:
        self._detach()
        self._tell_connection(False)
        if self.closed:
            return
        if self._config.server:
            self._accept_next()
        elif self._config.reconnect:
            self._timer = self.loop.call_later(self._config.reconnect, self._connect_again)

    def _write_failed(self, output: FdOutput, error: OSError) -> None:
        # Reading may be paused by flow control, and would not see that the peer has gone.
        self.loop.call_soon_threadsafe(self._lost, output, error)

    def _lost(self, output: FdOutput, error: OSError) -> None:
        if self._output is output:
            self._hangup(error)

    def _error(self, what: str, error: OSError | UnicodeError) -> ConfigError:
        reason = "Name or service not known"  # UnicodeError: it cannot be a name
        if isinstance(error, OSError):
            reason = error.strerror or str(error)
        return ConfigError(f"{what} '{self._config.address}': {reason}")


def _connect(config: SocketConfig) -> socket.socket:
    if config.path is None:
        return socket.create_connection((config.host or "localhost", config.port), timeout=5)
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        peer.connect(config.path)
    except BaseException:
        peer.close()
        raise
    return peer


def _bind(config: SocketConfig) -> socket.socket:
    if config.path is None:
        return _bind_tcp(config.host, config.port)
    # A name left behind by a process that ended is replaced; any other file is not.
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISSOCK(os.stat(config.path).st_mode):
            os.unlink(config.path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(config.path)
        listener.listen(1)
    except BaseException:
        listener.close()
        raise
    return listener


def _bind_tcp(host: str, port: int) -> socket.socket:
    family, kind, proto, _, address = socket.getaddrinfo(
        host or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1)
    except BaseException:
        listener.close()
        raise
    return listener
