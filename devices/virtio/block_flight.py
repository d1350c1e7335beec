"""Requests of virtio-blk on their way: what workers have, and flushes that wait for writes."""

from __future__ import annotations

import logging
from collections.abc import Callable

from devices.block.image import Image
from devices.virtio.block_request import Request, RequestType
from devices.virtio.block_workers import Workers

_log = logging.getLogger(__name__)
_WORDS = {RequestType.IN: "read", RequestType.OUT: "write"}


class Flight:
    """Keeps requests until the disk has answered; lets each flush wait for the writes before it.

    ``requests`` are all that were submitted and have not come back.  ``ready`` is called, on a
    worker's thread, when :meth:`collect` has something to give.  Everything else: vCPU thread.
    """

    def __init__(self, image: Image, name: str, ready: Callable[[], None]) -> None:
        self.requests: set[Request] = set()
        self._image = image
        self._name = name
        self._workers = Workers(image, name, ready)
        self._parked: list[tuple[Request, set[Request]]] = []  # flushes, and what they wait for
        self._logged: set[tuple[RequestType, int | None]] = set()

    def submit(self, request: Request) -> None:
        """Start a request."""
        if request.type is RequestType.FLUSH:
            writes = {other for other in self.requests if _changes_disk(other)}
            if writes:
                self.requests.add(request)
                self._parked.append((request, writes))
                return
        self.requests.add(request)
        self._workers.submit(request)

    def collect(self) -> list[Request]:
        """Requests that are done, without waiting."""
        return self._settle(self._workers.collect())

    def wait(self, seconds: float | None = None) -> list[Request]:
        """Requests that are done when workers have no more of them, or after a time."""
        return self._settle(self._workers.wait(seconds))

    def wait_all(self) -> list[Request]:
        """All requests, when all are done."""
        done: list[Request] = []
        while self.requests:
            done += self.wait()
        return done

    def close(self) -> None:
        """End the threads; no request is on its way."""
        self._workers.close()

    def _settle(self, requests: list[Request]) -> list[Request]:
        """Account for what the workers have done, and start flushes that waited for it."""
        for request in requests:
            self.requests.discard(request)
            if request.type is RequestType.IN:
                request.element.written(0, request.size)
            if request.error is not None:
                self._log_error(request, request.error)
        for entry in list(self._parked):
            flush, writes = entry
            writes.difference_update(requests)
            if not writes:
                self._parked.remove(entry)
                self._workers.submit(flush)
        return requests

    def _log_error(self, request: Request, error: OSError) -> None:
        """Each kind of error once."""
        kind = (request.type, error.errno)
        if kind not in self._logged:
            self._logged.add(kind)
            what = _WORDS.get(request.type) or request.type.name.lower().replace("_", " ")
            why = error.strerror or str(error)
            _log.warning("%s: %s of '%s' failed: %s", self._name, what, self._image.path, why)


def _changes_disk(request: Request) -> bool:
    return request.type not in (RequestType.IN, RequestType.FLUSH)
