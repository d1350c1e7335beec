"""Character devices made of file descriptors: interruptible output, flow-controlled input."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import stat
import threading

from emu.chardev.base import INPUT_HIGH_WATER, Chardev
from emu.events import EventLoop, Waker

_log = logging.getLogger(__name__)

#: Bytes read at once: what a terminal or pipe has at most, mostly.
READ_SIZE = 4096


def private_fd(fd: int, flags: int) -> int:
    """Return a descriptor for the same file as `fd`, non-blocking where that matters.

    O_NONBLOCK belongs to the open file, which standard input and output share with the shell and
    other processes; so terminals and pipes are opened again, anything else is duplicated as it is.
    """
    try:
        if os.isatty(fd):
            return os.open(os.ttyname(fd), flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        if stat.S_ISFIFO(os.fstat(fd).st_mode):
            return os.open(f"/proc/self/fd/{fd}", flags | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        pass  # no /proc, another user's terminal, ...: blocking will have to do
    return os.dup(fd)


class FdOutput:
    """Owns a descriptor and writes all it is given to it, until `close` interrupts."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()
        self._waker = Waker()
        self._closed = False

    def write(self, data: bytes) -> None:
        """Write everything; OSError if the other end is gone. Returns early when closed."""
        with self._lock:
            rest = memoryview(data)
            while rest and not self._closed:
                try:
                    rest = rest[os.write(self._fd, rest) :]
                except BlockingIOError:
                    self._wait()

    def close(self) -> None:
        """Interrupt a write and close the descriptor. Idempotent; any thread."""
        self._closed = True
        self._waker.set()
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
                self._waker.close()

    def _wait(self) -> None:
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        poller.register(self._waker.fileno(), select.POLLIN)
        for fd, events in poller.poll():
            if fd == self._fd and events & (select.POLLHUP | select.POLLERR):
                raise BrokenPipeError(errno.EPIPE, "the other end is closed")


class FdChardev(Chardev):
    """Base of the backends that are descriptors; `_attach` and `_detach` connect and disconnect.

    Both descriptors are owned from `_attach` on. After construction, only the loop's thread and
    `close` call them.
    """

    def __init__(self, label: str, loop: EventLoop) -> None:
        super().__init__(label, loop)
        self.loop = loop
        self._in_fd: int | None = None
        self._output: FdOutput | None = None
        self._reading = False
        self._attach_lock = threading.Lock()
        self._failed = False

    def write(self, data: bytes) -> None:
        """Write to the descriptor; without one, or once it is broken, drop."""
        output = self._output
        if output is None:
            return
        try:
            output.write(data)
        except OSError as error:
            self._write_failed(output, error)

    def close(self) -> None:
        """Stop reading, interrupt writing, close the descriptors."""
        super().close()
        self._detach()

    def _attach(self, in_fd: int | None, out_fd: int | None) -> None:
        with self._attach_lock:
            self._in_fd = in_fd
            self._output = None if out_fd is None else FdOutput(out_fd)
            self._failed = False
        if in_fd is not None:
            self._start_reading()

    def _detach(self) -> None:
        with self._attach_lock:
            in_fd, self._in_fd = self._in_fd, None
            output, self._output = self._output, None
            self._reading = False
        if in_fd is not None:
            self.loop.close_fd(in_fd)
        if output is not None:
            output.close()

    def _start_reading(self) -> None:
        with self._attach_lock:
            if self._in_fd is not None and len(self._pending) < INPUT_HIGH_WATER:
                self._reading = True
                self.loop.add_reader(self._in_fd, self._readable)

    def _stop_reading(self) -> None:
        with self._attach_lock:
            if self._in_fd is not None:
                self._reading = False
                self.loop.remove_reader(self._in_fd)

    def _readable(self) -> None:
        fd = self._in_fd
        if fd is None or not self._reading:
            return
        try:
            data = os.read(fd, READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self._hangup(error)
            return
        if not data:
            self._hangup(None)
            return
        self._feed(data)
        if len(self._pending) >= INPUT_HIGH_WATER:
            self._stop_reading()

    def _input_drained(self) -> None:
        if not self._reading:
            self._start_reading()

    def _hangup(self, error: OSError | None) -> None:
        """Input ended (None) or failed; on the loop's thread. Output may go on."""
        self._stop_reading()
        with self._attach_lock:
            in_fd, self._in_fd = self._in_fd, None
        if in_fd is not None:
            self.loop.close_fd(in_fd)

    def _write_failed(self, output: FdOutput, error: OSError) -> None:
        """Output was dropped; on the output thread."""
        if not self._failed and not self.closed:
            self._failed = True
            with contextlib.suppress(OSError):  # stderr may be the very same broken terminal
                _log.warning("%s: output is lost: %s", self.label, error.strerror or error)
