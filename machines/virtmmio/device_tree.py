"""The virtmmio machine's flattened device tree (Devicetree Specification 0.4)."""

from __future__ import annotations

from dataclasses import dataclass

from firmware.boot_image import FDT_MAX_SIZE
from firmware.cpu_features import (
    CACHE_LINE_SIZE,
    CLOCK_FREQUENCY,
    CPU_FACTS,
    L1_CACHE_SIZE,
    PROCESSOR_SEGMENT_SIZES,
    RADIX_AP_ENCODINGS,
    SEGMENT_PAGE_SIZES,
    SLB_SIZE,
    TIMEBASE_FREQUENCY,
    CpuModel,
    pa_features,
)
from firmware.flat_tree import DeviceTree, DtNode
from machines.virtio_mmio_node import virtio_mmio_node
from machines.virtmmio.layout import (
    BOARD_BASE,
    CONSOLE_LINE,
    CONSOLE_OFFSET,
    CONSOLE_SIZE,
    CONTROL_OFFSET,
    CONTROL_SIZE,
    EXIT_OFFSET,
    EXIT_SIZE,
    INTC_OFFSET,
    INTC_SIZE,
    LINE_COUNT,
    SLOT_COUNT,
    slot_address,
)

INTC_PHANDLE = 1
CONSOLE_ADDRESS = BOARD_BASE + CONSOLE_OFFSET


@dataclass(frozen=True)
class BoardTree:
    """What the tree depends on; sizes in bytes."""

    ram_size: int
    cpu: str = "power8"
    bootargs: str = ""
    slots: int = SLOT_COUNT


def build_board_tree(spec: BoardTree) -> bytes:
    """The tree as a blob of version 17; ``ValueError`` if it exceeds its place in RAM."""
    tree = DeviceTree()
    root = tree.root
    root.string("compatible", "ppc64emu,virtmmio")
    root.string("model", "ppc64emu virtmmio")
    root.u32("#address-cells", 2)
    root.u32("#size-cells", 2)
    root.u32("interrupt-parent", INTC_PHANDLE)
    _chosen(root.child("chosen"), spec)
    memory = root.child("memory@0")
    memory.string("device_type", "memory")
    memory.u64("reg", 0, spec.ram_size)
    _cpus(root.child("cpus"), CpuModel(spec.cpu))
    _board(root)
    for slot in range(spec.slots):
        virtio_mmio_node(root, slot_address(slot), slot)
    blob = tree.to_bytes()
    if len(blob) > FDT_MAX_SIZE:
        raise ValueError(f"device tree too large: {len(blob)} bytes, {FDT_MAX_SIZE} at most")
    return blob


def _chosen(chosen: DtNode, spec: BoardTree) -> None:
    if spec.bootargs:
        chosen.string("bootargs", spec.bootargs)
    chosen.string("stdout-path", f"/console@{CONSOLE_ADDRESS:x}")


def _board(root: DtNode) -> None:
    console = _device(root, "console", "ppc64emu,console", CONSOLE_OFFSET, CONSOLE_SIZE)
    console.u32("interrupts", CONSOLE_LINE)
    _device(root, "test-exit", "ppc64emu,test-exit", EXIT_OFFSET, EXIT_SIZE)
    _device(root, "cpu-control", "ppc64emu,cpu-control", CONTROL_OFFSET, CONTROL_SIZE)
    intc = _device(root, "interrupt-controller", "ppc64emu,intc", INTC_OFFSET, INTC_SIZE)
    intc.flag("interrupt-controller")
    intc.u32("#interrupt-cells", 1)
    intc.u32("#address-cells", 0)
    intc.u32("ppc64emu,lines", LINE_COUNT)
    intc.u32("phandle", INTC_PHANDLE)


def _device(root: DtNode, name: str, compatible: str, offset: int, size: int) -> DtNode:
    address = BOARD_BASE + offset
    node = root.child(f"{name}@{address:x}")
    node.string("compatible", compatible)
    node.u64("reg", address, size)
    return node


def _cpus(cpus: DtNode, model: CpuModel) -> None:
    facts = CPU_FACTS[model]
    cpus.u32("#address-cells", 1)
    cpus.u32("#size-cells", 0)
    cpu = cpus.child(f"{facts.node_name}@0")
    cpu.string("device_type", "cpu")
    cpu.u32("reg", 0)
    cpu.string("status", "okay")
    cpu.flag("64-bit")
    cpu.u32("cpu-version", facts.pvr)
    cpu.u32("timebase-frequency", TIMEBASE_FREQUENCY)
    cpu.u32("clock-frequency", CLOCK_FREQUENCY)
    for cache in ("d-cache", "i-cache"):
        cpu.u32(f"{cache}-block-size", CACHE_LINE_SIZE)
        cpu.u32(f"{cache}-line-size", CACHE_LINE_SIZE)
        cpu.u32(f"{cache}-size", L1_CACHE_SIZE)
    cpu.u32("slb-size", SLB_SIZE)
    cpu.u32("ibm,slb-size", SLB_SIZE)
    cpu.u32("ibm,processor-segment-sizes", *PROCESSOR_SEGMENT_SIZES)
    cpu.u32("ibm,segment-page-sizes", *SEGMENT_PAGE_SIZES)
    if facts.radix:
        cpu.u32("ibm,processor-radix-AP-encodings", *RADIX_AP_ENCODINGS)
    cpu.raw("ibm,pa-features", pa_features(model, large_decrementer=False))
