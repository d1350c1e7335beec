"""Device tree of the PCI host bridge and its functions.

Bindings: LoPAPR 1.1, appendix B "LoPAPR Binding for PCI" and IEEE 1275's PCI bus binding 2.1,
with the properties of QEMU's pseries.  What differs is in docs/pci.md.  BARs have no addresses:
firmware or the guest's kernel assigns them.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from devices.pci import constants as pci
from devices.pci.bar import Bar
from devices.pci.bus import FUNCTIONS, SLOTS
from devices.pci.function import PciFunction
from firmware.flat_tree import DtNode
from machines.pseries.device_tree import IRQ_LEVEL, XICS_PHANDLE, NodeBuilder
from machines.pseries.phb import (
    BUID,
    DMA_WINDOW_SIZE,
    IO_WINDOW,
    LSI_BASE,
    LSI_COUNT,
    MEM32_WINDOW,
    MEM64_WINDOW,
    MSI_TOTAL,
    Phb,
    Window,
    lsi_line,
)
from machines.pseries.phb_names import function_name

# phys.hi of a PCI address (IEEE 1275 PCI binding, 2.2.1.1)
_SPACE_IO, _SPACE_MEM32, _SPACE_MEM64 = 0x01000000, 0x02000000, 0x03000000
_SLOT_MASK = 0xF800
_CONFIG_SPACE_TYPE = 1  # extended configuration addresses are understood, as QEMU's node says
_DDW_APPLICABLE = (
    "ibm,query-pe-dma-window",
    "ibm,create-pe-dma-window",
    "ibm,remove-pe-dma-window",
)
# ibm,ddw-extensions: the call that resets, and that query may answer 64 bits
_DDW_RESET = "ibm,reset-pe-dma-window"
_DDW_LONG_QUERY = 1


def phb_node(phb: Phb, tokens: Mapping[str, int]) -> NodeBuilder:
    """A builder of the bridge's node; ``tokens`` are those of RTAS calls by name."""

    def build(root: DtNode) -> None:
        node = root.child(f"pci@{BUID:x}")
        _bridge(node)
        _interrupt_map(node)
        _dma(node, phb, tokens)
        for function in phb.bus.functions.values():
            _function(node, function)

    return build


def _bridge(node: DtNode) -> None:
    node.string("device_type", "pci")
    node.string("compatible", "IBM,Logical_PHB")
    node.u32("#address-cells", 3)
    node.u32("#size-cells", 2)
    node.u32("#interrupt-cells", 1)
    node.flag("used-by-rtas")
    node.u32("bus-range", 0, 0xFF)
    node.u64("reg", BUID, 0)
    node.raw(
        "ranges",
        _range(_SPACE_IO, IO_WINDOW)
        + _range(_SPACE_MEM32, MEM32_WINDOW)
        + _range(_SPACE_MEM64, MEM64_WINDOW),
    )
    node.u32("ibm,pci-config-space-type", _CONFIG_SPACE_TYPE)
    node.u32("ibm,pe-total-#msi", MSI_TOTAL)
    # Bus numbers are set: firmware leaves them alone.
    node.u32("qemu,phb-enumerated", 1)


def _range(space: int, window: Window) -> bytes:
    return struct.pack(">IQQQ", space, window.pci_address, window.address, window.size)


def _interrupt_map(node: DtNode) -> None:
    """Slot and pin to a source (IEEE 1275 interrupt mapping)."""
    node.u32("interrupt-map-mask", _SLOT_MASK, 0, 0, 0xFFFFFFFF)
    cells: list[int] = []
    for slot in range(SLOTS):
        devfn = slot * FUNCTIONS
        for pin in range(1, LSI_COUNT + 1):
            source = LSI_BASE + lsi_line(devfn, pin)
            cells += [devfn << 8, 0, 0, pin, XICS_PHANDLE, source, IRQ_LEVEL]
    node.u32("interrupt-map", *cells)


def _dma(node: DtNode, phb: Phb, tokens: Mapping[str, int]) -> None:
    """The default window, and the calls that make others."""
    node.u32("ibm,#dma-address-cells", 2)
    node.u32("ibm,#dma-size-cells", 2)
    node.raw("ibm,dma-window", struct.pack(">IQQ", phb.dma_windows[0].liobn, 0, DMA_WINDOW_SIZE))
    node.u32("ibm,ddw-applicable", *(tokens[name] for name in _DDW_APPLICABLE))
    node.u32("ibm,ddw-extensions", 2, tokens[_DDW_RESET], _DDW_LONG_QUERY)


def _function(bridge: DtNode, function: PciFunction) -> None:
    slot, number = divmod(function.devfn, FUNCTIONS)
    config = function.config
    class_code = int.from_bytes(config[pci.CLASS_CODE : pci.CLASS_CODE + 3], "little")
    unit = f"{slot:x},{number:x}" if number else f"{slot:x}"
    node = bridge.child(f"{function_name(class_code)}@{unit}")
    vendor, device = struct.unpack_from("<HH", config, pci.VENDOR_ID)
    node.u32("vendor-id", vendor)
    node.u32("device-id", device)
    node.u32("revision-id", config[pci.REVISION_ID])
    node.u32("class-code", class_code)
    if function.interrupt_pin:
        node.u32("interrupts", function.interrupt_pin)
    subsystem_vendor, subsystem = struct.unpack_from("<HH", config, pci.SUBSYSTEM_VENDOR_ID)
    if subsystem:
        node.u32("subsystem-id", subsystem)
    if subsystem_vendor:
        node.u32("subsystem-vendor-id", subsystem_vendor)
    node.u32("cache-line-size", config[pci.CACHE_LINE_SIZE])
    node.u32("devsel-speed", 0)
    node.u32("min-grant", config[pci.MIN_GNT])
    node.u32("max-latency", config[pci.MAX_LAT])
    node.string("ibm,loc-code", f"qemu_{function.driver}:0000:00:{slot:02x}.{number:x}")
    if function.msix is not None:
        node.u32("ibm,req#msi-x", function.msix.vectors)
    _registers(node, function)


def _registers(node: DtNode, function: PciFunction) -> None:
    """``reg``: the function's configuration space, then each BAR with its size."""
    place = function.devfn << 8
    entries = struct.pack(">IQQ", place, 0, 0)
    for _, bar in sorted(function.bars.items()):
        entries += struct.pack(">IQQ", _space(bar) | place | bar.offset, 0, bar.size)
    node.raw("reg", entries)


def _space(bar: Bar) -> int:
    if bar.kind.is_io:
        return _SPACE_IO
    return _SPACE_MEM64 if bar.kind.is_64bit else _SPACE_MEM32
