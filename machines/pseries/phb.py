"""The sPAPR PCI host bridge, with the numbers of QEMU's ``spapr-pci-host-bridge`` of index 0.

Three windows of guest real addresses lead to I/O, 32-bit and 64-bit memory addresses of the bus
(docs/pci.md).  Interrupt pins share four level-triggered XICS sources; messages are single words
written to ``MSI_ADDRESS``, their data is the XICS number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from devices.pci.bus import PciBus
from devices.pci.function import PciFunction
from emu.cpu.partition import Partition
from emu.log import guest_error
from emu.memory.bus import MmioHandler, MmioWindow
from emu.memory.dma import DmaError
from machines.pseries.tce import MAX_ENTRIES, TceTables
from machines.pseries.xics import Xics

BUID = 0x800000020000000


@dataclass(frozen=True)
class Window:
    """A range of bus addresses and where the guest finds it; sizes in bytes."""

    address: int
    pci_address: int
    size: int


IO_WINDOW = Window(0x2000_0000_0000, 0, 0x10000)
MEM32_WINDOW = Window(0x2000_8000_0000, 0x8000_0000, 0x8000_0000)
MEM64_WINDOW = Window(0x2100_0000_0000, 0x2100_0000_0000, 1 << 40)

LSI_COUNT = 4
LSI_BASE = 0x1200
#: XICS sources that messages may take altogether; a quarter of all stays for other devices.
MSI_TOTAL = 0x300
#: Above 32 bits: in none of the DMA windows.
MSI_ADDRESS = 0x400_0000_0000

LIOBN = 0x80000000
MAX_DMA_WINDOWS = 2
DMA_WINDOW_SIZE = 1 << 30
DMA_WINDOW_PAGE_SHIFT = 12
DMA64_WINDOW_ADDRESS = 0x800_0000_0000_0000
#: 4 KiB, 64 KiB, 2 MiB and 16 MiB
DMA_PAGE_SHIFTS = (12, 16, 21, 24)
DMA_LARGEST_WINDOW = MAX_ENTRIES

Find = Callable[[int, int], "tuple[MmioHandler, int] | None"]


class _WindowHandler:
    """A window's accesses, for whoever decodes the address; nobody answers with ones."""

    def __init__(self, pci_address: int, find: Find) -> None:
        self._base = pci_address
        self._find = find

    def mmio_read(self, offset: int, size: int) -> bytes:
        """From a BAR, or all ones."""
        found = self._find(self._base + offset, size)
        if found is None:
            return b"\xff" * size
        handler, at = found
        return handler.mmio_read(at, size)

    def mmio_write(self, offset: int, data: bytes) -> None:
        """To a BAR, or nowhere."""
        found = self._find(self._base + offset, len(data))
        if found is not None:
            handler, at = found
            handler.mmio_write(at, data)


@dataclass(frozen=True)
class MsiBlock:
    """The XICS sources of a function's messages."""

    first: int
    count: int

    def __contains__(self, irq: int) -> bool:
        return self.first <= irq < self.first + self.count


class Phb:
    """The host bridge; ``bus`` takes the functions.  vCPU thread, or before it starts.

    ``msis`` (by devfn) and the tables of its two LIOBNs are state; interrupt lines follow from
    the functions.
    """

    def __init__(self, partition: Partition, xics: Xics, tces: TceTables) -> None:
        self._xics = xics
        self._tces = tces
        self.bus = PciBus(self)
        self.msis: dict[int, MsiBlock] = {}
        self._asserted = [0] * LSI_COUNT  # bit per devfn and pin
        for line in range(LSI_COUNT):
            xics.claim(LSI_BASE + line, lsi=True, name=f"PCI INT line {line}")
        self.dma_windows = [tces.add(LIOBN + number) for number in range(MAX_DMA_WINDOWS)]
        for name, window, find in (
            ("I/O", IO_WINDOW, self.bus.find_io),
            ("32-bit memory", MEM32_WINDOW, self.bus.find_memory),
            ("64-bit memory", MEM64_WINDOW, self.bus.find_memory),
        ):
            handler = _WindowHandler(window.pci_address, find)
            partition.add_mmio(MmioWindow(window.address, window.size, handler, f"PCI {name}"))
        self.reset_dma()

    def reset(self) -> None:
        """Functions, messages and DMA windows as after power-on."""
        for devfn in list(self.msis):
            self.free_msis(devfn)
        self.bus.reset()
        self.reset_dma()

    # Interrupts

    def set_intx(self, devfn: int, pin: int, level: bool) -> None:
        """Pins share the lines: a line is up while any of its pins is."""
        line = lsi_line(devfn, pin)
        bit = 1 << (devfn * LSI_COUNT + pin - 1)
        before = self._asserted[line]
        self._asserted[line] = before | bit if level else before & ~bit
        if bool(before) != bool(self._asserted[line]):
            self._xics.set_irq(LSI_BASE + line, int(level))

    def send_msi(self, function: PciFunction, address: int, data: int) -> None:
        """A message reaches the interrupt controller if it is one that the platform gave out."""
        if address == MSI_ADDRESS and any(data in block for block in self.msis.values()):
            self._xics.set_irq(data, 1)
        else:
            guest_error(function.name, "message %#x to %#x", data, address)

    def allocate_msis(self, function: PciFunction, count: int) -> bool:
        """Give a function's vectors 0 to ``count - 1`` new sources and program its table.

        False when there are not so many sources; what it had is gone then.
        """
        if function.msix is None or not 0 < count <= function.msix.vectors:
            return False
        self.free_msis(function.devfn)
        if sum(block.count for block in self.msis.values()) + count > MSI_TOTAL:
            return False
        try:
            first = self._xics.allocate(count, lsi=False, name=f"MSI of {function.name}")
        except ValueError:
            return False
        self.msis[function.devfn] = MsiBlock(first, count)
        for vector in range(count):
            function.msix.set_message(vector, MSI_ADDRESS, first + vector)
        return True

    def free_msis(self, devfn: int) -> bool:
        """Take a function's sources back and clear its table; False when it has none."""
        block = self.msis.pop(devfn, None)
        if block is None:
            return False
        self._xics.free(block.first, block.count)
        function = self.bus.functions.get(devfn)
        if function is not None and function.msix is not None:
            for vector in range(function.msix.vectors):
                function.msix.clear_message(vector)
        return True

    def restored(self) -> None:
        """State has been loaded: make decoding and interrupt lines agree with it.

        The interrupt controller has the lines' levels in its own state.
        """
        self._asserted = [0] * LSI_COUNT
        for devfn, function in self.bus.functions.items():
            function.restored()
            pin = function.interrupt_pin
            if pin and function.intx_line:
                self._asserted[lsi_line(devfn, pin)] |= 1 << (devfn * LSI_COUNT + pin - 1)

    # DMA

    def reset_dma(self) -> None:
        """One window of 4 KiB pages at bus address 0, empty."""
        for window in self.dma_windows:
            window.disable()
        count = DMA_WINDOW_SIZE >> DMA_WINDOW_PAGE_SHIFT
        self.dma_windows[0].enable(DMA_WINDOW_PAGE_SHIFT, 0, count)

    def translate(self, address: int, size: int, write: bool) -> list[tuple[int, int]]:
        """Guest real (address, size) pieces of a range of bus addresses, for a function's DMA.

        :class:`DmaError` when it is in no window, or not allowed.
        """
        for window in self.dma_windows:
            if window.index(address) is not None:
                return window.translate(address, size, write)
        raise DmaError(f"no DMA window at {address:#x}")


def lsi_line(devfn: int, pin: int) -> int:
    """The line (0 to 3) of an interrupt pin (1 to 4): pins rotate with the slot."""
    return (pin - 1 + (devfn >> 3)) % LSI_COUNT
