"""A proxy between source and destination that cuts the connection at a chosen point."""

from __future__ import annotations

import contextlib
import enum
import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

_CHUNK = 1 << 16
_SECONDS = 120.0
_READY, _ACK = b"\x52", b"\x41"


class Point(enum.Enum):
    """A point of the hand-over: a message reaches the proxy and goes no further, or does."""

    READY_LOST = enum.auto()
    READY_PASSED = enum.auto()  # and the source cannot send anything any more
    GO_LOST = enum.auto()
    ACK_LOST = enum.auto()
    ACK_PASSED = enum.auto()


class Hold:
    """Keeps a proxy waiting at a message, until the test has done something meanwhile."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._released = threading.Event()

    def __call__(self) -> None:
        self._reached.set()
        assert self._released.wait(_SECONDS), "nobody has released it"

    def __enter__(self) -> Self:
        assert self._reached.wait(_SECONDS), "the message has not come"
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._released.set()


class CuttingProxy:
    """Passes one connection on from a new UNIX socket to ``target``, and cuts it.

    After ``after`` bytes to the destination, counted from the first occurrence of ``marker`` if
    there is one; or at ``point`` of the hand-over.  ``flip`` is a byte of which it turns a bit.
    ``before_cut`` is called when it is about to cut, and ``on_ready``, ``on_go`` and ``on_ack``
    when that message has come: both sides still wait.  A context manager; ``uri`` is what the
    source is to use.
    """

    def __init__(
        self,
        folder: Path,
        target: str,
        *,
        after: int | None = None,
        marker: bytes = b"",
        point: Point | None = None,
        flip: int | None = None,
        before_cut: Callable[[], object] = lambda: None,
        on_ready: Callable[[], object] = lambda: None,
        on_go: Callable[[], object] = lambda: None,
        on_ack: Callable[[], object] = lambda: None,
    ) -> None:
        self._path = folder / f"proxy-{os.urandom(4).hex()}"
        self.uri = f"unix:{self._path}"
        self.was_cut = threading.Event()
        self._target_path = target.removeprefix("unix:")
        self._limit = None if marker else after
        self._after, self._marker, self._point, self._flip = after, marker, point, flip
        self._before_cut = before_cut
        self._on_ready, self._on_go, self._on_ack = on_ready, on_go, on_ack
        self.failure: BaseException | None = None  # of what was called
        self._passed = 0  # bytes to the destination
        self._ready = False  # the destination has said so
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self._path))
        self._listener.listen(1)
        self._source = self._target = self._listener

    def __enter__(self) -> Self:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()
        self._path.unlink(missing_ok=True)
        if self.failure is not None and error is None:
            raise self.failure

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            self._source = self._listener.accept()[0]
            self._target = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._target.connect(self._target_path)
            threading.Thread(target=self._pass_answers, daemon=True).start()
            self._pass_stream()

    def _pass_stream(self) -> None:
        """From the source: everything, then GO."""
        behind = b""
        while data := self._source.recv(_CHUNK):
            if self._ready:
                self._call(self._on_go)
                if self._point is Point.GO_LOST:
                    return self._cut()
            if self._marker and self._limit is None:
                found = (behind + data).find(self._marker)
                if found >= 0:
                    end = found + len(self._marker) - len(behind)
                    self._limit = self._passed + end + (self._after or 0)
                behind = (behind + data)[-len(self._marker) :]
            if self._flip is not None and 0 <= (at := self._flip - self._passed) < len(data):
                data = data[:at] + bytes((data[at] ^ 0x10,)) + data[at + 1 :]
            if self._limit is not None:
                data = data[: self._limit - self._passed]
            self._target.sendall(data)
            self._passed += len(data)
            if self._passed == self._limit:
                return self._cut()
        with contextlib.suppress(OSError):
            self._target.shutdown(socket.SHUT_WR)

    def _pass_answers(self) -> None:
        """From the destination: READY and ACK, or why not."""
        with contextlib.suppress(OSError):
            while data := self._target.recv(_CHUNK):
                if data == _READY and not self._ready:
                    self._call(self._on_ready)
                    if self._point is Point.READY_LOST:
                        return self._cut()
                    if self._point is Point.READY_PASSED:
                        self._source.shutdown(socket.SHUT_RD)
                    self._ready = True
                    self._source.sendall(data)
                    if self._point is Point.READY_PASSED:
                        return self._cut()
                    continue
                if data == _ACK:
                    self._call(self._on_ack)
                    if self._point is Point.ACK_LOST:
                        return self._cut()
                self._source.sendall(data)
                if data == _ACK and self._point is Point.ACK_PASSED:
                    return self._cut()
            self._source.shutdown(socket.SHUT_WR)

    def _call(self, action: Callable[[], object]) -> None:
        try:
            action()
        except BaseException as error:
            self.failure = error

    def _cut(self) -> None:
        self._call(self._before_cut)
        self._close()
        self.was_cut.set()

    def _close(self) -> None:
        for one in (self._listener, self._source, self._target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
