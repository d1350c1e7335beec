"""The pseries machine: a PAPR logical partition as QEMU's machine of the same name builds it."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt

from devices.host import DeviceHost
from devices.pci.bus import PciBus
from devices.virtio.device import VirtioDevice
from devices.virtio.mmio_slots import MmioDevice
from devices.virtio.pci import VirtioPciFunction
from emu.cpu.isa import Spr
from emu.cpu.partition import Partition
from emu.cpu.record import ExitReason
from emu.cpu.vcpu import Vcpu
from emu.log import log
from emu.memory.ram import GuestRam
from emu.migration.machine import Iterated
from emu.migration.sections import Component
from firmware.boot_image import BootPlan, plan_boot
from firmware.cpu_features import CpuModel, MmuMode
from machines.board import Board, HostServices
from machines.pseries import (
    dispatch,
    hcalls,
    hcalls_cpu,  # noqa: F401 (these register hypercalls)
    hcalls_firmware,  # noqa: F401
    hcalls_memory,  # noqa: F401
    hcalls_vpa,  # noqa: F401
    papr,
    phb_rtas,  # noqa: F401 (registers RTAS services)
    state,
    tce_hcalls,  # noqa: F401 (registers hypercalls)
    test_exit,  # noqa: F401 (registers a hypercall)
)
from machines.pseries.device_tree import (
    DeviceTreeSpec,
    NvramSlot,
    RtasSpec,
    VioSlot,
    build_device_tree,
)
from machines.pseries.events import PlatformEvents
from machines.pseries.hpt_section import HptSection
from machines.pseries.nvram import Nvram
from machines.pseries.phb import Phb
from machines.pseries.phb_tree import phb_node
from machines.pseries.record import PSERIES_DTYPE
from machines.pseries.rtas import Rtas, rtas_calls
from machines.pseries.rtc import Rtc
from machines.pseries.tce import TceTables
from machines.pseries.virtio_mmio import PseriesVirtioMmio
from machines.pseries.vty import Ttys, Vty
from machines.pseries.xics import Xics

_MIN_HPT_SHIFT, _MAX_HPT_SHIFT = 18, 46
_NVRAM_UNIT = 0x71000100
_NVRAM_IRQ = 0x10FF
_TTY_IRQ_BASE = 0x1100


@dataclass
class PseriesOptions:
    """Board configuration; sizes in bytes."""

    ram_size: int
    cpu: str = "power8"
    cpus: int = 1
    kernel: str | None = None
    initrd: str | None = None
    bios: str | None = None
    append: str = ""
    name: str | None = None
    uuid: UUID | None = None
    rtc_base: Any = "utc"
    ttys: list[tuple[int, Any]] = field(default_factory=list)  # (unit address, Chardev)
    # makes the devices: PCI functions go to the bus, those for virtio-mmio slots are returned
    attach: Callable[[DeviceHost, PciBus | None], Sequence[MmioDevice]] | None = None
    # ends the emulator with a status; None: the guest has no such hypercall
    test_exit: Callable[[int], None] | None = None


class PseriesMachine(Board):
    """One pseries guest.  Its methods run on the vCPU thread, or before it starts.

    Raises ``ImageError`` for unusable images, ``UnicornError`` for an unknown Unicorn.
    """

    def __init__(self, options: PseriesOptions, host: HostServices) -> None:
        super().__init__(host)
        self.options = options
        self.plan = self._plan()
        self.ram = GuestRam(options.ram_size)
        self.partition = Partition(self.ram)
        self._array = np.zeros(1, PSERIES_DTYPE)
        self.record: Any = self._array[0]
        self.partition.record["machine"] = self._array.ctypes.data
        self.partition.record["hypercall"] = dispatch.hypercall.address
        self.record["trace_hcalls"] = log("hcall").enabled
        self._allocate_hpt()
        self.vcpus = [Vcpu(self.partition, index, options.cpu) for index in range(options.cpus)]
        self.xics = Xics(self.partition)
        self.record["xics"] = self.xics.address
        self.nvram = Nvram()
        self.xics.claim(_NVRAM_IRQ, lsi=False, name="nvram")
        self.rtc = Rtc(options.rtc_base)
        self.platform_events = PlatformEvents(self.xics, self.rtc)
        self._create_ttys()
        self.tces = TceTables()
        self.phb = Phb(self.partition, self.xics, self.tces)
        self.virtio_mmio = self._plug()
        self.rtas = Rtas(self)
        self.fdt = build_device_tree(self._tree_spec())
        self.reset()

    def _plug(self) -> PseriesVirtioMmio:
        try:
            attach = self.options.attach
            devices = attach(self, self.phb.bus) if attach is not None else ()
            return PseriesVirtioMmio(self.partition, self.xics, devices)
        except BaseException:
            self.close()
            raise

    def _plan(self) -> BootPlan:
        options = self.options
        return plan_boot(
            options.ram_size, kernel=options.kernel, initrd=options.initrd, bios=options.bios
        )

    def _allocate_hpt(self) -> None:
        shift = self.options.ram_size.bit_length() - 1 - 7
        self.hpt_shift = max(_MIN_HPT_SHIFT, min(_MAX_HPT_SHIFT, shift))
        self._hpt = mmap.mmap(-1, 1 << self.hpt_shift, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._hpt_view = np.frombuffer(self._hpt, np.uint8)
        self.record["htab_org"] = self._hpt_view.ctypes.data
        self.record["htab_shift"] = self.hpt_shift

    def _create_ttys(self) -> None:
        self._tty_records = Ttys(len(self.options.ttys))
        self.record["ttys"] = self._tty_records.address
        self.record["tty_count"] = len(self.options.ttys)
        self.ttys = [
            Vty(
                self._tty_records.array[index],
                unit,
                _TTY_IRQ_BASE + index,
                chardev,
                self.xics,
                self.host.post,
            )
            for index, (unit, chardev) in enumerate(self.options.ttys)
        ]

    def _tree_spec(self) -> DeviceTreeSpec:
        options, plan = self.options, self.plan
        model = CpuModel(options.cpu)
        return DeviceTreeSpec(
            ram_size=options.ram_size,
            rtas=RtasSpec(plan.rtas, tuple(rtas_calls())),
            htab_shift=self.hpt_shift,
            cpu_model=model,
            vcpu_ids=tuple(range(options.cpus)),
            logical_pvr=not options.bios,
            mmu=MmuMode.RADIX if model is CpuModel.POWER9 else MmuMode.HASH,
            bootargs=options.append,
            kernel=plan.kernel if options.bios else None,
            kernel_little_endian=plan.kernel_little_endian,
            initrd=plan.initrd,
            vtys=tuple(VioSlot(vty.unit, vty.irq) for vty in self.ttys),
            nvram=NvramSlot(_NVRAM_UNIT, _NVRAM_IRQ, self.nvram.size),
            hypertas_functions=tuple(dispatch.HYPERTAS_FUNCTIONS),
            name=options.name,
            uuid=options.uuid,
            rng_seed=os.urandom(32),
            extra=(
                phb_node(self.phb, dict(rtas_calls())),
                self.platform_events.build_nodes,
                *([self.virtio_mmio.build_nodes] if self.virtio_mmio.slots.transports else []),
            ),
        )

    def reset(self) -> None:
        """Bring the guest to its first instruction: clean RAM, tables, devices, CPU."""
        self.ram.clear()
        self._hpt.madvise(mmap.MADV_DONTNEED)
        self.select_translation(radix=False, table=0, size=0)
        self.xics.reset()
        self.platform_events.reset()
        self.virtio_mmio.reset()
        self.phb.reset()
        for vty in self.ttys:
            vty.reset()
        self.plan.place(self.ram.memory)
        self.ram.write(self.plan.fdt.start, self.fdt)
        self.partition.dirty_map[:] = 1
        self.partition.forget_turns()
        for vcpu in self.vcpus:
            vcpu.flush_code()
            vcpu.reset_state()
            vcpu.record["stopped"] = vcpu.index != 0
        boot = self.vcpus[0]
        boot.pc = self.plan.entry
        for number, value in self.plan.gprs.items():
            boot.set_gpr(number, value)

    def _stopped_for_ever(self) -> bool:
        return all(vcpu.record["stopped"] for vcpu in self.vcpus)

    def handle_exit(self, vcpu: Vcpu, reason: ExitReason) -> None:
        """Serve what a vCPU left ``run()`` for."""
        if reason is ExitReason.HYPERCALL:
            hcalls.serve(self, vcpu)
            if self._stopped_for_ever():
                self.host.guest_panicked("the last CPU stopped itself")
        elif reason is ExitReason.CHECKSTOP:
            self.host.guest_panicked(f"checkstop: machine check with MSR[ME] clear at {vcpu.pc:#x}")

    def select_translation(self, *, radix: bool, table: int, size: int) -> None:
        """Use radix translation with a process table (guest real), or the hash page table."""
        record = self.partition.record
        record["radix"] = int(radix)
        record["process_table"] = table
        record["process_table_size"] = size
        record["hpt"] = 0 if radix else int(self.record["htab_org"])
        record["hpt_shift"] = self.hpt_shift
        self.partition.flush_tlb()

    def change_lpcr(self, mask: int, value: int) -> None:
        """Replace LPCR bits on every vCPU."""
        for vcpu in self.vcpus:
            vcpu.set_spr(Spr.LPCR, (vcpu.spr(Spr.LPCR) & ~mask) | value)

    def vcpu_by_number(self, number: int) -> Vcpu | None:
        """The vCPU with an interrupt server number."""
        return self.vcpus[number] if number < len(self.vcpus) else None

    def put_term_char_slow(self, unit: int, length: int, first: int, second: int) -> int:
        """H_PUT_TERM_CHAR while the terminal's ring is full: wait for the host side."""
        for vty in sorted(self.ttys, key=lambda vty: vty.unit):
            if unit in (0, vty.unit):
                data = (first.to_bytes(8, "big") + second.to_bytes(8, "big"))[:length]
                done = vty.put_slow(data, self.host.is_ending)
                return papr.H_SUCCESS if done else papr.H_BUSY
        return papr.H_PARAMETER

    def vio_signal(self, unit: int, mode: int) -> int:
        """H_VIO_SIGNAL of a terminal."""
        for vty in self.ttys:
            if vty.unit == unit:
                return vty.vio_signal(mode)
        return papr.H_PARAMETER

    @property
    def uuid(self) -> UUID | None:
        """The machine's UUID, if it was given one."""
        return self.options.uuid

    @property
    def ram_size(self) -> int:
        """Bytes of guest RAM."""
        return self.ram.size

    def request_shutdown(self) -> None:
        """The guest powered off."""
        self.host.request_shutdown()

    def press_power_button(self) -> None:
        """Ask the guest to shut down."""
        self.platform_events.request_shutdown()

    def request_reset(self) -> None:
        """The guest asked for a reboot."""
        self.host.request_reset()

    def guest_panicked(self, message: str) -> None:
        """The guest's kernel gave up."""
        self.host.guest_panicked(message)

    def display_character(self, character: int) -> None:
        """RTAS display-character: the first terminal stands for the front panel."""
        if self.ttys:
            self.ttys[0].put_slow(bytes([character]), self.host.is_ending)

    def start_cpu(self, vcpu: Vcpu, pc: int, r3: int) -> None:
        """RTAS start-cpu of a stopped vCPU."""
        shared = self.vcpus[0].spr(Spr.LPCR)
        vcpu.reset_state()
        vcpu.set_spr(Spr.LPCR, shared)
        vcpu.pc = pc
        vcpu.set_gpr(3, r3)
        vcpu.refresh_decrementer()

    def stop_cpu(self, vcpu: Vcpu) -> None:
        """RTAS stop-self."""
        vcpu.record["stopped"] = 1

    def unknown_hypercall(self, number: int) -> None:
        """Tell the log, once per number."""
        self.host.unknown_hypercall(number)

    def components(self) -> Sequence[Component]:
        """Everything with a section in a state stream."""
        return state.components(self)

    def virtio_devices(self) -> Sequence[VirtioDevice]:
        """Behind PCI functions and in virtio-mmio slots."""
        functions = self.phb.bus.functions.values()
        behind = [f.device for f in functions if isinstance(f, VirtioPciFunction)]
        return [*behind, *(slot.device for slot in self.virtio_mmio.slots.transports.values())]

    def iterated(self) -> Sequence[Iterated]:
        """The hash page table."""
        return (HptSection(self),)

    @property
    def hpt_memory(self) -> npt.NDArray[np.uint8]:
        """The hash page table as bytes (big-endian entries)."""
        return self._hpt_view

    def flush_consoles(self, seconds: float) -> None:
        """Wait until the host has taken what the guest printed, for so long at most."""
        for vty in self.ttys:
            vty.flush(seconds)

    def close(self) -> None:
        """Release everything; no vCPU is running."""
        for vty in self.ttys:
            vty.close()
        self.partition.close()
