"""virtio-mmio slots on the pseries board: their nodes, windows and XICS lines."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import fdt
import pytest

from devices.virtio.mmio import Register
from devices.virtio.mmio_slots import MmioDevice
from devices.virtio.rng import RngOptions, VirtioRng
from emu.chardev.config import ConfigError
from emu.cpu.partition import Partition
from emu.cpu.vcpu import Vcpu
from emu.memory.ram import GuestRam
from firmware.flat_tree import DeviceTree
from machines.pseries.virtio_mmio import (
    IRQ_BASE,
    SLOT_COUNT,
    PseriesVirtioMmio,
    slot_address,
)
from machines.pseries.xics import Xics
from tests.support.virtio import FakeHost


@pytest.fixture
def partition() -> Iterator[Partition]:
    partition = Partition(GuestRam(16 << 20))
    Vcpu(partition, 0, "power8")
    yield partition
    partition.close()


@pytest.fixture
def xics(partition: Partition) -> Xics:
    return Xics(partition)


def rng(name: str) -> VirtioRng:
    return VirtioRng(name, FakeHost(), RngOptions())


def test_nodes_of_devices_only(partition: Partition, xics: Xics) -> None:
    """Nodes with which Linux makes platform devices and binds virtio_mmio (docs/virtmmio.md)."""
    slots = PseriesVirtioMmio(partition, xics, [MmioDevice(rng("a")), MmioDevice(rng("b"), slot=3)])
    tree = DeviceTree()
    tree.root.u32("#address-cells", 2)
    tree.root.u32("#size-cells", 2)
    slots.build_nodes(tree.root)
    blob = fdt.parse_dtb(tree.to_bytes())
    bus = blob.get_node("/virtio-slots")
    assert [node.name for node in bus.nodes] == [
        "virtio_mmio@1f0000000000",
        "virtio_mmio@1f0000030000",
    ]
    assert bus.get_property("device_type").value == "ibm,persistent-memory"
    assert bus.get_property("#interrupt-cells").value == 2
    node = bus.nodes[1]
    assert node.get_property("compatible").value == "virtio,mmio"
    assert list(node.get_property("reg").data) == [0x1F00, 0x30000, 0, 0x200]
    assert list(node.get_property("interrupts").data) == [IRQ_BASE + 3, 1]


def test_every_slot_answers(partition: Partition, xics: Xics) -> None:
    PseriesVirtioMmio(partition, xics, [MmioDevice(rng("a"), slot=1)])
    for slot in range(SLOT_COUNT):
        found = partition.bus.find(slot_address(slot), 4)
        assert found is not None
        window, _ = found
        assert window.handler.mmio_read(Register.MAGIC_VALUE, 4) == b"virt"
        assert window.handler.mmio_read(Register.DEVICE_ID, 4)[0] == (4 if slot == 1 else 0)


def test_interrupts_are_level_sources(partition: Partition, xics: Xics) -> None:
    slots = PseriesVirtioMmio(partition, xics, [MmioDevice(rng("a"), slot=2)])
    assert xics.set_xive(IRQ_BASE + 2, 0, 5)
    transport = slots.slots.transports[2]
    asserted = []
    actions: list[Callable[[], None]] = [
        transport.notify_config,
        lambda: transport.mmio_write(Register.INTERRUPT_ACK, b"\3\0\0\0"),
        lambda: transport.notify_queue(0),
        slots.reset,
    ]
    for action in actions:
        action()
        asserted.append(xics.save_state()["sources"][IRQ_BASE + 2][3] & 1)
    assert asserted == [1, 0, 1, 0]


def test_too_many_devices(partition: Partition, xics: Xics) -> None:
    devices = [MmioDevice(rng(f"rng{n}")) for n in range(SLOT_COUNT + 1)]
    with pytest.raises(ConfigError, match="no free virtio-mmio slot"):
        PseriesVirtioMmio(partition, xics, devices)
