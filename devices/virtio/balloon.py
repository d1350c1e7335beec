"""Virtio memory balloon (virtio 1.2, 5.5): the guest hands pages back to the host.

Units are those of the specification: pages of 4 KiB, whatever the guest's and the host's pages
are.  The configuration space is little-endian for every driver (5.5.4.2 and QEMU's practice);
page numbers and statistics are in guest order for legacy drivers.  Queues are numbered as in
QEMU: inflate, deflate, statistics, and then free page reporting if it is offered.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from devices.host import DeviceHost
from devices.virtio.balloon_stats import Stats, StatsError, parse_stats
from devices.virtio.constants import VirtioId
from devices.virtio.device import VirtioDevice
from devices.virtio.queue import Element, VirtQueue
from emu.chardev.config import ConfigError
from emu.events import Timer
from emu.log import guest_error
from emu.memory.endian import GuestEndian
from emu.migration.fields import u32

PAGE_SIZE = 4096
QUEUE_SIZE = 128
INFLATE, DEFLATE, STATS, REPORTING = range(4)
#: Bytes of page numbers taken from one buffer; Linux sends 1 KiB at most.
MAX_PFN_BYTES = 64 * 1024

# Feature bits (5.5.3); QEMU offers neither MUST_TELL_HOST (0) nor, by itself, FREE_PAGE_HINT (3)
F_STATS_VQ, F_DEFLATE_ON_OOM, F_PAGE_POISON, F_REPORTING = 1, 2, 4, 5

_CONFIG = struct.Struct("<IIII")  # num_pages, actual, free_page_hint_cmd_id, poison_val
_SIZE_WITHOUT_POISON = 8


@dataclass(frozen=True, kw_only=True)
class BalloonOptions:
    """Properties of virtio-balloon.

    ``guest_stats_polling_interval`` is in seconds, 0 for never.
    """

    deflate_on_oom: bool = False
    free_page_reporting: bool = False
    page_poison: bool = True
    guest_stats_polling_interval: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.guest_stats_polling_interval < 1 << 32:
            raise ConfigError("'guest-stats-polling-interval' is a number of seconds, or 0")

    @property
    def features(self) -> int:
        """Feature bits they stand for."""
        return (
            1 << F_STATS_VQ
            | self.deflate_on_oom << F_DEFLATE_ON_OOM
            | self.page_poison << F_PAGE_POISON
            | self.free_page_reporting << F_REPORTING
        )


class VirtioBalloon(VirtioDevice):
    """The balloon.  vCPU thread, but for what says otherwise.

    ``on_change`` is called with the new :attr:`actual` when the driver reports another size.
    """

    DEVICE_ID = VirtioId.BALLOON
    CONFIG_ALWAYS_LITTLE = True
    STATE = (u32("num_pages"), u32("actual", "actual_pages"), u32("poison_val"))

    def __init__(
        self,
        name: str,
        host: DeviceHost,
        options: BalloonOptions,
        on_change: Callable[[int], None] | None = None,
    ) -> None:
        queues = 4 if options.free_page_reporting else 3
        super().__init__(name, host, [QUEUE_SIZE] * queues, options.features)
        self.options = options
        self.num_pages = 0  # in the balloon, as the host wants it
        self.actual_pages = 0  # in the balloon, as the driver says: any 32-bit number
        self.poison_val = 0
        self.stats: Stats = {}
        self.stats_last_update = 0.0  # seconds since 1970; 0.0 for never
        self._on_change = on_change
        self._stats_element: Element | None = None  # the driver's, to be returned as a request
        self._requests: list[Future[Stats]] = []
        self._poll_timer: Timer | None = None
        self._polling_interval = 0
        self.set_stats_polling_interval(options.guest_stats_polling_interval)

    # For the host

    @property
    def actual(self) -> int:
        """Bytes of RAM the guest has now.  Any thread."""
        return max(self.host.dma.size - self.actual_pages * PAGE_SIZE, 0)

    def set_target(self, size: int) -> None:
        """Ask the guest to keep ``size`` bytes of RAM.  Any thread.  ValueError unless positive."""
        if size <= 0:
            raise ValueError("balloon target is a positive number of bytes")
        self.host.post(lambda: self._set_target(size))

    def request_stats(self) -> Future[Stats]:
        """Ask the guest for statistics: values by QEMU's names.  Any thread.

        The future fails with StatsError if there is no driver for it, or the device is reset.
        """
        future: Future[Stats] = Future()
        self.host.post(lambda: self._request_stats(future))
        return future

    @property
    def stats_polling_interval(self) -> int:
        """Seconds between requests for statistics; 0: only when asked."""
        return self._polling_interval

    def set_stats_polling_interval(self, seconds: int) -> None:
        """Ask for statistics at once and then regularly, or stop for 0."""
        if seconds < 0:
            raise ValueError("polling interval is not negative")
        self._polling_interval = seconds
        if self._poll_timer is not None:
            self._poll_timer.cancel()
            self._poll_timer = None
        if seconds:
            self._poll_in(0)

    # For the driver

    def config_space(self, endian: GuestEndian) -> bytes:
        """num_pages, actual, and with PAGE_POISON free_page_hint_cmd_id and poison_val."""
        space = _CONFIG.pack(self.num_pages, self.actual_pages, 0, self.poison_val)
        return space if self.options.page_poison else space[:_SIZE_WITHOUT_POISON]

    def write_config(self, offset: int, data: bytes, endian: GuestEndian) -> None:
        """The driver writes actual and poison_val, as a whole or byte by byte."""
        space = bytearray(self.config_space(endian))
        end = min(offset + len(data), len(space))
        if offset < end:
            space[offset:end] = data[: end - offset]
        _, actual, _, poison = _CONFIG.unpack(bytes(space).ljust(_CONFIG.size, b"\0"))
        self.poison_val = poison
        if actual != self.actual_pages:
            self._set_actual(actual)

    def handle_queue(self, queue: VirtQueue) -> None:
        """Pages in or out, statistics, or free pages."""
        if queue.index == STATS:
            self._take_stats(queue)
            return
        serve = {INFLATE: self._inflate, REPORTING: self._report}.get(queue.index)
        while elements := queue.pop():
            if serve is not None:  # pages taken back need nothing: they come when touched
                for element in elements:
                    serve(element)
            self.push(queue, [(element, 0) for element in elements])

    def on_reset(self) -> None:
        """The guest starts anew with all its RAM; what the host wants stays."""
        self._stats_element = None
        self.poison_val = 0
        if self.actual_pages:
            self._set_actual(0)
        self._fail_requests("the balloon was reset")

    def on_queue_reset(self, queue: VirtQueue) -> None:
        """Forget the statistics buffer."""
        if queue.index == STATS:
            self._stats_element = None

    def quiesce(self) -> None:
        """Give the statistics buffer back: it is read again."""
        if self._stats_element is not None:
            self.queues[STATS].rewind([self._stats_element])
            self._stats_element = None

    def close(self) -> None:
        """Stop polling."""
        self.set_stats_polling_interval(0)
        self._fail_requests("the machine has ended")

    # Size

    def _set_target(self, size: int) -> None:
        pages = max(self.host.dma.size - size, 0) // PAGE_SIZE
        if pages != self.num_pages:
            self.num_pages = pages
            self.config_changed()

    def _set_actual(self, pages: int) -> None:
        # Not clamped: legacy drivers write byte by byte, and what is there between two bytes may
        # be larger than RAM.
        self.actual_pages = pages
        if self._on_change is not None:
            self._on_change(self.actual)

    # Pages

    def _inflate(self, element: Element) -> None:
        """Give back the pages that a buffer lists (5.5.6)."""
        if element.readable_bytes > MAX_PFN_BYTES:
            guest_error(self.name, "more than %d page numbers at once", MAX_PFN_BYTES // 4)
        data = element.read(0, MAX_PFN_BYTES)
        pfns = np.frombuffer(data, f"{self.endian.struct}u4", len(data) // 4)
        limit = self.host.dma.size // PAGE_SIZE
        inside = pfns[pfns < limit]
        if len(inside) != len(pfns):
            guest_error(self.name, "page number outside RAM")
        for first, count in _runs(inside):
            self.host.dma.discard(first * PAGE_SIZE, count * PAGE_SIZE)

    def _report(self, element: Element) -> None:
        """Give back free pages (5.5.6.7), unless the guest expects its poison in them."""
        if self.poison_val:
            return
        for address, length in element.writable:
            self.host.dma.discard(address, length)

    # Statistics

    def _take_stats(self, queue: VirtQueue) -> None:
        """Take statistics and keep their buffer until more are wanted (5.5.6.3)."""
        elements = queue.pop()
        if not elements:
            return
        old = elements[:-1]
        if self._stats_element is not None:
            old.insert(0, self._stats_element)
        if old:
            guest_error(self.name, "more than one statistics buffer")
            self.push(queue, [(element, 0) for element in old])
        self._stats_element = elements[-1]
        self.stats = parse_stats(elements[-1], self.endian)
        self.stats_last_update = time.time()
        if self._polling_interval:
            self._poll_in(self._polling_interval)
        requests, self._requests = self._requests, []
        for request in requests:
            _resolve(request, dict(self.stats))

    def _request_stats(self, future: Future[Stats] | None) -> None:
        if not self.has_feature(F_STATS_VQ):
            if future is not None:
                _fail(future, "the guest has no balloon driver that reports statistics")
            return
        if future is not None:
            self._requests.append(future)
        element, self._stats_element = self._stats_element, None
        if element is not None:
            self.push(self.queues[STATS], [(element, 0)])

    def _fail_requests(self, why: str) -> None:
        requests, self._requests = self._requests, []
        for request in requests:
            _fail(request, why)

    def _poll_in(self, seconds: int) -> None:
        if self._poll_timer is not None:
            self._poll_timer.cancel()
        self._poll_timer = self.host.loop.call_later(seconds, lambda: self.host.post(self._poll))

    def _poll(self) -> None:
        """Ask for statistics; the answer sets the timer again, else the next try is due then."""
        if self._polling_interval:
            self._poll_in(self._polling_interval)
            self._request_stats(None)


def _runs(pfns: npt.NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Neighbouring pages together: (first, count), ascending, each page once."""
    if not len(pfns):
        return
    pages = np.unique(pfns.astype(np.int64))
    breaks = np.flatnonzero(np.diff(pages) != 1) + 1
    for run in np.split(pages, breaks):
        yield int(run[0]), len(run)


def _resolve(future: Future[Stats], stats: Stats) -> None:
    if future.set_running_or_notify_cancel():
        future.set_result(stats)


def _fail(future: Future[Stats], why: str) -> None:
    if future.set_running_or_notify_cancel():
        future.set_exception(StatsError(why))
