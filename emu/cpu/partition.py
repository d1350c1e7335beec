"""What the vCPUs of one guest share: RAM, dirty log, page tables, clock, MMIO windows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from emu.cpu.clock import NO_DEADLINE, Ticker, clock_ns_at, monotonic_clock
from emu.cpu.record import MAX_MMIO_WINDOWS, MAX_VCPUS, NO_VCPU, PARTITION_DTYPE
from emu.cpu.tlb import flush_partition, note_ram_written, written_callback
from emu.cpu.turns import next_turn
from emu.memory.bus import MmioBus, MmioWindow
from emu.memory.dma import Dma
from emu.memory.ram import GuestRam

if TYPE_CHECKING:
    from emu.cpu.vcpu import Vcpu


class Partition:
    """The guest as its vCPUs see it.

    Create it, create the vCPUs, set ``hypercall`` and the tables, then start the clock.  All
    methods run on the vCPU thread or while no vCPU runs.
    """

    def __init__(self, ram: GuestRam) -> None:
        self.ram = ram
        self.dirty_map: npt.NDArray[np.uint8] = np.zeros(ram.pages, np.uint8)
        #: byte per 4 KiB page of RAM: code was translated from it
        self.code_map: npt.NDArray[np.uint8] = np.zeros(ram.pages, np.uint8)
        self._array = np.zeros(1, PARTITION_DTYPE)
        self.record: Any = self._array[0]
        self.address: int = self._array.ctypes.data
        self.vcpus: list[Vcpu] = []
        self.bus = MmioBus()
        self.dma = Dma(ram, self.written, written_callback.address, self.address)
        self.ticker = Ticker(self.address)
        self.running = False
        record = self.record
        record["ram"] = ram.address
        record["ram_size"] = ram.size
        record["rma_size"] = ram.size
        self.forget_turns()
        record["dirty_map"] = self.dirty_map.ctypes.data
        record["code_map"] = self.code_map.ctypes.data
        record["clock_read"] = monotonic_clock.address

    def add_vcpu(self, vcpu: Vcpu) -> None:
        """Register a vCPU (its constructor does so)."""
        if len(self.vcpus) == MAX_VCPUS:
            raise ValueError(f"at most {MAX_VCPUS} vCPUs")
        self.record["vcpus"][len(self.vcpus)] = vcpu.address
        self.vcpus.append(vcpu)
        self.record["vcpu_count"] = len(self.vcpus)

    def forget_turns(self) -> None:
        """No vCPU has the turn: at power-on, and before a guest's state is loaded."""
        record = self.record
        record["current"] = record["favoured"] = record["last_turn"] = NO_VCPU
        record["turn_end_ns"] = record["watched_ns"] = NO_DEADLINE

    def next_turn(self) -> Vcpu | None:
        """The vCPU to run now; None when another thread kicked while none was ready."""
        if len(self.vcpus) == 1:
            return self.vcpus[0]
        index = next_turn(self.address)
        return None if index < 0 else self.vcpus[index]

    def clear_kicks(self) -> None:
        """The vCPU thread has seen what it was kicked for."""
        for vcpu in self.vcpus:
            vcpu.record["kick"] = 0

    def add_mmio(self, window: MmioWindow) -> None:
        """Map a device window; raises ``ValueError`` if it overlaps RAM or another."""
        count = int(self.record["mmio_count"])
        if window.base < self.ram.size:
            raise ValueError(f"MMIO window {window.name} overlaps RAM")
        if count == MAX_MMIO_WINDOWS:
            raise ValueError(f"at most {MAX_MMIO_WINDOWS} MMIO windows")
        self.bus.add(window)
        self.record["mmio_base"][count] = window.base
        self.record["mmio_end"][count] = window.base + window.size
        self.record["mmio_count"] = count + 1
        for vcpu in self.vcpus:
            vcpu.map_mmio(window)

    def written(self, address: int, size: int) -> None:
        """A guest real range in RAM was written by something other than the CPU."""
        note_ram_written(self.address, address, size)

    def flush_tlb(self) -> None:
        """Forget every translation on every vCPU."""
        flush_partition(self.address)

    def clear_dirty(self) -> npt.NDArray[np.uint8]:
        """Return the dirty log so far (a byte per 4 KiB page) and start a new one."""
        log = self.dirty_map.copy()
        self.dirty_map[:] = 0
        self.flush_tlb()
        return log

    def start_clock(self) -> None:
        """Let the timebase run."""
        if not self.running:
            self.record["clock_epoch_ns"] = clock_ns_at(self.address)
            self.running = True
            for vcpu in self.vcpus:
                vcpu.refresh_decrementer()
            self.ticker.wake()

    def stop_clock(self) -> None:
        """Freeze the timebase; no vCPU is running."""
        if self.running:
            self.record["tb_at_epoch"] = self.timebase
            self.running = False
            for vcpu in self.vcpus:
                vcpu.record["deadline_ns"] = NO_DEADLINE

    @property
    def timebase(self) -> int:
        """Timebase in ticks of 512 MHz."""
        base = int(self.record["tb_at_epoch"])
        if not self.running:
            return base
        elapsed = int(clock_ns_at(self.address)) - int(self.record["clock_epoch_ns"])
        return base + elapsed * 64 // 125

    @timebase.setter
    def timebase(self, ticks: int) -> None:
        self.record["tb_at_epoch"] = ticks
        self.record["clock_epoch_ns"] = clock_ns_at(self.address)

    def close(self) -> None:
        """Release vCPUs and the timer thread; nothing runs any more."""
        self.ticker.close()
        for vcpu in self.vcpus:
            vcpu.close()
        self.vcpus.clear()
