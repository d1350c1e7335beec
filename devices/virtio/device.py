"""The virtio device core: status, features, queues, and the byte order a legacy driver gets.

The rule of byte order is here and nowhere else.  A device latches MSR[LE] of the CPU whose
access resets it (:meth:`VirtioDevice.reset`) and keeps it until the next reset; the reset of the
machine gives it the platform's big-endian.  With VIRTIO_F_VERSION_1 negotiated everything is
little-endian, without it rings and configuration space have the latched order
(:attr:`VirtioDevice.endian`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol

from devices.host import DeviceHost
from devices.virtio import records
from devices.virtio.constants import LEGACY_ONLY, Feature, Status, VirtioId
from devices.virtio.queue import Element, VirtQueue
from devices.virtio.records import RingError
from emu.log import guest_error, log
from emu.memory.endian import GuestEndian
from emu.migration.fields import Field
from emu.migration.stream import MigrationError

_virtio_log = log("virtio")


_RING_FEATURES = Feature.RING_INDIRECT_DESC.mask | Feature.RING_EVENT_IDX.mask


class Transport(Protocol):
    """How a device reaches its driver.  vCPU thread."""

    def notify_queue(self, index: int) -> None:
        """Used buffer notification of a queue."""

    def notify_config(self) -> None:
        """Configuration change notification."""


class VirtioDevice:
    """A virtio device of any type behind any transport.

    Subclasses set ``DEVICE_ID``, offer features and queues, and implement
    :meth:`config_space`, :meth:`write_config`, :meth:`handle_queue` and :meth:`on_reset`.
    Everything runs on the vCPU thread.
    """

    DEVICE_ID: ClassVar[VirtioId]
    #: Fields of its own in a state stream; paths start at the device.
    STATE: ClassVar[tuple[Field, ...]] = ()
    #: Whether the configuration space is little-endian for legacy drivers too (balloon).
    CONFIG_ALWAYS_LITTLE: ClassVar[bool] = False

    def __init__(
        self, name: str, host: DeviceHost, queue_sizes: Sequence[int], features: int = 0
    ) -> None:
        self.name = name
        self.host = host
        self.device_features = features
        self.withheld_features = 0  # not offered, though every device has them
        self.transport: Transport | None = None
        self.queues = [VirtQueue(host.dma, index, size) for index, size in enumerate(queue_sizes)]
        self.status = Status(0)
        self.features = 0
        self._unknown_features = 0  # acknowledged by the driver, never offered
        self.broken = False
        self.frozen = False  # between quiesce() and resume(): nothing touches guest memory
        self.config_generation = 0
        self.latched_endian = GuestEndian.BIG

    # What the transport calls

    def offered_features(self, modern: bool) -> int:
        """Feature bits shown to a driver of a kind."""
        offered = self.device_features | _RING_FEATURES
        offered |= Feature.VERSION_1.mask if modern else LEGACY_ONLY
        offered &= ~self.withheld_features
        return offered & ~LEGACY_ONLY if modern else offered & 0xFFFFFFFF

    def set_features(self, value: int, modern: bool) -> None:
        """The driver acknowledges features; ignored once FEATURES_OK is set (2.2.2)."""
        if self.status & Status.FEATURES_OK:
            guest_error(self.name, "features written after FEATURES_OK")
            return
        if not modern and value & Feature.BAD_FEATURE.mask:
            guest_error(self.name, "driver acknowledges every feature (bit 30)")
        offered = self.offered_features(modern)
        self.features = value & offered
        self._unknown_features = value & ~offered
        if _virtio_log.enabled:
            kind = "modern" if modern else "legacy"
            _virtio_log("%s: features %#x of %#x, %s", self.name, value, offered, kind)
        self._refresh_queues()
        self.on_features()

    def set_status(self, value: int) -> None:
        """The driver writes the status field; 0 resets the device (2.1)."""
        if value & 0xFF == 0:
            self.reset()
            return
        new = Status(value & 0xFF) & ~Status.NEEDS_RESET | self.status & Status.NEEDS_RESET
        if new & Status.FEATURES_OK and not self.status & Status.FEATURES_OK:
            if not self._features_acceptable():
                guest_error(self.name, "features %#x are not acceptable", self.features)
                new &= ~Status.FEATURES_OK
            else:
                self._refresh_queues()
        started = bool(new & ~self.status & Status.DRIVER_OK)
        self.status = new
        if _virtio_log.enabled:
            _virtio_log("%s: status %#x features %#x", self.name, int(new), self.features)
        if started:
            self._refresh_queues()
            self.on_driver_ok()

    def _features_acceptable(self) -> bool:
        return not self._unknown_features and self.modern

    def reset(self) -> None:
        """Reset by the driver, or by the machine when no CPU is being served.

        The byte order is latched before anything else is cleared.
        """
        self.latched_endian = self.host.current_endian()
        if _virtio_log.enabled:
            _virtio_log("%s: reset, %s-endian", self.name, self.latched_endian.order)
        self.status = Status(0)
        self.features = self._unknown_features = 0
        self.broken = False
        self.config_generation = 0
        for queue in self.queues:
            queue.reset()
        self.on_reset()

    def notify(self, index: int) -> None:
        """The driver has made buffers available (2.9)."""
        if self.broken or self.frozen or not 0 <= index < len(self.queues):
            if index >= len(self.queues):
                guest_error(self.name, "notification of queue %d, which is not there", index)
            return
        queue = self.queues[index]
        if _virtio_log.enabled:
            _virtio_log("%s: notify queue %d", self.name, index)
        if not queue.enabled or not self._driver_ready:
            return
        self.handle_queue(queue)
        self.check_queue(queue)

    @property
    def _driver_ready(self) -> bool:
        # A legacy driver may use the device before it sets DRIVER_OK (virtio 1.2, 3.1.2).
        return bool(self.status & Status.DRIVER_OK) or not self.modern

    def enable_queue(self, queue: VirtQueue) -> None:
        """The driver has placed a queue."""
        queue.set_flags(self._queue_flags())
        queue.enable()
        if _virtio_log.enabled:
            _virtio_log("%s: queue %d enabled, %s", self.name, queue.index, queue.describe())

    def reset_queue(self, queue: VirtQueue) -> None:
        """The driver takes a queue back (2.6.1)."""
        if _virtio_log.enabled:
            _virtio_log("%s: queue %d reset", self.name, queue.index)
        self.on_queue_reset(queue)
        queue.reset()

    def config_read(self, offset: int, size: int, *, modern: bool) -> bytes:
        """Bytes of the configuration space as they are on the bus; zeros beyond its end.

        ``modern`` says through which interface the driver asks: the modern one is little-endian
        even before features are negotiated.
        """
        space = self.config_space(self._config_endian(modern))
        return space[offset : offset + size].ljust(size, b"\0")

    def config_write(self, offset: int, data: bytes, *, modern: bool) -> None:
        """The driver writes the configuration space."""
        if _virtio_log.enabled:
            order = self._config_endian(modern).order
            _virtio_log("%s: config %#x := %s (%s-endian)", self.name, offset, data.hex(), order)
        self.write_config(offset, data, self._config_endian(modern))

    def _config_endian(self, modern: bool) -> GuestEndian:
        if modern or self.CONFIG_ALWAYS_LITTLE:
            return GuestEndian.LITTLE
        return self.endian

    # What transports and devices ask

    @property
    def modern(self) -> bool:
        """Whether VIRTIO_F_VERSION_1 was negotiated."""
        return bool(self.features & Feature.VERSION_1.mask)

    @property
    def endian(self) -> GuestEndian:
        """Byte order of rings, headers and payload structures now."""
        return GuestEndian.LITTLE if self.modern else self.latched_endian

    def has_feature(self, bit: int) -> bool:
        """Whether a feature was negotiated."""
        return bool(self.features >> bit & 1)

    def _queue_flags(self) -> int:
        flags = 0
        if self.endian is GuestEndian.BIG:
            flags |= records.BIG_ENDIAN
        for bit, flag in (
            (Feature.RING_EVENT_IDX, records.EVENT_IDX),
            (Feature.RING_INDIRECT_DESC, records.INDIRECT),
            (Feature.RING_PACKED, records.PACKED),
            (Feature.IN_ORDER, records.IN_ORDER),
            (Feature.NOTIFY_ON_EMPTY, records.NOTIFY_ON_EMPTY),
        ):
            if self.has_feature(bit):
                flags |= flag
        return flags

    def _refresh_queues(self) -> None:
        flags = self._queue_flags()
        for queue in self.queues:
            if queue.enabled:
                queue.set_flags(flags)

    # What devices call

    def push(self, queue: VirtQueue, used: Sequence[tuple[Element, int]]) -> None:
        """Return elements to the driver, and interrupt it if it wants that."""
        if queue.push(used) and self.transport is not None:
            self.transport.notify_queue(queue.index)
        self.check_queue(queue)

    def config_changed(self) -> None:
        """Tell the driver that the configuration space has changed."""
        self.config_generation = self.config_generation + 1 & 0xFFFFFFFF
        if self.transport is not None and self.status & Status.DRIVER_OK:
            self.transport.notify_config()

    def check_queue(self, queue: VirtQueue) -> None:
        """Break the device if the ring turned out bad."""
        if queue.record["error"] and not self.broken:
            self.fail(f"queue {queue.index}: {RingError(queue.error).name}")

    def fail(self, why: str) -> None:
        """The driver broke the rules: nothing works until it resets the device (2.1.2)."""
        guest_error(self.name, f"{why}; the device needs a reset")
        self.broken = True
        for queue in self.queues:
            queue.record["enabled"] = 0
        if self.modern:
            self.status |= Status.NEEDS_RESET
            if self.transport is not None and self.status & Status.DRIVER_OK:
                self.transport.notify_config()

    # State streams (devices.virtio.state)

    def check_loaded(self) -> None:
        """Everything of the machine is loaded: check what needs byte order and guest memory.

        Raises :class:`MigrationError` for state that no device can have.  A ring that the guest
        has spoilt is no such thing: it breaks the device when it resumes, as at the source.
        """
        if self.latched_endian is GuestEndian.UNKNOWN:
            raise MigrationError("byte order is not known")
        modern = bool(self.features >> 32)
        if extra := self.features & ~self.offered_features(modern):
            raise MigrationError(f"features {extra:#x} are not offered here")
        for queue in self.queues:
            self._check_loaded_queue(queue)
        self.on_features()
        self.on_loaded()

    def _check_loaded_queue(self, queue: VirtQueue) -> None:
        record = queue.record
        where = f"queue {queue.index}"
        if not 0 < queue.size <= queue.max_size:
            raise MigrationError(f"{where} has {queue.size} entries, {queue.max_size} at most")
        record["error"] = 0
        if not record["enabled"]:
            return
        queue.set_flags(self._queue_flags())
        if record["inuse"] or queue.in_flight():  # see quiesce()
            raise MigrationError(
                f"{where}: {record['inuse']} requests in flight, last_avail_idx"
                f" {record['last_avail']}, used_idx {record['used_idx']}"
            )

    def freeze(self) -> None:
        """The guest stands still for a migration: from now on its memory stays as it is.

        What the host has for it waits until :meth:`resume`, here or at the destination.
        """
        self.quiesce()
        self.frozen = True

    def resume(self) -> None:
        """Last phase, here or at a source that keeps its guest: look at every queue once.

        A notification may have been lost on the way, so the driver gets one for each queue.
        """
        self.frozen = False
        for queue in self.queues:
            if queue.enabled and not self.broken:
                self.notify(queue.index)
                if self.transport is not None and self._driver_ready:
                    self.transport.notify_queue(queue.index)

    # What devices implement

    def quiesce(self) -> None:
        """Finish host I/O and give elements that are held back to their queues."""

    def claim_host(self) -> None:
        """Take what only one process may use (disk images); ConfigError if another one does."""

    def release_host(self) -> None:
        """Give that back: the guest goes on elsewhere."""

    def on_loaded(self) -> None:
        """Fields are loaded: make what follows from them."""

    def config_space(self, endian: GuestEndian) -> bytes:
        """The whole configuration space in a byte order, made anew at each call."""
        return b""

    def write_config(self, offset: int, data: bytes, endian: GuestEndian) -> None:
        """A write to the configuration space; most fields are read-only."""
        guest_error(self.name, "write to read-only configuration space")

    def handle_queue(self, queue: VirtQueue) -> None:
        """The driver has notified an enabled queue."""
        raise NotImplementedError

    def on_reset(self) -> None:
        """Forget what the driver has set; requests still on their way must not come back."""

    def on_features(self) -> None:
        """The driver has acknowledged features."""

    def on_driver_ok(self) -> None:
        """The driver is ready."""

    def on_queue_reset(self, queue: VirtQueue) -> None:
        """A queue is about to be reset: drop its requests."""

    def close(self) -> None:
        """Release host resources; no vCPU is running."""
