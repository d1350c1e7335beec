"""The virtmmio machine's sections in a state stream, beside those of its virtio devices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from devices.virtio.mmio_state import mmio_component
from emu.migration.fields import Description, blob, u32, u64
from emu.migration.sections import Component
from emu.migration.stream import MigrationError
from machines.cpu_state import cpu_component
from machines.virtmmio.console import INPUT_SIZE, BoardConsole
from machines.virtmmio.control import CpuControl

if TYPE_CHECKING:
    from machines.virtmmio.machine import VirtmmioMachine


def _set_input(console: BoardConsole, data: bytes) -> None:
    console.input = data


CONTROL_STATE = Description(
    "cpu-control",
    1,
    (
        u64("written_table"),
        u32("written_size"),
        u32("translation"),
        u64("table"),
        u32("table_size"),
    ),
)
# What the lines are follows from the devices, but they drive them only when they change.
INTC_STATE = Description("intc", 1, (u64("pending"), u64("enabled")))
CONSOLE_STATE = Description("console", 1, (blob("input", INPUT_SIZE, setter=_set_input),))


class ControlImage:
    """The control registers between device and stream; LPCR is the CPU's own state."""

    def __init__(self, control: CpuControl) -> None:
        self._control = control
        self.written_table = self.written_size = 0
        self.translation = self.table = self.table_size = 0

    def read(self) -> None:
        """Take the device's state."""
        control = self._control
        self.written_table, self.written_size = control.written
        self.translation, self.table, self.table_size = control.selected

    def write(self) -> None:
        """Give the device this state; :class:`MigrationError` if it is impossible."""
        control = self._control
        if not control.select(self.translation, self.table, self.table_size):
            raise MigrationError(f"cpu-control: impossible translation {self.translation}")
        control.written = (self.written_table, self.written_size)


def components(machine: VirtmmioMachine) -> Sequence[Component]:
    """Sections of the CPU and the board's own devices."""
    control = ControlImage(machine.control)
    return [
        *(cpu_component(vcpu) for vcpu in machine.vcpus),
        # after the CPU: they change LPCR and drive the interrupt input
        Component("cpu-control", CONTROL_STATE, control, prepare=control.read, check=control.write),
        Component("intc", INTC_STATE, machine.intc, resume=machine.intc.resume),
        Component("console", CONSOLE_STATE, machine.console),
        *(mmio_component(transport, slot) for slot, transport in machine.slots.transports.items()),
    ]
