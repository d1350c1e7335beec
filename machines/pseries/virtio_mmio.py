"""virtio-mmio slots on the pseries board, for guests that have Linux's virtio_mmio driver.

A PAPR platform has no such devices, and Linux makes platform devices there from two kinds of
nodes only: the children of the one of type "ibm,persistent-memory" (kernels with memory hotplug)
and nodes of type "display" that are open (from Linux 5.19 on).  So the slots are children of the
former and have the type of the latter; what the driver looks at is "compatible" alone.
docs/virtmmio.md says which kernels were tried.
"""

from __future__ import annotations

from collections.abc import Sequence

from devices.virtio.mmio_slots import MmioDevice, MmioSlots
from emu.cpu.partition import Partition
from emu.memory.bus import MmioWindow
from firmware.flat_tree import DtNode
from machines.pseries.device_tree import IRQ_LEVEL
from machines.pseries.xics import Xics
from machines.virtio_mmio_node import virtio_mmio_node

MMIO_BASE = 0x1F00_0000_0000  # below the PCI host bridges' windows
SLOT_STRIDE = 0x10000  # pages of 64 KiB
SLOT_SIZE = 0x1000
SLOT_COUNT = 8
IRQ_BASE = 0x1180


class PseriesVirtioMmio:
    """The slots of one board.  Its methods run on the vCPU thread, or before it starts.

    Raises ``ConfigError`` when the devices do not fit into the slots.
    """

    def __init__(self, partition: Partition, xics: Xics, devices: Sequence[MmioDevice]) -> None:
        self._xics = xics
        self.slots = MmioSlots(devices, SLOT_COUNT, self._set_line)
        for slot, handler in enumerate(self.slots.handlers):
            name = f"virtio-mmio slot {slot}"
            partition.add_mmio(MmioWindow(slot_address(slot), SLOT_SIZE, handler, name))
            xics.claim(IRQ_BASE + slot, lsi=True, name=name)

    def _set_line(self, slot: int, level: bool) -> None:
        self._xics.set_irq(IRQ_BASE + slot, int(level))

    def build_nodes(self, root: DtNode) -> None:
        """A ``NodeBuilder`` for ``DeviceTreeSpec.extra``."""
        # Not "virtio-mmio": Linux would try the driver of that name on the bus itself.
        bus = root.child("virtio-slots")
        bus.string("device_type", "ibm,persistent-memory")
        bus.u32("#address-cells", 2)
        bus.u32("#size-cells", 2)
        bus.flag("ranges")
        # Like /vdevice: without a property that points to the XICS node, for which Linux has no
        # driver to wait for, and would wait.
        bus.flag("interrupt-controller")
        bus.u32("#interrupt-cells", 2)
        for slot in self.slots.transports:
            node = virtio_mmio_node(bus, slot_address(slot), IRQ_BASE + slot, IRQ_LEVEL)
            node.string("device_type", "display")
            node.flag("linux,opened")

    def reset(self) -> None:
        """Reset of the machine, behind that of the interrupt controller."""
        self.slots.reset()

    def close(self) -> None:
        """Release host resources; no vCPU is running."""
        self.slots.close()


def slot_address(slot: int) -> int:
    """Guest real address of a slot's registers."""
    return MMIO_BASE + slot * SLOT_STRIDE
