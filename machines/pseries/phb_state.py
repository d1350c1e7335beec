"""The PCI host bridge's sections in a state stream: messages, DMA windows, functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from devices.virtio.pci import VirtioPciFunction
from devices.virtio.pci_state import pci_component
from emu.migration.fields import Description, blob, u32, u64
from emu.migration.sections import Component
from machines.pseries.phb import BUID, MSI_TOTAL, MsiBlock, Phb
from machines.pseries.tce import MAX_ENTRIES, TceTable

_DEVFNS = 256
_ENTRY = np.dtype([("index", ">u4"), ("entry", ">u8")])


def _save_entries(table: TceTable) -> bytes:
    """Entries that are not 0, each behind its index; big-endian."""
    used = np.flatnonzero(table.entries)
    saved = np.zeros(len(used), _ENTRY)
    saved["index"], saved["entry"] = used, table.entries[used]
    return saved.tobytes()


def _load_entries(table: TceTable, data: bytes) -> None:
    if len(data) % _ENTRY.itemsize:
        raise ValueError("entries are cut short")
    loaded = np.frombuffer(data, _ENTRY)
    if len(loaded) and int(loaded["index"].max()) >= len(table.entries):
        raise ValueError("an entry is outside the window")
    table.entries[:] = 0
    table.entries[loaded["index"]] = loaded["entry"]


def _set_window(table: TceTable, count: int) -> None:
    if count == 0:
        table.disable()
    elif table.page_shift > 63 or not table.enable(table.page_shift, table.bus_offset, count):
        raise ValueError(f"a window of {count} entries")


TCE_STATE = Description(
    "spapr_iommu",
    1,
    (
        u64("bus_offset"),
        u32("page_shift"),
        u32("nb_table", getter=lambda table: len(table.entries), setter=_set_window),
        blob("table", MAX_ENTRIES * _ENTRY.itemsize, getter=_save_entries, setter=_load_entries),
    ),
)


def _set_first(phb: Phb, values: list[int]) -> None:
    phb.msis = {devfn: MsiBlock(first, 0) for devfn, first in enumerate(values) if first}


def _set_count(phb: Phb, values: list[int]) -> None:
    blocks = {devfn: count for devfn, count in enumerate(values) if count}
    if blocks.keys() != phb.msis.keys() or sum(blocks.values()) > MSI_TOTAL:
        raise ValueError("messages of functions")
    phb.msis = {devfn: MsiBlock(phb.msis[devfn].first, count) for devfn, count in blocks.items()}


def _column(name: str) -> Callable[[Phb], list[int]]:
    """Getter of a number of each function's block, by devfn; 0 for none."""
    return lambda phb: [
        getattr(phb.msis[devfn], name) if devfn in phb.msis else 0 for devfn in range(_DEVFNS)
    ]


PHB_STATE = Description(
    "spapr_pci",
    1,
    (
        u32("msi_first", count=_DEVFNS, getter=_column("first"), setter=_set_first),
        u32("msi_count", count=_DEVFNS, getter=_column("count"), setter=_set_count),
    ),
)


def phb_components(phb: Phb) -> Sequence[Component]:
    """DMA windows, the bridge, and every virtio function behind it."""
    bus = f"pci@{BUID:x}"
    functions = sorted(phb.bus.functions.items())
    return [
        *(Component("spapr_iommu", TCE_STATE, table, table.liobn) for table in phb.dma_windows),
        Component("spapr_pci", PHB_STATE, phb, check=phb.restored),
        *(
            pci_component(function, bus)
            for _, function in functions
            if isinstance(function, VirtioPciFunction)
        ),
    ]
