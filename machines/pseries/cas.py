"""ibm,client-architecture-support: firmware asks, with the guest's wishes, for the tree to use.

LoPAR, appendix "Root Node Methods".  The guest lists the processor versions it knows and option
vectors; firmware hands them over with QEMU's private hypercall 0xf002 and gets the device tree
back, as it is after the agreement.  Everything in guest memory is big-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from emu.memory.dma import Dma
from firmware import flat_tree_edit
from firmware.cpu_features import CpuFacts, MmuMode
from firmware.flat_tree_edit import FlatProperty
from firmware.option_vectors import (
    OV5_MMU,
    OV5_MMU_HASH,
    OV5_MMU_RADIX,
    OV5_XIVE,
    architecture_vec_5,
)

#: First word of the answer.
UPDATE_VERSION = 1
_MAX_VERSIONS = 512
_LOGICAL_PVR = 0x0F000000
_LOGICAL_PVR_MASK = 0xFFFFFF00
_OV5_MODE_MASK = 0xC0
_VECTORS_NEEDED = (1, 5)
# What firmware has taken from the boot tree and may have changed since.
_ONLY_AT_BOOT = frozenset(
    {
        "bootargs",
        "linux,initrd-start",
        "linux,initrd-end",
        "qemu,boot-kernel",
        "qemu,boot-kernel-le",
        "linux,stdout-path",
        "stdout-path",
        "rng-seed",
    }
)


class UnknownProcessorError(Exception):
    """The guest knows neither this processor nor any level that it has."""


class BadRequestError(Exception):
    """The guest's vectors are not there, or ask for what the processor has not."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """``cpu_version``: what to call the processor; ``vector_5``: its property's value."""

    cpu_version: int
    vector_5: bytes


def negotiate(dma: Dma, address: int, facts: CpuFacts) -> Agreement:
    """Read the guest's wishes at a real address and grant what there is.

    Raises :class:`UnknownProcessorError`, :class:`BadRequestError`, or ``DmaError`` for wishes
    that are not in RAM.
    """
    version, table = _processor_version(dma, address, facts)
    vectors = _option_vectors(dma, table)
    if any(number not in vectors for number in _VECTORS_NEEDED):
        raise BadRequestError("option vector 1 or 5 is missing")
    return Agreement(version, _vector_5(vectors[5], facts))


def _processor_version(dma: Dma, address: int, facts: CpuFacts) -> tuple[int, int]:
    """The highest architecture level that both know, else the PVR; and what comes behind."""
    best, known = 0, False
    for _ in range(_MAX_VERSIONS):
        mask, value = struct.unpack(">2I", dma.read(address, 8))
        address += 8
        if value & ~mask:
            break
        if facts.pvr & mask == value & mask:
            known = True
        elif value & _LOGICAL_PVR_MASK == _LOGICAL_PVR and value <= facts.logical_pvr:
            best = max(best, value)
    if not best and not known:
        raise UnknownProcessorError
    return best or facts.pvr, address


def _option_vectors(dma: Dma, address: int) -> dict[int, bytes]:
    """By number, each with its length byte, so that byte n is at index n."""
    vectors = {}
    count = dma.read(address, 1)[0] + 1
    address += 1
    for number in range(1, count + 1):
        size = dma.read(address, 1)[0] + 2
        vectors[number] = dma.read(address, size)
        address += size
    return vectors


def _vector_5(wished: bytes, facts: CpuFacts) -> bytes:
    wished = wished.ljust(OV5_MMU + 1, b"\0")
    mode = wished[OV5_MMU] & _OV5_MODE_MASK
    if mode not in (OV5_MMU_HASH, OV5_MMU_RADIX) or (mode == OV5_MMU_RADIX and not facts.radix):
        raise BadRequestError(f"MMU mode {mode:#x}")
    if wished[OV5_XIVE] & _OV5_MODE_MASK:
        raise BadRequestError("interrupt controller other than XICS")
    offered = architecture_vec_5(MmuMode.RADIX if mode == OV5_MMU_RADIX else MmuMode.HASH)
    wished = wished.ljust(len(offered), b"\0")
    granted = bytearray(ours & theirs for ours, theirs in zip(offered, wished, strict=False))
    granted[0] = offered[0]
    return bytes(granted)


def agreed_tree(boot_tree: bytes, agreement: Agreement) -> bytes:
    """The boot tree with what was agreed on, and without what is for firmware alone."""
    tree = bytearray(boot_tree)
    for item in list(flat_tree_edit.walk(boot_tree)):
        if item.name == "cpu-version":
            flat_tree_edit.replace(tree, item, struct.pack(">I", agreement.cpu_version))
        elif item.node == "/chosen":
            _change_chosen(tree, item, agreement)
    return bytes(tree)


def _change_chosen(tree: bytearray, item: FlatProperty, agreement: Agreement) -> None:
    if item.name in _ONLY_AT_BOOT:
        flat_tree_edit.drop(tree, item)
    elif item.name == "ibm,architecture-vec-5":
        flat_tree_edit.replace(tree, item, agreement.vector_5)
