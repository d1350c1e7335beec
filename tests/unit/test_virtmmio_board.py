"""The virtmmio board's own devices: console, interrupts, CPU control, device tree, state."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import fdt
import pytest

from emu.chardev.memory import MemoryChardev
from emu.cpu.isa import LPCR_ILE, MSR_EE, MSR_ME, MSR_SF, Spr
from emu.migration.stream import Buffer, StreamReader, StreamWriter
from machines.virtmmio import layout
from machines.virtmmio.control import TABLE_HIGH, TABLE_LOW, TABLE_SIZE, TRANSLATION
from machines.virtmmio.machine import VirtmmioMachine
from tests.support import asm
from tests.support.asm import assemble
from tests.unit.virtmmio_tools import (
    CONSOLE,
    CONTROL,
    EXTERNAL,
    INTC,
    MIB,
    SPIN,
    Builder,
    Program,
    leave,
    put,
    store,
)


@pytest.fixture
def program() -> Program:
    return Program()


@pytest.fixture
def console() -> MemoryChardev:
    return MemoryChardev()


@pytest.fixture
def build(program: Program, console: MemoryChardev, tmp_path: Path) -> Iterator[Builder]:
    builder = Builder(program, console, tmp_path)
    yield builder
    builder.close()


def test_console_input_by_polling(build: Builder, program: Program, console: MemoryChardev) -> None:
    """The image echoes two bytes and leaves with the status register."""
    wait = [asm.lbz(4, 10, 4), asm.x_form(31, 0, 4, 12, 0), asm.bne(-8)]
    echo = [wait, asm.lbz(5, 10, 5), asm.stb(5, 10)]
    build(
        asm.li64(10, CONSOLE), asm.li(12, 1), echo, echo,
        asm.lbz(4, 10, 4), asm.lbz(6, 10, 5), asm.add(4, 4, 6), asm.stw(4, 10, 8), SPIN,
    )  # fmt: skip
    console.send("ok")
    assert program.run() == 0
    assert console.transcript == b"ok"


def test_console_keeps_what_the_guest_has_no_time_for(
    build: Builder, program: Program, console: MemoryChardev
) -> None:
    machine = build(leave(0))
    console.send(b"x" * 5000)
    taken = b""
    while machine.console.mmio_read(4, 1) == b"\1":
        taken += machine.console.mmio_read(5, 1)
    assert taken == b"x" * 5000
    assert machine.console.mmio_read(5, 1) == b"\0"


def test_console_without_chardev(build: Builder, program: Program) -> None:
    build(put("nobody reads this"), leave(3), console=None)
    assert program.run() == 3


def test_interrupt_line_reaches_the_vector(
    build: Builder, program: Program, console: MemoryChardev
) -> None:
    """The image spins in one branch; console input interrupts it, and reading it ends that."""
    handler = [
        asm.li64(10, CONSOLE), asm.li64(12, INTC + 8), asm.lwz(7, 12),  # pending, lines 32-63
        asm.lbz(4, 10, 5), asm.lwz(8, 12), asm.add(7, 7, 8), asm.stw(7, 10, 8), SPIN,
    ]  # fmt: skip
    build(
        store(INTC + 12, 1), asm.li64(9, MSR_SF | MSR_EE), asm.mtmsrd(9), put("r"), SPIN,
        vectors={EXTERNAL: asm.b(0x3000 - EXTERNAL)},
    )  # fmt: skip
    assert program.board is not None
    program.board.ram.write(0x3000, assemble(handler))

    def answer() -> None:
        console.wait_for("r")
        console.send("!")

    sender = threading.Thread(target=answer)
    sender.start()
    assert program.run() == 1  # pending before it was read, not pending after
    sender.join()


def test_disabled_line_does_not_interrupt(build: Builder, program: Program) -> None:
    machine = build(
        asm.li64(9, MSR_SF | MSR_EE), asm.mtmsrd(9), asm.NOP, asm.NOP, leave(9),
        vectors={EXTERNAL: asm.b(0x2800 - EXTERNAL)},
    )  # fmt: skip
    machine.intc.set_line(3, True)
    assert program.run() == 9


def test_enabling_a_pending_line_interrupts_at_once(build: Builder, program: Program) -> None:
    machine = build(
        asm.li64(9, MSR_SF | MSR_EE), asm.mtmsrd(9), store(INTC + 4, 1 << 3), SPIN,
        vectors={EXTERNAL: asm.b(0x3000 - EXTERNAL)},
    )  # fmt: skip
    machine.ram.write(0x3000, assemble(leave(11)))
    machine.intc.set_line(3, True)
    assert program.run() == 11


def test_intc_registers_are_big_endian_words(build: Builder) -> None:
    machine = build(leave(0))
    machine.intc.set_line(0, True)
    machine.intc.set_line(33, True)
    machine.intc.mmio_write(12, b"\x80\0\0\1")
    assert machine.intc.mmio_read(0, 4) == b"\0\0\0\1"
    assert machine.intc.mmio_read(8, 4) == b"\0\0\0\2"
    assert machine.intc.mmio_read(12, 4) == b"\x80\0\0\1"
    assert machine.intc.enabled == 1 << 63 | 1 << 32
    machine.intc.mmio_write(0, b"\xff" * 4)  # read-only
    machine.intc.set_line(33, False)
    assert machine.intc.pending == 1


def test_device_tree_lists_everything(build: Builder) -> None:
    machine = build(leave(0), append="test=blk order=be,le")
    tree = fdt.parse_dtb(machine.fdt)
    assert tree.get_property("bootargs", "/chosen").value == "test=blk order=be,le"
    stdout = tree.get_property("stdout-path", "/chosen").value
    assert tree.get_property("compatible", stdout).value == "ppc64emu,console"
    assert list(tree.get_property("reg", "/memory@0").data) == [0, 0, 0, 16 * MIB]
    slots = [node for node in tree.root.nodes if node.name.startswith("virtio_mmio@")]
    assert len(slots) == layout.SLOT_COUNT
    for slot, node in enumerate(slots):
        address = layout.slot_address(slot)
        assert node.name == f"virtio_mmio@{address:x}"
        assert list(node.get_property("reg").data) == [
            address >> 32, address & 0xFFFFFFFF, 0, 0x200,
        ]  # fmt: skip
        assert node.get_property("interrupts").value == slot
    phandle = tree.get_property("phandle", f"/interrupt-controller@{INTC:x}").value
    assert tree.get_property("interrupt-parent", "/").value == phandle


def test_radix_translation(build: Builder, program: Program) -> None:
    """Effective 0 is real 0, and effective 1 GiB is the board's page: print through it."""
    root, process_table = 0x800000, 0x810000
    level = [0x820000, 0x830000]
    machine = build(
        store(CONTROL + TABLE_HIGH, 0), store(CONTROL + TABLE_LOW, process_table),
        store(CONTROL + TABLE_SIZE, 16), store(CONTROL + TRANSLATION, 2),
        asm.li64(9, MSR_SF | MSR_ME | 0x30), asm.mtmsrd(9), asm.ISYNC,
        asm.li64(10, 1 << 30), asm.li(11, 6), asm.stw(11, 10, 8), SPIN,
        cpu="power9",
    )  # fmt: skip
    valid, leaf, rights = 1 << 63, 1 << 62, 0x18F

    def entry(address: int, *values: int) -> None:
        machine.ram.write(address, struct.pack(f">{len(values)}Q", *values))

    entry(process_table, 2 << 61 | 5 << 5 | root | 13)
    entry(root, valid | level[0] | 9)
    entry(level[0], valid | leaf | rights, valid | level[1] | 9)
    entry(level[1], valid | leaf | layout.BOARD_BASE | 2 << 4 | rights)
    assert program.run() == 6


@pytest.mark.parametrize(
    ("mode", "table", "shift"),
    [
        (1, 0x800000, 17),
        (1, 0x1000, 18),
        (1, 16 * MIB, 18),
        (2, 0x1000, 12),
        (3, 0, 18),
        (1, 0, 99),
    ],
)
def test_impossible_tables_are_refused(build: Builder, mode: int, table: int, shift: int) -> None:
    machine = build(leave(0))  # power8: no radix
    for register, value in (
        (TABLE_HIGH, table >> 32), (TABLE_LOW, table & 0xFFFFFFFF), (TABLE_SIZE, shift),
        (TRANSLATION, mode),
    ):  # fmt: skip
        machine.control.mmio_write(register, value.to_bytes(4, "big"))
    assert machine.control.mmio_read(TRANSLATION, 4) == bytes(4)
    assert machine.partition.record["hpt"] == 0
    assert not machine.partition.record["radix"]


def test_interrupt_order_is_the_guests_choice(build: Builder) -> None:
    machine = build(leave(0))
    machine.control.mmio_write(0x10, b"\0\0\0\1")
    assert machine.vcpus[0].spr(Spr.LPCR) & LPCR_ILE
    machine.reset()
    assert not machine.vcpus[0].spr(Spr.LPCR) & LPCR_ILE


class Pipe:
    """A channel whose reads give what was written."""

    has_return_path = False

    def __init__(self) -> None:
        self._data = bytearray()

    def write(self, data: Buffer) -> None:
        self._data += data

    def read(self, size: int) -> bytes:
        data = bytes(self._data[:size])
        del self._data[:size]
        return data

    def read_into(self, views: Sequence[memoryview]) -> int:
        raise AssertionError("there are no pages here")


def save(machine: VirtmmioMachine, pipe: Pipe) -> None:
    writer = StreamWriter(pipe)
    for component in machine.components():
        if component.prepare is not None:
            component.prepare()
        component.description.save(writer, component.target)
    writer.flush()


def load(machine: VirtmmioMachine, pipe: Pipe) -> None:
    reader = StreamReader(pipe)
    components = machine.components()
    for component in components:
        component.description.load(reader, component.target, component.description.version)
    for component in components:
        if component.check is not None:
            component.check()
    for component in components:
        if component.resume is not None:
            component.resume()


def test_board_state_moves_to_another_machine(build: Builder, program: Program) -> None:
    """Save every section on one board, load them into another: lines, tables, input, order."""
    machine = build(leave(0))
    machine.intc.set_line(4, True)
    machine.intc.mmio_write(4, b"\0\0\0\x10")
    machine.console.input = b"waits"
    for register, value in ((TABLE_LOW, 0x800000), (TABLE_SIZE, 18), (TRANSLATION, 1)):
        machine.control.mmio_write(register, value.to_bytes(4, "big"))
    machine.control.mmio_write(TABLE_LOW, b"\0\0\0\1")
    pipe = Pipe()
    save(machine, pipe)
    machine.reset()
    machine.intc.set_line(4, False)
    machine.console.input = b""
    load(machine, pipe)
    assert (machine.intc.pending, machine.intc.enabled) == (1 << 4, 1 << 4)
    assert machine.vcpus[0].record["external_level"] == 1
    assert machine.console.input == b"waits"
    assert machine.control.written == (1, 18)
    assert machine.control.selected == (1, 0x800000, 18)
    assert machine.partition.record["hpt"] == machine.ram.address + 0x800000
