"""The virtmmio machine: RAM, virtio-mmio slots, a console and a way out; no firmware, no PAPR.

For bare-metal images that test devices.  docs/virtmmio.md has the memory map.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numba import cfunc, types

from devices.host import DeviceHost
from devices.virtio.device import VirtioDevice
from devices.virtio.mmio_slots import MmioDevice, MmioSlots
from emu.chardev.base import Chardev
from emu.chardev.config import ConfigError
from emu.cpu.isa import MSR_LE
from emu.cpu.layout import ENV_GPR
from emu.cpu.partition import Partition
from emu.cpu.record import ExitReason, Hcall, vcpu_at
from emu.cpu.vcpu import Vcpu
from emu.memory.bus import MmioWindow
from emu.memory.native import store_u64
from emu.memory.ram import GuestRam
from emu.migration.sections import Component
from machines.board import Board, HostServices
from machines.virtmmio import layout, state
from machines.virtmmio.boot import plan_board
from machines.virtmmio.console import BoardConsole
from machines.virtmmio.control import CpuControl
from machines.virtmmio.device_tree import BoardTree, build_board_tree
from machines.virtmmio.intc import InterruptController
from machines.virtmmio.page import RegisterPage, Registers
from machines.virtmmio.power import TestExit

_GPR3 = ENV_GPR + 8 * 3
_H_FUNCTION = np.uint64((1 << 64) - 2)  # PAPR: no such hypercall


@cfunc(types.uint64(types.uint64), cache=True)
def no_hypercall(vcpu_address: int) -> Any:
    """``sc 1``: there is no hypervisor; r3 becomes H_FUNCTION."""
    store_u64(vcpu_at(vcpu_address).env + np.uint64(_GPR3), _H_FUNCTION)
    return np.uint64(Hcall.DONE)


class VirtmmioServices(HostServices, Protocol):
    """What this machine asks of the program around it."""

    def request_exit(self, status: int) -> None:
        """The guest ends the emulator with this exit status, 0 to 255.  vCPU thread."""


@dataclass
class VirtmmioOptions:
    """Board configuration; sizes in bytes.

    ``attach`` makes the virtio devices, once the board that hosts them is there.
    """

    ram_size: int
    cpu: str = "power8"
    kernel: str | None = None
    bios: str | None = None
    initrd: str | None = None
    append: str = ""
    console: Chardev | None = None
    attach: Callable[[DeviceHost], Sequence[MmioDevice]] | None = None


class VirtmmioMachine(Board):
    """One virtmmio guest.  Its methods run on the vCPU thread, or before it starts.

    Raises ``ConfigError`` for impossible options, ``ImageError`` for unusable images,
    ``UnicornError`` for an unknown Unicorn.
    """

    def __init__(self, options: VirtmmioOptions, host: VirtmmioServices) -> None:
        super().__init__(host)
        check_ram_size(options.ram_size)
        self.options = options
        self._services = host
        self.boot = plan_board(
            options.ram_size, kernel=options.kernel, bios=options.bios, initrd=options.initrd
        )
        self.ram = GuestRam(options.ram_size)
        self.partition = Partition(self.ram)
        self.partition.record["hypercall"] = no_hypercall.address
        self.vcpus = [Vcpu(self.partition, 0, options.cpu)]
        self.intc = InterruptController(self.vcpus[0])
        self.control = CpuControl(self.partition, self.vcpus[0])
        self.console = BoardConsole(options.console, self._console_line, host.post, host.is_ending)
        self.slots = self._plug(options)
        self._map_devices()
        self.fdt = build_board_tree(BoardTree(options.ram_size, options.cpu, options.append))
        self.reset()

    def _plug(self, options: VirtmmioOptions) -> MmioSlots:
        try:
            devices = options.attach(self) if options.attach is not None else ()
            return MmioSlots(devices, layout.SLOT_COUNT, self.intc.set_line)
        except BaseException:
            self.console.close()
            self.partition.close()
            raise

    def _console_line(self, level: bool) -> None:
        self.intc.set_line(layout.CONSOLE_LINE, level)

    def _map_devices(self) -> None:
        power = TestExit(self._exit, self._reset_wanted)
        page = RegisterPage(
            "board",
            Registers(layout.CONSOLE_OFFSET, layout.CONSOLE_SIZE, self.console),
            Registers(layout.EXIT_OFFSET, layout.EXIT_SIZE, power),
            Registers(layout.INTC_OFFSET, layout.INTC_SIZE, self.intc),
            Registers(layout.CONTROL_OFFSET, layout.CONTROL_SIZE, self.control),
        )
        self._add_window(layout.BOARD_BASE, page, "board")
        for slot, handler in enumerate(self.slots.handlers):
            self._add_window(layout.slot_address(slot), handler, f"virtio-mmio slot {slot}")

    def _add_window(self, base: int, handler: Any, name: str) -> None:
        self.partition.add_mmio(MmioWindow(base, layout.PAGE_SIZE, handler, name))

    def _exit(self, status: int) -> None:
        self._services.request_exit(status)
        self.vcpus[0].kick()

    def _reset_wanted(self) -> None:
        self.host.request_reset()
        self.vcpus[0].kick()

    def reset(self) -> None:
        """Bring the guest to its first instruction: clean RAM, devices, CPU."""
        self.ram.clear()
        self.slots.reset()
        plan = self.boot.plan
        plan.place(self.ram.memory)
        self.ram.write(plan.fdt.start, self.fdt)
        self.partition.dirty_map[:] = 1
        vcpu = self.vcpus[0]
        vcpu.flush_code()
        vcpu.reset_state()
        self.control.reset(little_endian=self.boot.little_endian)
        self.intc.reset()
        if self.boot.little_endian:
            vcpu.msr |= MSR_LE
        vcpu.pc = plan.entry
        for number, value in plan.gprs.items():
            vcpu.set_gpr(number, value)

    def handle_exit(self, vcpu: Vcpu, reason: ExitReason) -> None:
        """Serve what a vCPU left ``run()`` for."""
        if reason is ExitReason.CHECKSTOP:
            self.host.guest_panicked(f"checkstop: machine check with MSR[ME] clear at {vcpu.pc:#x}")

    def virtio_devices(self) -> Sequence[VirtioDevice]:
        """Those in the slots."""
        return [transport.device for transport in self.slots.transports.values()]

    def components(self) -> Sequence[Component]:
        """Everything with a section in a state stream."""
        return state.components(self)

    def flush_consoles(self, seconds: float) -> None:
        """Wait until the host has taken what the guest printed, for so long at most."""
        self.console.flush(seconds)

    def close(self) -> None:
        """Release everything; no vCPU is running."""
        self.slots.close()
        self.console.close()
        self.partition.close()


def check_ram_size(size: int) -> int:
    """``size`` if this machine can have that much RAM; ``ConfigError`` otherwise."""
    if not layout.MIN_RAM_SIZE <= size <= layout.MAX_RAM_SIZE or size % layout.RAM_UNIT:
        raise ConfigError(
            f"RAM of the virtmmio machine is a multiple of 1 MiB from "
            f"{layout.MIN_RAM_SIZE // layout.MIB} MiB to {layout.MAX_RAM_SIZE >> 30} GiB, "
            f"not {size / layout.MIB:g} MiB",
            "ram_size",
        )
    return size
