"""Virtio entropy device (virtio 1.2, 5.4): one queue of buffers to fill with random bytes.

Nothing in it has a byte order but the ring.
"""

from __future__ import annotations

from dataclasses import dataclass

from devices.host import DeviceHost
from devices.virtio.constants import VirtioId
from devices.virtio.device import VirtioDevice
from devices.virtio.entropy import EntropySource, FileEntropy, SystemEntropy
from devices.virtio.queue import Element, VirtQueue
from emu.chardev.config import ConfigError
from emu.events import Timer
from emu.log import guest_error

QUEUE_SIZE = 8
UNLIMITED = (1 << 63) - 1
#: Bytes a buffer gets at most, so that a huge one does not stop the vCPU; the device may give
#: less than the buffer holds (5.4.6.1).
MAX_REQUEST = 64 * 1024


@dataclass(frozen=True, kw_only=True)
class RngOptions:
    """Properties of virtio-rng, and of the object its ``rng=`` refers to.

    At most ``max_bytes`` are given in each ``period`` (milliseconds).  ``filename`` is that of
    rng-random; None stands for rng-builtin, the host's own generator.  ConfigError for values
    out of range.
    """

    max_bytes: int = UNLIMITED
    period: int = 1 << 16
    filename: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.max_bytes <= UNLIMITED:
            raise ConfigError("'max-bytes' parameter must be non-negative, and less than 2^63")
        if not 0 < self.period < 1 << 32:
            raise ConfigError("'period' parameter expects a positive integer")


class VirtioRng(VirtioDevice):
    """The entropy device.  vCPU thread.  ConfigError if ``filename`` cannot be opened."""

    DEVICE_ID = VirtioId.RNG

    def __init__(self, name: str, host: DeviceHost, options: RngOptions) -> None:
        super().__init__(name, host, [QUEUE_SIZE])
        self.options = options
        self.quota = options.max_bytes  # bytes left in this period
        self._period_timer: Timer | None = None
        self._waiting: Element | None = None  # taken, but the source had nothing
        self._closed = False
        self._source: EntropySource = SystemEntropy()
        if options.filename is not None:
            self._source = FileEntropy(options.filename, host.loop, self._ready)

    def handle_queue(self, queue: VirtQueue) -> None:
        """Fill what the driver has made available, as far as quota and source go."""
        while self.quota > 0 and not self._closed:
            if self._waiting is None:
                elements = queue.pop(1)
                if not elements:
                    return
                self._waiting = elements[0]
            if not self._fill(queue, self._waiting):
                return
            self._waiting = None

    def on_reset(self) -> None:
        """Forget the buffer that waits; the quota is the host's and stays used."""
        self._waiting = None

    def on_queue_reset(self, queue: VirtQueue) -> None:
        """Forget the buffer that waits."""
        self._waiting = None

    def quiesce(self) -> None:
        """Give the buffer that waits back."""
        if self._waiting is not None:
            self.queues[0].rewind([self._waiting])
            self._waiting = None

    def close(self) -> None:
        """Close the source."""
        self._closed = True
        if self._period_timer is not None:
            self._period_timer.cancel()
        self._source.close()

    def _fill(self, queue: VirtQueue, element: Element) -> bool:
        """Return a buffer to the driver; False if the source has nothing now."""
        size = min(element.writable_bytes, MAX_REQUEST, self.quota)
        if size == 0:
            guest_error(self.name, "buffer without room for random bytes")
            self.push(queue, [(element, 0)])
            return True
        data = self._source.read(size)
        if not data:
            return False
        element.write(data)
        self._spend(len(data))
        self.push(queue, [(element, len(data))])
        return True

    def _spend(self, size: int) -> None:
        """Use up quota; the period starts with its first byte."""
        self.quota -= size
        if self._period_timer is None and self.options.max_bytes != UNLIMITED:
            self._period_timer = self.host.loop.call_later(
                self.options.period / 1000, lambda: self.host.post(self._new_period)
            )

    def _new_period(self) -> None:
        self._period_timer = None
        self.quota = self.options.max_bytes
        self.notify(0)

    def _ready(self) -> None:
        """The source may have bytes again; any thread."""
        self.host.post(lambda: self.notify(0))
