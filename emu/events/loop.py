"""The event loop for host file descriptors and timers.

One `EventLoop` thread serves a machine. Callbacks run on that thread, one at a time, and must not
block (a descriptor may turn out not to be ready: use non-blocking ones); an exception in one is
logged and the loop goes on.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import os
import select
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

_log = logging.getLogger(__name__)

_READ = select.POLLIN | select.POLLPRI
_WRITE = select.POLLOUT


class Waker:
    """A file descriptor that becomes readable when any thread calls `set()`."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._read, False)
        os.set_blocking(self._write, False)
        self._lock = threading.RLock()  # re-entrant, for signal handlers

    def fileno(self) -> int:
        """The descriptor to poll for reading."""
        return self._read

    def set(self) -> None:
        """Make the descriptor readable; any thread, also after `close()`."""
        with self._lock:
            if self._write >= 0:
                # A full pipe is readable already.
                with contextlib.suppress(BlockingIOError):
                    os.write(self._write, b"\0")

    def clear(self) -> None:
        """Make the descriptor not readable."""
        try:
            while os.read(self._read, 4096):
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Release both descriptors."""
        with self._lock:
            if self._write >= 0:
                os.close(self._write)
                os.close(self._read)
                self._write = -1


class Timer:
    """A callback to come; `cancel()` may be called from any thread."""

    def __init__(self, when: float, callback: Callable[[], object]) -> None:
        self.when = when
        self._callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Forget the callback; no effect if it has already run."""
        self._callback = None

    def take(self) -> Callable[[], object] | None:
        """Return the callback, if not cancelled, at most once."""
        callback, self._callback = self._callback, None
        return callback


class EventLoop:
    """A thread that waits for file descriptors, timers and posted calls.

    Every method may be called from any thread. `clock` gives seconds and must run at the rate of
    real time; `call_at` uses its time base.
    """

    def __init__(self, name: str = "events", clock: Callable[[], float] = time.monotonic) -> None:
        self.time = clock
        # Re-entrant: a signal handler on the main thread may post while that thread does.
        self._lock = threading.RLock()
        self._waker = Waker()
        self._readers: dict[int, Callable[[], object]] = {}
        self._writers: dict[int, Callable[[], object]] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._posted: deque[Callable[[], object]] = deque()
        self._stopping = False
        self._finished = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Run what was posted before this call, then end the thread and wait for it.

        From the loop's own thread it only asks; afterwards nothing is called any more. Idempotent.
        """
        with self._lock:
            self._stopping = True
        self._waker.set()
        if self._thread.ident is None:
            self._finish()
        elif not self.in_loop():
            self._thread.join()

    def in_loop(self) -> bool:
        """Whether the caller runs on the loop's thread."""
        return threading.current_thread() is self._thread

    def add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        """Call `callback` whenever `fd` is readable, at end of file or broken, until removed."""
        self._set(self._readers, fd, callback)

    def add_writer(self, fd: int, callback: Callable[[], object]) -> None:
        """Call `callback` whenever `fd` is writable or broken, until removed."""
        self._set(self._writers, fd, callback)

    def remove_reader(self, fd: int) -> None:
        """Stop watching; a callback already running on the loop's thread goes on to its end."""
        self._set(self._readers, fd, None)

    def remove_writer(self, fd: int) -> None:
        """Stop watching for writability; see `remove_reader`."""
        self._set(self._writers, fd, None)

    def remove(self, fd: int) -> None:
        """Stop watching `fd` altogether."""
        self.remove_reader(fd)
        self.remove_writer(fd)

    def close_fd(self, fd: int) -> None:
        """Stop watching `fd` and close it where no callback can be using it."""
        self.remove(fd)
        if self.in_loop() or not self.call_soon_threadsafe(os.close, fd):
            os.close(fd)

    def call_soon_threadsafe(self, callback: Callable[..., object], *args: Any) -> bool:
        """Run `callback(*args)` on the loop's thread; False if the loop has ended and will not."""
        with self._lock:
            if self._finished:
                return False
            self._posted.append(lambda: callback(*args))
        self._waker.set()
        return True

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Run `callback` once when `self.time()` reaches `when` (seconds)."""
        timer = Timer(when, callback)
        with self._lock:
            heapq.heappush(self._timers, (when, next(self._order), timer))
        self._waker.set()
        return timer

    def call_later(self, delay: float, callback: Callable[[], object]) -> Timer:
        """Run `callback` once, `delay` seconds from now."""
        return self.call_at(self.time() + delay, callback)

    def _set(
        self,
        table: dict[int, Callable[[], object]],
        fd: int,
        callback: Callable[[], object] | None,
    ) -> None:
        with self._lock:
            if callback is None:
                table.pop(fd, None)
            else:
                table[fd] = callback
        self._waker.set()

    def _run(self) -> None:
        while not self._stopping:
            poller, timeout = self._prepare()
            ready = poller.poll(timeout)
            self._waker.clear()
            self._run_posted()
            self._run_timers()
            for fd, events in ready:
                self._dispatch(fd, events)
        self._finish()

    def _prepare(self) -> tuple[select.poll, float | None]:
        """Return what to wait for, and for how long at most (milliseconds)."""
        # Built anew each time: the few descriptors of a machine make this cheap, and a descriptor
        # number that was closed and reused can never be confused. poll() also takes regular files.
        poller = select.poll()
        with self._lock:
            poller.register(self._waker.fileno(), _READ)
            for fd in self._readers.keys() | self._writers.keys():
                mask = (_READ if fd in self._readers else 0) | (
                    _WRITE if fd in self._writers else 0
                )
                poller.register(fd, mask)
            if self._posted or self._stopping:
                return poller, 0
            if self._timers:
                return poller, max(0.0, (self._timers[0][0] - self.time()) * 1000)
        return poller, None

    def _dispatch(self, fd: int, events: int) -> None:
        # Looked up again: an earlier callback of this round may have removed it.
        if events & ~_WRITE:
            self._call(self._readers.get(fd))
        if events & ~_READ:
            self._call(self._writers.get(fd))

    def _run_posted(self) -> None:
        # Only what is there now, so that a callback that posts itself cannot starve the rest.
        for _ in range(len(self._posted)):
            self._call(self._posted.popleft())

    def _run_timers(self) -> None:
        now = self.time()
        while True:
            with self._lock:
                if not self._timers or self._timers[0][0] > now:
                    return
                timer = heapq.heappop(self._timers)[2]
            self._call(timer.take())

    def _call(self, callback: Callable[[], object] | None) -> None:
        if callback is None:
            return
        try:
            callback()
        except Exception:
            _log.exception("internal error in an event callback")

    def _finish(self) -> None:
        with self._lock:
            self._finished = True  # from here on nothing can be posted
        self._run_posted()
        self._readers.clear()
        self._writers.clear()
        self._waker.close()
