"""Threads that wait for the host's disk, so that the vCPU does not."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

from devices.block.image import Image
from devices.virtio.block_request import Request

MAX_THREADS = 4


class Workers:
    """A pool of threads that carry out requests on one image, started when there is work.

    Everything but the threads' own loop runs on the vCPU thread.  ``ready`` is called on a
    worker's thread when there are results, once until they are collected.
    """

    def __init__(self, image: Image, name: str, ready: Callable[[], None]) -> None:
        self.pending = 0  # requests submitted and not collected
        self._image = image
        self._name = name
        self._ready = ready
        self._jobs: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        # Written by several threads without a lock: a result is put before these are looked at,
        # and looked for after they are reset, so none is missed.
        self._announced = False
        self._waiting = False

    def submit(self, request: Request) -> None:
        """Give a request to the threads."""
        self.pending += 1
        if self.pending > len(self._threads) < MAX_THREADS:
            thread = threading.Thread(
                target=self._run, name=f"{self._name}-{len(self._threads)}", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        self._jobs.put(request)

    def collect(self) -> list[Request]:
        """Requests that are done, without waiting."""
        self._announced = False
        found = []
        try:
            while True:
                found.append(self._done.get_nowait())
        except queue.Empty:
            self.pending -= len(found)
            return found

    def wait(self, seconds: float | None = None) -> list[Request]:
        """Requests that are done when all are, or after a time."""
        deadline = None if seconds is None else time.monotonic() + seconds
        found: list[Request] = []
        self._waiting = True
        try:
            while self.pending:
                left = None if deadline is None else max(deadline - time.monotonic(), 0.0)
                found.append(self._done.get(timeout=left))
                self.pending -= 1
        except queue.Empty:
            pass
        finally:
            self._waiting = False
        return found + self.collect()

    def close(self) -> None:
        """End the threads when they have done all their work, and wait for that."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _run(self) -> None:
        while (request := self._jobs.get()) is not None:
            request.carry_out(self._image)
            self._done.put(request)
            del request  # guest RAM must not stay referenced by an idle thread
            # Who waited has it already; a call then would stop the vCPU for nothing.
            if not self._waiting and not self._announced and not self._done.empty():
                self._announced = True
                self._ready()
