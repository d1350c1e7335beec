"""Post-copy, the source's side: its guest has gone, its memory follows.

The destination asks for what its guest waits for; that goes first.  The rest is pushed in order,
on from where it asked last.  See :mod:`emu.migration.postcopy_native` for the messages.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from emu.memory.ram import PAGE_SIZE, GuestRam
from emu.migration import ram_native
from emu.migration.answers import REFUSED
from emu.migration.channels import SocketChannel
from emu.migration.postcopy_native import EOS, GO, PAGE, REQUEST, ZERO
from emu.migration.status import Parameters, Progress
from emu.migration.stream import MigrationError, StreamReader

_PUSH = 64  # pages
_AROUND = 8  # pages sent with one that was asked for
_RECORD = np.dtype([("word", ">u8"), ("data", "u1", (PAGE_SIZE,))])
_SHORT = np.dtype(">u8")
_REQUEST_SIZE = 9


class PostcopyServer:
    """Sends pages (numbers in ``pages``) to the one that runs the guest.  Its caller's thread."""

    def __init__(
        self,
        ram: GuestRam,
        pages: npt.NDArray[np.int64],
        progress: Progress,
        parameters: Parameters,
    ) -> None:
        self._words = ram.view.view(np.uint32)
        self._contents = ram.view.reshape(-1, PAGE_SIZE)
        self.pending = np.zeros(ram.pages, np.bool_)
        self.pending[pages] = True
        self._progress = progress
        self._parameters = parameters
        self._next = 0
        self._input = b""
        self._channel: SocketChannel | None = None

    def connect(self, channel: SocketChannel) -> None:
        """Send on this channel from now on."""
        self._channel = channel
        self._input = b""
        channel.settimeout(None)

    def restart(self, channel: SocketChannel, reader: StreamReader) -> None:
        """Go on with a destination that says first what it lacks; :class:`MigrationError`."""
        if (kind := reader.read(1)) != LACKING:
            text = reader.peek(500)[1:] if kind == REFUSED else b""
            why = " ".join(text.decode("utf-8", "replace").split()) or "nonsense"
            raise MigrationError(f"the destination refused: {why}")
        self.pending[:] = False
        for _ in range(reader.u32()):
            first, count = reader.u32(), reader.u32()
            self.pending[first : first + count] = True
        self.connect(channel)
        self._input = bytes(reader.buffered(1 << 20))
        self._progress.remaining = int(np.count_nonzero(self.pending)) * PAGE_SIZE

    def go(self) -> None:
        """Give the guest away; raises ``OSError``."""
        assert self._channel is not None
        self._channel.write(GO.to_bytes(8, "big"))

    def await_answer(self, seconds: float, check: Callable[[], None]) -> bytes:
        """Send what is asked for until there is another message; its kind, empty at the end."""
        deadline = time.monotonic() + seconds
        while True:
            check()
            if kind := self._serve(0.1):
                return kind
            if time.monotonic() > deadline:
                raise MigrationError("the destination does not answer: timed out")

    def run(self) -> None:
        """Send everything; returns when the destination has it, or needs it no more.

        Raises ``OSError`` when the connection breaks.
        """
        assert self._channel is not None
        begun, sent = time.monotonic(), 0
        while self.pending.any():
            if answer := self._serve(self._ahead(sent, begun)):
                return self._check_end(answer)
            if self._ahead(sent, begun) == 0:
                sent += self._push()
        self._channel.write(EOS.to_bytes(8, "big"))
        while not (answer := self._serve(1.0)):
            pass
        self._check_end(answer)

    def _check_end(self, answer: bytes) -> None:
        if answer not in (DONE, ENDED):
            raise ConnectionError("the destination answered nonsense")

    def _ahead(self, sent: int, begun: float) -> float:
        limit = self._parameters.max_postcopy_bandwidth
        return max(sent / limit - (time.monotonic() - begun), 0.0) if limit else 0.0

    def _serve(self, seconds: float) -> bytes:
        """Answer the requests that have come; the kind of another message, empty if none."""
        channel = self._channel
        assert channel is not None
        if not self._input and not select.select([channel], [], [], seconds)[0]:
            return b""
        if len(self._input) < _REQUEST_SIZE and select.select([channel], [], [], 0)[0]:
            data = channel.read(1 << 16)
            if not data:
                raise ConnectionError("the destination has closed the connection")
            self._input += data
        while self._input[:1] == bytes((REQUEST,)):
            if len(self._input) < _REQUEST_SIZE:
                return b""
            page = int.from_bytes(self._input[1:_REQUEST_SIZE], "big")
            self._input = self._input[_REQUEST_SIZE:]
            self._answer(page)
        kind, self._input = self._input[:1], self._input[1:]
        return kind

    def unread(self) -> bytes:
        """What came behind the last message."""
        return self._input

    def _answer(self, page: int) -> None:
        if page >= len(self.pending):
            raise ConnectionError("the destination asked for a page outside RAM")
        self._progress.postcopy_requests += 1
        around = page + np.flatnonzero(self.pending[page : page + _AROUND])
        self._next = page
        if len(around):
            self._send(around)

    def _push(self) -> int:
        """Send the next pages; the bytes."""
        window = self.pending[self._next :]
        if not window.any():
            self._next, window = 0, self.pending
        first = self._next + int(window.argmax())
        pages = first + np.flatnonzero(self.pending[first : first + _PUSH])
        self._next = first + _PUSH
        return self._send(pages)

    def _send(self, pages: npt.NDArray[np.int64]) -> int:
        assert self._channel is not None
        full = np.zeros(len(pages), np.bool_)
        ram_native.find_full(self._words, pages, full)
        records = np.empty(np.count_nonzero(full), _RECORD)
        records["word"] = pages[full] << 12 | PAGE
        records["data"] = self._contents[pages[full]]
        zeros = (pages[~full] << 12 | ZERO).astype(_SHORT)
        data = records.tobytes() + zeros.tobytes()
        self._channel.write(data)
        self.pending[pages] = False
        progress = self._progress
        progress.normal_pages += len(records)
        progress.zero_pages += len(zeros)
        progress.transferred += len(data)
        progress.postcopy_bytes += len(data)
        progress.remaining = max(progress.remaining - len(pages) * PAGE_SIZE, 0)
        return len(data)


#: The destination has all pages.
DONE = b"\x44"
#: The guest has ended there.
ENDED = b"\x53"
#: Number of runs of pages that the destination lacks, then the runs (32 bits each).
LACKING = b"\x4c"
