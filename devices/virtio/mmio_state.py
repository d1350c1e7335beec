"""A virtio-mmio transport's section in a state stream."""

from __future__ import annotations

from devices.virtio.constants import Isr
from devices.virtio.mmio import VirtioMmioTransport
from devices.virtio.mmio_queue import LegacyQueues, is_power_of_two
from devices.virtio.state import device_description
from emu.migration.fields import Description, same, structure, u8, u32, u64
from emu.migration.sections import Component
from emu.migration.stream import MigrationError

_SETUP = Description(
    "virtio-mmio/queue",
    1,
    (u32("num"), u32("align"), u32("pfn"), u64("desc"), u64("driver"), u64("device")),
)


def _set_isr(transport: VirtioMmioTransport, value: int) -> None:
    transport.isr = Isr(value & (Isr.QUEUE | Isr.CONFIG))


def mmio_component(transport: VirtioMmioTransport, slot: int) -> Component:
    """The section of the device in a slot."""
    device = transport.device
    page_size = (u32("guest_page_size", "queues.page_size"),) if transport.legacy else ()
    description = Description(
        "virtio-mmio-v1" if transport.legacy else "virtio-mmio-v2",
        2,
        (
            same("version", 1 if transport.legacy else 2),
            same("num_queues", len(device.queues)),
            u32("device_features_sel"),
            u32("driver_features_sel"),
            u64("driver_features"),
            u8("isr", setter=_set_isr),
            u32("queue_sel", "queues.selected"),
            *page_size,
            structure("queue_setup", _SETUP, "queues.setups", count=len(device.queues)),
            structure("virtio", device_description(device), "device"),
        ),
    )

    def check() -> None:
        for setup, queue in zip(transport.queues.setups, device.queues, strict=True):
            if not 0 < setup.num <= queue.max_size or not is_power_of_two(setup.align):
                raise MigrationError(f"{transport.name}: queue {queue.index} set up impossibly")
        queues = transport.queues
        if isinstance(queues, LegacyQueues) and not is_power_of_two(queues.page_size):
            raise MigrationError(f"{transport.name}: guest page size {queues.page_size}")
        device.check_loaded()

    def resume() -> None:
        transport.restored()
        device.resume()

    kind = device.DEVICE_ID.name.lower()
    return Component(
        f"virtio-mmio@{slot}/virtio-{kind}",
        description,
        transport,
        check=check,
        resume=resume,
    )
