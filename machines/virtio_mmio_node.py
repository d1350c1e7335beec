"""The device tree node of a virtio-mmio slot (Linux's binding virtio,mmio)."""

from __future__ import annotations

from devices.virtio.mmio import REGISTERS_SIZE
from firmware.flat_tree import DtNode


def virtio_mmio_node(parent: DtNode, address: int, *interrupts: int) -> DtNode:
    """Add a node for the registers at a guest real address; ``interrupts`` are its cells."""
    node = parent.child(f"virtio_mmio@{address:x}")
    node.string("compatible", "virtio,mmio")
    node.u64("reg", address, REGISTERS_SIZE)
    node.u32("interrupts", *interrupts)
    return node
