"""A small client of gdb's remote protocol, for what gdb itself does not send."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self

SECONDS = 30.0


def checksum(content: bytes) -> bytes:
    """Two hexadecimal digits."""
    return b"%02x" % (sum(content) & 0xFF)


class GdbClient:
    """A connection to ``tcp:HOST:PORT`` or ``unix:PATH``; a context manager that closes it."""

    def __init__(self, address: str, seconds: float = SECONDS) -> None:
        kind, _, where = address.partition(":")
        if kind == "unix":
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(seconds)
            self.socket.connect(where)
        else:
            host, _, port = where.rpartition(":")
            self.socket = socket.create_connection((host, int(port)), timeout=seconds)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self.acknowledge = True

    def _byte(self) -> bytes:
        if not self._buffer:
            data = self.socket.recv(65536)
            if not data:
                raise EOFError
            self._buffer += data
        byte = self._buffer[:1]
        del self._buffer[:1]
        return bytes(byte)

    def send(self, data: bytes) -> None:
        """Raw bytes."""
        self.socket.sendall(data)

    def put(self, content: bytes) -> None:
        """A packet, without waiting for anything."""
        self.send(b"$" + content + b"#" + checksum(content))

    def sign(self) -> bytes:
        """The next byte: an acknowledgement."""
        return self._byte()

    def pending(self) -> bytes:
        """What has arrived and was not asked for; it stays."""
        self.socket.setblocking(False)
        try:
            self._buffer += self.socket.recv(65536)
        except BlockingIOError:
            pass
        finally:
            self.socket.settimeout(SECONDS)
        return bytes(self._buffer).strip(b"+")

    def reply(self) -> bytes:
        """The next packet, acknowledged; ``EOFError`` when the stub has hung up."""
        while self._byte() != b"$":
            pass
        content = bytearray()
        while (byte := self._byte()) != b"#":
            content += byte
        digits = self._byte() + self._byte()
        assert digits == checksum(bytes(content))
        if self.acknowledge:
            self.send(b"+")
        return bytes(content)

    def ask(self, content: bytes | str) -> bytes:
        """A packet and its reply."""
        self.put(content.encode() if isinstance(content, str) else content)
        return self.reply()

    def interrupt(self) -> bytes:
        """Ctrl-C and the stop reply."""
        self.send(b"\x03")
        return self.reply()

    def register(self, number: int) -> int:
        """A register of a big-endian guest."""
        return int(self.ask(f"p{number:x}"), 16)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()
