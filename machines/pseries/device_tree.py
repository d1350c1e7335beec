"""The pseries machine's flattened device tree, in the form guests know from QEMU's pseries.

Bindings: LoPAR, appendices "System Binding" and "PA Processor Binding" (the section titles below
are theirs), and the Devicetree Specification 0.4. What QEMU 7.2 has and this tree has not, and
why, is listed in docs/device-tree.md. Built with the `fdt` package (through `firmware.flat_tree`):
it is pure Python, so that it needs no compiler where pylibfdt has no wheel, and a tree is built
once per boot.
"""

from __future__ import annotations

import uuid as uuids
from collections.abc import Callable
from dataclasses import dataclass

from firmware.boot_image import FDT_MAX_SIZE, AddressRange
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
    MmuMode,
    pa_features,
)
from firmware.flat_tree import DeviceTree, DtNode
from firmware.option_vectors import architecture_vec_5, platform_support

XICS_PHANDLE = 0x1111
# Second cell of an `interrupts` entry.
IRQ_EDGE, IRQ_LEVEL = 0, 1
# Unit of dynamic memory; nothing is hot-plugged, but Linux reads the CPU count that follows it.
LMB_SIZE = 0x10000000
RTAS_ERROR_LOG_MAX = 2048
RTAS_EVENT_SCAN_RATE = 1
# ibm,associativity of everything: four levels, all of them domain 0 (there is one NUMA node).
ASSOCIATIVITY = (4, 0, 0, 0, 0)

NodeBuilder = Callable[[DtNode], None]
"""Adds nodes below the root: for host bridges and other parts with nodes of their own."""


@dataclass(frozen=True, slots=True)
class VioSlot:
    """A device on /vdevice: `unit` is its unit address, `irq` its XICS source number."""

    unit: int
    irq: int


@dataclass(frozen=True, slots=True)
class NvramSlot(VioSlot):
    """The NVRAM device: `size` in bytes."""

    size: int = 0x10000


@dataclass(frozen=True, slots=True)
class RtasSpec:
    """RTAS's area (guest-physical), `entry` as an offset into it, and the calls it has.

    `tokens` are (call name, token); `extras` adds other properties to the node.
    """

    area: AddressRange
    tokens: tuple[tuple[str, int], ...]
    entry: int = 0
    extras: NodeBuilder | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceTreeSpec:
    """Everything the tree depends on. Sizes in bytes, addresses guest-physical.

    `htab_shift` is log2 of the hashed page table's size. `kernel` is for firmware to find; leave
    it out when the kernel is entered directly. `decrementer_bits` above 32 offers POWER9's large
    decrementer. `logical_pvr` puts the architecture level instead of the processor's PVR into
    `cpu-version`, as firmware does once client and platform have agreed on a level: the kernel
    then needs no workarounds for the errata of one processor revision. Firmware that negotiates
    itself wants the PVR. `rng_seed` is given to the guest's random pool. `extra` builders run
    last, in order.
    """

    ram_size: int
    rtas: RtasSpec
    htab_shift: int
    cpu_model: CpuModel = CpuModel.POWER8
    mmu: MmuMode = MmuMode.HASH
    decrementer_bits: int = 32
    logical_pvr: bool = True
    vcpu_ids: tuple[int, ...] = (0,)
    rma_size: int | None = None
    bootargs: str = ""
    kernel: AddressRange | None = None
    kernel_little_endian: bool = False
    initrd: AddressRange | None = None
    vtys: tuple[VioSlot, ...] = (VioSlot(0x71000000, 0x1100),)
    nvram: NvramSlot | None = None
    hypertas_functions: tuple[str, ...] = ()
    qemu_hypertas_functions: tuple[str, ...] = ()
    name: str | None = None
    uuid: uuids.UUID | None = None
    rng_seed: bytes | None = None
    extra: tuple[NodeBuilder, ...] = ()

    def __post_init__(self) -> None:
        if self.mmu is MmuMode.RADIX and not CPU_FACTS[self.cpu_model].radix:
            raise ValueError(f"{self.cpu_model.value} has no radix MMU")
        if not self.vcpu_ids:
            raise ValueError("a machine needs at least one CPU")


def build_device_tree(spec: DeviceTreeSpec) -> bytes:
    """The machine's device tree as a flattened blob (version 17).

    The area of RTAS is in the memory reservation block: to a kernel entered directly it would be
    free memory otherwise. Raises `ValueError` when builders in
    `spec.extra` or unit addresses in the spec collide, or the tree exceeds its place in RAM.
    """
    tree = DeviceTree()
    tree.reserve(spec.rtas.area.start, spec.rtas.area.size)
    _root(tree.root, spec)
    _chosen(tree.root.child("chosen"), spec)
    _memory(tree.root, spec)
    _cpus(tree.root.child("cpus"), spec)
    _rtas(tree.root.child("rtas"), spec)
    _vdevice(tree.root.child("vdevice"), spec)
    _interrupt_controller(tree.root.child("interrupt-controller"), spec)
    for builder in spec.extra:
        builder(tree.root)
    blob = tree.to_bytes(boot_cpuid_phys=spec.vcpu_ids[0])
    if len(blob) > FDT_MAX_SIZE:
        raise ValueError(f"device tree too large: {len(blob)} bytes, {FDT_MAX_SIZE} at most")
    return blob


def _root(root: DtNode, spec: DeviceTreeSpec) -> None:
    root.string("device_type", "chrp")
    root.string("model", "IBM pSeries (emulated by ppc64emu)")
    # Linux and firmware recognise a pseries guest's hypervisor conventions by this name.
    root.string("compatible", "qemu,pseries")
    root.string("vm,uuid", str(spec.uuid or uuids.UUID(int=0)))
    if spec.uuid is not None:
        root.string("system-id", str(spec.uuid))
    if spec.name is not None:
        root.string("ibm,partition-name", spec.name)
    root.u32("#address-cells", 2)
    root.u32("#size-cells", 2)


def _chosen(chosen: DtNode, spec: DeviceTreeSpec) -> None:
    if spec.bootargs:
        chosen.string("bootargs", spec.bootargs)
    if spec.initrd is not None:
        chosen.u32("linux,initrd-start", spec.initrd.start)
        chosen.u32("linux,initrd-end", spec.initrd.end)
    if spec.kernel is not None:
        chosen.u64("qemu,boot-kernel", spec.kernel.start, spec.kernel.size)
        if spec.kernel_little_endian:
            chosen.flag("qemu,boot-kernel-le")
    if spec.vtys:
        path = f"/vdevice/vty@{spec.vtys[0].unit:x}"
        chosen.string("linux,stdout-path", path)
        chosen.string("stdout-path", path)
    chosen.u32("linux,pci-probe-only", 0)
    chosen.raw("ibm,arch-vec-5-platform-support", platform_support(spec.mmu))
    chosen.raw("ibm,architecture-vec-5", architecture_vec_5(spec.mmu))
    if spec.rng_seed is not None:
        chosen.raw("rng-seed", spec.rng_seed)


def memory_ranges(ram_size: int, rma_size: int) -> list[AddressRange]:
    """How RAM is cut into memory nodes: the RMA, then naturally aligned powers of two."""
    ranges = [AddressRange(0, min(rma_size, ram_size))]
    while (start := ranges[-1].end) < ram_size:
        largest = 1 << (ram_size - start).bit_length() - 1
        ranges.append(AddressRange(start, min(largest, start & -start)))
    return ranges


def _memory(root: DtNode, spec: DeviceTreeSpec) -> None:
    for part in memory_ranges(spec.ram_size, spec.rma_size or spec.ram_size):
        node = root.child(f"memory@{part.start:x}")
        node.string("device_type", "memory")
        node.u64("reg", part.start, part.size)
        node.u32("ibm,associativity", *ASSOCIATIVITY)


def _cpus(cpus: DtNode, spec: DeviceTreeSpec) -> None:
    cpus.u32("#address-cells", 1)
    cpus.u32("#size-cells", 0)
    for vcpu_id in spec.vcpu_ids:
        _cpu(cpus.child(f"{CPU_FACTS[spec.cpu_model].node_name}@{vcpu_id:x}"), vcpu_id, spec)


def _cpu(cpu: DtNode, vcpu_id: int, spec: DeviceTreeSpec) -> None:
    """One core with one thread ("CPU Node Properties")."""
    facts = CPU_FACTS[spec.cpu_model]
    large_decrementer = facts.radix and spec.decrementer_bits > 32
    cpu.string("device_type", "cpu")
    cpu.u32("reg", vcpu_id)
    cpu.string("status", "okay")
    cpu.flag("64-bit")
    cpu.u32("cpu-version", facts.logical_pvr if spec.logical_pvr else facts.pvr)
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
    cpu.u32("ibm,pft-size", 0, spec.htab_shift)
    if facts.radix:
        cpu.u32("ibm,processor-radix-AP-encodings", *RADIX_AP_ENCODINGS)
    if large_decrementer:
        cpu.u32("ibm,dec-bits", spec.decrementer_bits)
    cpu.raw("ibm,pa-features", pa_features(spec.cpu_model, large_decrementer=large_decrementer))
    cpu.u32("ibm,vmx", 2)
    cpu.u32("ibm,dfp", 1)
    cpu.u32("ibm,purr", 1)
    cpu.u32("ibm,spurr", 1)
    cpu.u32("ibm,chip-id", 0)
    cpu.u32("ibm,ppc-interrupt-server#s", vcpu_id)
    cpu.u32("ibm,ppc-interrupt-gserver#s", vcpu_id, 0)


def _rtas(rtas: DtNode, spec: DeviceTreeSpec) -> None:
    names = {name for name, _ in spec.rtas.tokens}
    if spec.hypertas_functions:
        rtas.string("ibm,hypertas-functions", *spec.hypertas_functions)
    if spec.qemu_hypertas_functions:
        rtas.string("qemu,hypertas-functions", *spec.qemu_hypertas_functions)
    rtas.u32("ibm,associativity-reference-points", 4, 4, 2)
    rtas.u32("ibm,max-associativity-domains", 4, 0, 0, 0, 1)
    rtas.u32("rtas-size", spec.rtas.area.size)
    rtas.u32("linux,rtas-base", spec.rtas.area.start)
    rtas.u32("linux,rtas-entry", spec.rtas.area.start + spec.rtas.entry)
    rtas.u32("rtas-error-log-max", RTAS_ERROR_LOG_MAX)
    rtas.u32("rtas-event-scan-rate", RTAS_EVENT_SCAN_RATE)
    rtas.u32("ibm,lrdr-capacity", 0, 0, 0, LMB_SIZE, len(spec.vcpu_ids))
    if "ibm,change-msi" in names:
        rtas.flag("ibm,change-msix-capable")
    if "ibm,os-term" in names:
        # ibm,os-term returns to the guest, which can go on to reboot ("RTAS Node Properties").
        rtas.flag("ibm,extended-os-term")
    for name, token in spec.rtas.tokens:
        rtas.u32(name, token)
    if spec.rtas.extras is not None:
        spec.rtas.extras(rtas)


def _vdevice(vdevice: DtNode, spec: DeviceTreeSpec) -> None:
    """The virtual I/O bus (LoPAR, "Virtualized Input/Output")."""
    vdevice.string("device_type", "vdevice")
    vdevice.string("compatible", "IBM,vdevice")
    vdevice.u32("#address-cells", 1)
    vdevice.u32("#size-cells", 0)
    vdevice.u32("#interrupt-cells", 2)
    vdevice.flag("interrupt-controller")
    for slot in spec.vtys:
        _vio(vdevice.child(f"vty@{slot.unit:x}"), slot, "serial", "hvterm1")
    if spec.nvram is not None:
        node = vdevice.child(f"nvram@{spec.nvram.unit:x}")
        _vio(node, spec.nvram, "nvram", "qemu,spapr-nvram")
        node.u32("#bytes", spec.nvram.size)


def _vio(node: DtNode, slot: VioSlot, device_type: str, compatible: str) -> None:
    node.u32("reg", slot.unit)
    node.string("device_type", device_type)
    node.string("compatible", compatible)
    node.u32("interrupts", slot.irq, IRQ_EDGE)


def _interrupt_controller(node: DtNode, spec: DeviceTreeSpec) -> None:
    """XICS presentation, by hypercall; one server per CPU ("Interrupt Controller Nodes")."""
    node.string("device_type", "PowerPC-External-Interrupt-Presentation")
    node.string("compatible", "IBM,ppc-xicp")
    node.flag("interrupt-controller")
    node.u32("ibm,interrupt-server-ranges", 0, max(spec.vcpu_ids) + 1)
    node.u32("#interrupt-cells", 2)
    node.u32("linux,phandle", XICS_PHANDLE)
    node.u32("phandle", XICS_PHANDLE)
