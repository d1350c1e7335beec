"""The queue registers of virtio-mmio: legacy (virtio 1.2, 4.2.4) and modern (4.2.2).

Both keep what the driver has written for each queue, and check it before the ring sees it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from devices.virtio.constants import Feature
from devices.virtio.device import VirtioDevice
from devices.virtio.pci_legacy import legacy_areas
from devices.virtio.queue import VirtQueue
from emu.log import guest_error

DEFAULT_ALIGN = 4096
_UINT32 = 0xFFFFFFFF
_QUEUE_SEL, _QUEUE_NUM_MAX, _QUEUE_NUM = 0x030, 0x034, 0x038
_GUEST_PAGE_SIZE, _QUEUE_ALIGN, _QUEUE_PFN = 0x028, 0x03C, 0x040
_QUEUE_READY, _QUEUE_RESET = 0x044, 0x0C0
_AREA_REGISTERS = {0x080: "desc", 0x090: "driver", 0x0A0: "device"}


@dataclass
class QueueSetup:
    """What the driver has written for a queue; addresses and alignment in bytes."""

    num: int
    align: int = DEFAULT_ALIGN
    pfn: int = 0
    desc: int = 0
    driver: int = 0
    device: int = 0


class MmioQueues:
    """Registers that both interfaces have: the queue, its largest size, its size."""

    def __init__(self, name: str, device: VirtioDevice) -> None:
        self.name = name
        self.device = device
        self.selected = 0
        self.setups: list[QueueSetup] = []
        self.reset()

    def reset(self) -> None:
        """As after a reset of the device."""
        self.selected = 0
        self.setups = [QueueSetup(queue.max_size) for queue in self.device.queues]

    def readers(self) -> dict[int, Callable[[], int]]:
        """Registers to read, by offset."""
        return {_QUEUE_NUM_MAX: self._read_num_max}

    def writers(self) -> dict[int, Callable[[int], None]]:
        """Registers to write, by offset."""
        return {_QUEUE_SEL: self._select, _QUEUE_NUM: self._write_num}

    def _select(self, value: int) -> None:
        self.selected = value

    @property
    def queue(self) -> VirtQueue | None:
        """The selected queue."""
        queues = self.device.queues
        return queues[self.selected] if self.selected < len(queues) else None

    def _idle_queue(self, what: str) -> VirtQueue | None:
        """The selected queue if its registers may be written now."""
        queue = self.queue
        if queue is None:
            guest_error(self.name, "%s written for queue %d: no such queue", what, self.selected)
        elif queue.enabled:
            guest_error(self.name, "%s written for queue %d, which is in use", what, queue.index)
            return None
        return queue

    def _start(self, queue: VirtQueue, desc: int, driver: int, device: int) -> None:
        """Place the queue and let the device use it; a size from a bad stream is made possible."""
        queue.size = max(1, min(self.setups[queue.index].num, queue.max_size))
        queue.place(desc, driver, device)
        self.device.enable_queue(queue)

    def _read_num_max(self) -> int:
        return self.queue.max_size if self.queue is not None else 0

    def _write_num(self, value: int) -> None:
        queue = self._idle_queue("QueueNum")
        if queue is None:
            return
        split = not self.device.has_feature(Feature.RING_PACKED)
        if not 0 < value <= queue.max_size or (split and value & (value - 1)):
            guest_error(self.name, "queue size %d is not possible", value)
            return
        self.setups[queue.index].num = value


class LegacyQueues(MmioQueues):
    """Version 1: a queue is one block of memory, at a page number.

    ``page_size`` is 1 until the driver sets it: QueuePFN is an address then, as it is for QEMU.
    It survives a reset by the driver.
    """

    def __init__(self, name: str, device: VirtioDevice) -> None:
        super().__init__(name, device)
        self.page_size = 1

    def readers(self) -> dict[int, Callable[[], int]]:
        """Registers to read, by offset."""
        return super().readers() | {_QUEUE_PFN: self._read_pfn}

    def writers(self) -> dict[int, Callable[[int], None]]:
        """Registers to write, by offset; QueuePFN is the transport's."""
        return super().writers() | {
            _GUEST_PAGE_SIZE: self._write_page_size,
            _QUEUE_ALIGN: self._write_align,
        }

    def _read_pfn(self) -> int:
        return self.setups[self.selected].pfn if self.queue is not None else 0

    def _write_page_size(self, value: int) -> None:
        if not is_power_of_two(value):
            guest_error(self.name, "guest page size %d is not a power of two", value)
            return
        self.page_size = value

    def _write_align(self, value: int) -> None:
        queue = self._idle_queue("QueueAlign")
        if queue is None:
            return
        if not is_power_of_two(value):
            guest_error(self.name, "queue alignment %d is not a power of two", value)
            return
        self.setups[queue.index].align = value

    def place(self, pfn: int) -> None:
        """QueuePFN, not 0: the queue starts."""
        queue = self._idle_queue("QueuePFN")
        if queue is None:
            return
        if self.page_size == 1:
            guest_error(self.name, "QueuePFN without GuestPageSize is taken for an address")
        setup = self.setups[queue.index]
        setup.pfn = pfn
        self._start(queue, *legacy_areas(pfn * self.page_size, setup.num, setup.align))


class ModernQueues(MmioQueues):
    """Version 2: three areas, then QueueReady; QueueReset with VIRTIO_F_RING_RESET."""

    def readers(self) -> dict[int, Callable[[], int]]:
        """Registers to read, by offset."""
        return super().readers() | {
            _QUEUE_READY: lambda: int(self.queue is not None and self.queue.enabled),
            _QUEUE_RESET: lambda: 0,  # a reset is over at once
        }

    def writers(self) -> dict[int, Callable[[int], None]]:
        """Registers to write, by offset."""
        writers = super().writers() | {
            _QUEUE_READY: self._write_ready,
            _QUEUE_RESET: self._write_reset,
        }
        for offset, area in _AREA_REGISTERS.items():
            writers[offset] = self._area_writer(area, 0)
            writers[offset + 4] = self._area_writer(area, 32)
        return writers

    def _area_writer(self, area: str, shift: int) -> Callable[[int], None]:
        def write(value: int) -> None:
            queue = self._idle_queue("a queue address")
            if queue is not None:
                setup = self.setups[queue.index]
                old = getattr(setup, area)
                setattr(setup, area, old & ~(_UINT32 << shift) | value << shift)

        return write

    def _write_ready(self, value: int) -> None:
        """1 starts the queue; 0 stops it, and the device lets go of its buffers (4.2.2.1)."""
        if value == 0:
            if self.queue is not None and self.queue.enabled:
                self.device.reset_queue(self.queue)
            return
        queue = self._idle_queue("QueueReady")
        if queue is None:
            return
        if value != 1:
            guest_error(self.name, "QueueReady %d written", value)
            return
        setup = self.setups[queue.index]
        self._start(queue, setup.desc, setup.driver, setup.device)

    def _write_reset(self, value: int) -> None:
        queue = self.queue
        if queue is None or value != 1 or not self.device.has_feature(Feature.RING_RESET):
            guest_error(self.name, "QueueReset %d written for queue %d", value, self.selected)
            return
        self.device.reset_queue(queue)
        self.setups[queue.index] = QueueSetup(queue.max_size)


def is_power_of_two(value: int) -> bool:
    """Whether a number is 1, 2, 4, ..."""
    return value > 0 and value & (value - 1) == 0
