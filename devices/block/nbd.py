"""A small client of the NBD protocol over a unix socket (the protocol's doc/proto.md).

Fixed newstyle negotiation, simple replies, one request at a time.  All integers big-endian.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading

from devices.block.image import Image, Views, batches, cut, total

_INIT_MAGIC = 0x4E42444D41474943
_OPTION_MAGIC = 0x49484156454F5054
_OPTION_REPLY_MAGIC = 0x3E889045565A9
_REQUEST_MAGIC = 0x25609513
_REPLY_MAGIC = 0x67446698
_FIXED_NEWSTYLE_NO_ZEROES = 3
_OPT_GO = 7
_REP_ACK, _REP_INFO, _REP_ERROR = 1, 3, 1 << 31
_INFO_EXPORT = 0
_CMD_READ, _CMD_WRITE, _CMD_DISC, _CMD_FLUSH, _CMD_TRIM, _CMD_WRITE_ZEROES = 0, 1, 2, 3, 4, 6
_FLAG_FUA, _FLAG_NO_HOLE = 1, 2
_REQUEST = struct.Struct(">IHHQQI")
_REPLY = struct.Struct(">IIQ")
_MAX_REPLY_DATA = 4096
#: Largest request; servers accept 32 MiB without asking.
_MAX_REQUEST = 8 << 20


class NbdImage(Image):
    """The default export of an NBD server; takes over ``connection``.

    Raises ``OSError`` when the server speaks otherwise or hangs up.
    """

    def __init__(
        self,
        connection: socket.socket,
        path: str,
        *,
        read_only: bool,
        write_back: bool = True,
        unmap: bool = False,
    ) -> None:
        self._socket = connection
        self._unmap = unmap
        self._lock = threading.Lock()
        self._handle = 0
        super().__init__(path, self._negotiate(), read_only=read_only, write_back=write_back)

    def preadv(self, views: Views, offset: int) -> None:
        """Read."""
        for start, size in _pieces(total(views)):
            part = cut(views, start, size)
            with self._lock:
                self._ask(_CMD_READ, offset + start, size)
                for view in part:
                    self._receive_into(view)

    def pwritev(self, views: Views, offset: int, *, durable: bool = False) -> None:
        """Write."""
        for start, size in _pieces(total(views)):
            part = cut(views, start, size)
            with self._lock:
                self._ask(_CMD_WRITE, offset + start, size, _FLAG_FUA if durable else 0, part)

    def flush(self) -> None:
        """Flush."""
        if not self.read_only:
            with self._lock:
                self._ask(_CMD_FLUSH, 0, 0)

    def discard(self, offset: int, size: int) -> None:
        """Trim, if that was asked for."""
        if self._unmap:
            self._each(_CMD_TRIM, offset, size, 0)

    def write_zeroes(self, offset: int, size: int, *, unmap: bool, durable: bool = False) -> None:
        """Write zeroes."""
        flags = 0 if unmap and self._unmap else _FLAG_NO_HOLE
        self._each(_CMD_WRITE_ZEROES, offset, size, flags | (_FLAG_FUA if durable else 0))

    def close(self) -> None:
        """Take leave of the server."""
        with self._lock:
            with contextlib.suppress(OSError):
                self._socket.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, _CMD_DISC, 0, 0, 0))
            self._socket.close()

    def _each(self, command: int, offset: int, size: int, flags: int) -> None:
        for start, part in _pieces(size):
            with self._lock:
                self._ask(command, offset + start, part, flags)

    def _ask(self, command: int, offset: int, size: int, flags: int = 0, data: Views = ()) -> None:
        """Send a request and wait for its reply."""
        self._handle += 1
        header = _REQUEST.pack(_REQUEST_MAGIC, flags, command, self._handle, offset, size)
        self._socket.sendall(header)
        for _, group in batches(data):
            for view in group:
                self._socket.sendall(view)
        magic, error, handle = _REPLY.unpack(self._receive(_REPLY.size))
        if magic != _REPLY_MAGIC or handle != self._handle:
            self._socket.close()  # out of step: nothing that follows can be trusted
            raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
        if error:
            raise OSError(error, os.strerror(error))

    def _negotiate(self) -> int:
        """Choose the default export; returns its size."""
        magic, version, _ = struct.unpack(">QQH", self._receive(18))
        if magic != _INIT_MAGIC or version != _OPTION_MAGIC:
            raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
        data = struct.pack(">IH", 0, 0)  # no name, no wishes
        self._socket.sendall(
            struct.pack(">IQII", _FIXED_NEWSTYLE_NO_ZEROES, _OPTION_MAGIC, _OPT_GO, len(data))
            + data
        )
        size = -1
        while True:
            magic, _, kind, length = struct.unpack(">QIII", self._receive(20))
            if magic != _OPTION_REPLY_MAGIC or kind & _REP_ERROR or length > _MAX_REPLY_DATA:
                raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
            reply = self._receive(length)
            if kind == _REP_INFO and length >= 12 and reply[:2] == bytes((0, _INFO_EXPORT)):
                size = int.from_bytes(reply[2:10], "big")
            if kind == _REP_ACK:
                if size < 0:
                    raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
                return size

    def _receive(self, size: int) -> bytes:
        data = bytearray(size)
        self._receive_into(memoryview(data))
        return bytes(data)

    def _receive_into(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            count = self._socket.recv_into(view[done:])
            if count == 0:
                raise OSError(errno.EPIPE, "the NBD server hung up")
            done += count


def _pieces(size: int) -> list[tuple[int, int]]:
    """Starts and sizes of the requests that make up one of ``size`` bytes."""
    return [(start, min(_MAX_REQUEST, size - start)) for start in range(0, size, _MAX_REQUEST)]
