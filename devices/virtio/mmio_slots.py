"""virtio-mmio slots of a board: which device sits in which."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from devices.virtio.device import VirtioDevice
from devices.virtio.mmio import EmptyMmioSlot, VirtioMmioTransport
from emu.chardev.config import ConfigError

BUS_NAME = "virtio-mmio-bus"


@dataclass(frozen=True)
class MmioDevice:
    """A device for a virtio-mmio slot.

    ``legacy`` is QEMU's ``force-legacy``, on by default: register version 1.  ``slot`` is N of
    ``bus=virtio-mmio-bus.N``; None takes the lowest free one.
    """

    device: VirtioDevice
    legacy: bool = True
    slot: int | None = None


def parse_bus(bus: str, slots: int) -> int:
    """The slot number of a ``bus`` property; ``ConfigError`` if there is no such bus."""
    name, _, number = bus.rpartition(".")
    if name != BUS_NAME or not number.isdecimal() or int(number) >= slots:
        raise ConfigError(
            f"Bus '{bus}' not found (there are {BUS_NAME}.0 to {BUS_NAME}.{slots - 1})"
        )
    return int(number)


def assign_slots(devices: Sequence[MmioDevice], slots: int) -> dict[int, MmioDevice]:
    """Devices by slot: those that name one first, the others fill up from slot 0.

    Raises ``ConfigError`` when two want the same slot, or there are too many.
    """
    assigned: dict[int, MmioDevice] = {}
    for device in devices:
        if device.slot is None:
            continue
        if not 0 <= device.slot < slots:
            raise ConfigError(f"{device.device.name}: there is no bus {BUS_NAME}.{device.slot}")
        if device.slot in assigned:
            raise ConfigError(
                f"{device.device.name}: bus {BUS_NAME}.{device.slot} is taken by "
                f"{assigned[device.slot].device.name}"
            )
        assigned[device.slot] = device
    free = (slot for slot in range(slots) if slot not in assigned)
    for device in devices:
        if device.slot is None:
            slot = next(free, None)
            if slot is None:
                raise ConfigError(
                    f"{device.device.name}: no free virtio-mmio slot (there are {slots})"
                )
            assigned[slot] = device
    return dict(sorted(assigned.items()))


class MmioSlots:
    """All slots of a board: ``handlers[n]`` serves slot n.  vCPU thread.

    ``set_line(slot, level)`` drives the interrupt line of a slot.
    """

    def __init__(
        self, devices: Sequence[MmioDevice], slots: int, set_line: Callable[[int, bool], None]
    ) -> None:
        assigned = assign_slots(devices, slots)
        self.transports = {
            slot: VirtioMmioTransport(
                entry.device.name,
                entry.device,
                legacy=entry.legacy,
                set_irq=_line(set_line, slot),
            )
            for slot, entry in assigned.items()
        }
        empty = EmptyMmioSlot()
        self.handlers: list[VirtioMmioTransport | EmptyMmioSlot] = [
            self.transports.get(slot, empty) for slot in range(slots)
        ]

    def reset(self) -> None:
        """Reset of the machine."""
        for transport in self.transports.values():
            transport.reset()

    def close(self) -> None:
        """Release host resources; no vCPU is running."""
        for transport in self.transports.values():
            transport.close()


def _line(set_line: Callable[[int, bool], None], slot: int) -> Callable[[bool], None]:
    return lambda level: set_line(slot, level)
