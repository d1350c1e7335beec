"""Where a state stream goes and comes from: tcp:, unix:, exec:, fd:, file:."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Sequence

from emu.chardev.config import ConfigError
from emu.migration.stream import Buffer, MigrationError

_BUFFER = 1 << 20
_POLL_MILLISECONDS = 100


class SocketChannel:
    """A connected stream socket: both directions."""

    has_return_path = True

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def write(self, data: Buffer) -> None:
        """Send all of it."""
        self._socket.sendall(data)

    def read(self, size: int) -> bytes:
        """What has arrived, up to ``size`` bytes."""
        return self._socket.recv(min(size, _BUFFER))

    def read_into(self, views: Sequence[memoryview]) -> int:
        """What has arrived, into buffers."""
        return self._socket.recvmsg_into(views, 0, socket.MSG_WAITALL)[0]

    def fileno(self) -> int:
        """For ``select``."""
        return self._socket.fileno()

    def detach_copy(self) -> socket.socket:
        """The same connection once more."""
        return self._socket.dup()

    def settimeout(self, seconds: float | None) -> None:
        """How long a read may take."""
        self._socket.settimeout(seconds)

    def finish(self) -> None:
        """Nothing to wait for: the peer answers."""

    def drain(self, seconds: float) -> None:
        """Say that no more will be written, and throw away what comes, so long at most.

        Closing with data unread would take our last words from the peer.
        """
        deadline = time.monotonic() + seconds
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
            while (left := deadline - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv(_BUFFER):
                    return

    def abort(self) -> None:
        """Make reads and writes of other threads fail.  Any thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Disconnect."""
        self._socket.close()


class FileChannel:
    """A file or a pipe: one direction."""

    has_return_path = False

    def __init__(
        self, fd: int, *, sync: bool = False, process: subprocess.Popen[bytes] | None = None
    ):
        self._fd = fd
        self._sync = sync
        self._process = process
        self._aborted = False
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.set_blocking(fd, False)  # a reader that stops must not keep us from aborting

    def write(self, data: Buffer) -> None:
        """Write all of it."""
        view = memoryview(data)
        while view:
            self._wait(select.POLLOUT)
            with contextlib.suppress(BlockingIOError):
                view = view[os.write(self._fd, view[:_BUFFER]) :]

    def read(self, size: int) -> bytes:
        """The next bytes, up to ``size``."""
        while True:
            self._wait(select.POLLIN)
            with contextlib.suppress(BlockingIOError):
                return os.read(self._fd, min(size, _BUFFER))

    def read_into(self, views: Sequence[memoryview]) -> int:
        """The next bytes, into buffers."""
        while True:
            self._wait(select.POLLIN)
            with contextlib.suppress(BlockingIOError):
                return os.readv(self._fd, views)

    def _wait(self, event: int) -> None:
        poll = select.poll()
        poll.register(self._fd, event)
        while not poll.poll(_POLL_MILLISECONDS):
            self._check_aborted()
        self._check_aborted()

    def _check_aborted(self) -> None:
        if self._aborted:
            raise OSError(0, "cancelled")

    def settimeout(self, seconds: float | None) -> None:
        """No answers come here."""

    def finish(self) -> None:
        """Wait until everything is safely at its place; raises ``OSError``."""
        if self._sync and stat.S_ISREG(os.fstat(self._fd).st_mode):
            os.fsync(self._fd)
        if self._process is not None:
            os.close(self._fd)
            self._fd = -1
            while (status := self._process.poll()) is None:
                self._check_aborted()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_POLL_MILLISECONDS / 1000)
            if status:
                raise OSError(0, f"the command ended with status {status}")

    def drain(self, seconds: float) -> None:
        """Nobody waits for an answer."""

    def abort(self) -> None:
        """Make reads and writes of other threads fail soon.  Any thread."""
        self._aborted = True

    def close(self) -> None:
        """Close it, and end the command."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


MigrationChannel = SocketChannel | FileChannel


def _split(uri: str) -> tuple[str, str]:
    kind, colon, rest = uri.partition(":")
    if not colon or kind not in ("tcp", "unix", "exec", "fd", "file") or not rest:
        raise ConfigError(f"unknown migration protocol: {uri}")
    return kind, rest


def check_uri(uri: str) -> str:
    """Return a URI if it is one; ConfigError otherwise."""
    kind, rest = _split(uri)
    if kind == "tcp":
        _tcp_address(rest)
    if kind == "fd" and not rest.isdigit():
        raise ConfigError(f"'{rest}' is no file descriptor")
    return uri


def _tcp_address(text: str) -> tuple[str, int]:
    match = re.fullmatch(r"(\[[^]]*\]|[^:,]*):(\d+)(?:,.*)?", text)
    if not match:
        raise ConfigError(f"expected tcp:HOST:PORT, not 'tcp:{text}'")
    port = int(match[2]) if len(match[2]) < 6 else -1
    if not 0 <= port <= 65535:
        raise ConfigError(f"port {match[2]} is out of range")
    return match[1].strip("[]"), port


def open_outgoing(uri: str) -> MigrationChannel:
    """Open the way out; :class:`MigrationError` with the reason if that fails."""
    kind, rest = _split(uri)
    try:
        if kind == "tcp":
            host, port = _tcp_address(rest)
            connection = socket.create_connection((host or "localhost", port), timeout=30)
            connection.settimeout(None)
            return SocketChannel(connection)
        if kind == "unix":
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.connect(rest)
            return SocketChannel(connection)
        if kind == "exec":
            process = subprocess.Popen(rest, shell=True, stdin=subprocess.PIPE)
            assert process.stdin is not None
            return FileChannel(_take(process.stdin), process=process)
        if kind == "fd":
            return _from_fd(int(rest))
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        return FileChannel(os.open(rest, flags, 0o600), sync=True)
    except (OSError, ValueError) as error:  # the latter for what can be no name
        raise MigrationError(f"cannot open '{uri}': {_reason(error)}") from error


def _reason(error: OSError | ValueError) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _take(stream: object) -> int:
    fd = os.dup(stream.fileno())  # type: ignore[attr-defined]
    stream.close()  # type: ignore[attr-defined]
    return fd


def _from_fd(fd: int) -> MigrationChannel:
    if stat.S_ISSOCK(os.fstat(fd).st_mode):
        return SocketChannel(socket.socket(fileno=fd))
    return FileChannel(fd)


class Incoming:
    """The way in.  ``address`` is where it listens; :meth:`accept` waits for the source."""

    def __init__(self, uri: str) -> None:
        kind, rest = _split(uri)
        self.address = uri
        self._listener: socket.socket | None = None
        self._open: Callable[[], MigrationChannel]
        self._path: str | None = None
        try:
            if kind == "tcp":
                self._listen_tcp(*_tcp_address(rest))
            elif kind == "unix":
                self._listen_unix(rest)
            elif kind == "exec":
                self._open = lambda: _from_command(rest)
            elif kind == "fd":
                self._open = lambda: _from_fd(int(rest))
            else:
                fd = os.open(rest, os.O_RDONLY | os.O_CLOEXEC)
                self._open = lambda: FileChannel(fd)
        except (OSError, ValueError) as error:
            raise ConfigError(f"-incoming {uri}: {_reason(error)}") from error

    def _listen_tcp(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host or "0.0.0.0", port), family=family, backlog=1)
        self.address = f"tcp:{host or '0.0.0.0'}:{self._listener.getsockname()[1]}"

    def _listen_unix(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(path).st_mode):
                os.unlink(path)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(1)
        self._path = path

    def accept(self) -> MigrationChannel:
        """The stream, once there is one; raises ``OSError`` when closed meanwhile."""
        if self._listener is None:
            return self._open()
        return SocketChannel(self._listener.accept()[0])

    def close(self) -> None:
        """Stop listening.  Any thread."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        if self._path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._path)


def _from_command(command: str) -> MigrationChannel:
    process = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE)
    assert process.stdout is not None
    return FileChannel(_take(process.stdout), process=process)
