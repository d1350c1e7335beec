"""The virtmmio machine: bare-metal images in both byte orders, its devices, its device tree."""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import fdt
import pytest

from devices.host import DeviceHost
from devices.virtio.constants import VirtioId
from devices.virtio.device import VirtioDevice
from devices.virtio.mmio import Register
from devices.virtio.mmio_slots import MmioDevice, assign_slots, parse_bus
from emu.chardev.config import ConfigError
from emu.chardev.memory import MemoryChardev
from emu.cpu.isa import LPCR_ILE, MSR_EE, MSR_LE, MSR_ME, MSR_SF, Spr
from emu.events import EventLoop
from emu.memory.endian import GuestEndian
from emu.migration.stream import Buffer, StreamReader, StreamWriter
from firmware.errors import ImageError
from machines.virtmmio import layout
from machines.virtmmio.control import TABLE_HIGH, TABLE_LOW, TABLE_SIZE, TRANSLATION
from machines.virtmmio.machine import VirtmmioMachine, VirtmmioOptions, check_ram_size
from tests.support import asm
from tests.support.asm import Code, assemble

MIB = 1 << 20
SECONDS = 30.0
CONSOLE, EXIT, RESET = layout.BOARD_BASE, layout.BOARD_BASE + 8, layout.BOARD_BASE + 12
INTC = layout.BOARD_BASE + layout.INTC_OFFSET
CONTROL = layout.BOARD_BASE + layout.CONTROL_OFFSET
EXTERNAL, SYSTEM_CALL = 0x500, 0xC00
SPIN = asm.b(0)


class Program:
    """What surrounds the machine: posted work, and the run loop on the test's thread."""

    def __init__(self) -> None:
        self.loop = EventLoop()
        self.posted: list[Callable[[], None]] = []
        self.status: int | None = None
        self.panic: str | None = None
        self.resets = 0
        self.board: VirtmmioMachine | None = None
        self.over = False

    def request_exit(self, status: int) -> None:
        self.status, self.over = status, True

    def request_shutdown(self) -> None:
        self.over = True

    def request_reset(self) -> None:
        self.resets += 1
        self.post(self._reset)

    def _reset(self) -> None:
        assert self.board is not None
        self.board.reset()

    def guest_panicked(self, message: str) -> None:
        self.panic, self.over = message, True

    def unknown_hypercall(self, number: int) -> None:
        raise AssertionError(number)

    def is_ending(self) -> bool:
        return self.over

    def post(self, work: Callable[[], None]) -> None:
        self.posted.append(work)
        if self.board is not None:
            self.board.vcpus[0].kick()

    def run(self) -> int | None:
        """Until the image ends; its exit status."""
        assert self.board is not None
        board = self.board
        board.partition.start_clock()
        deadline = threading.Timer(SECONDS, lambda: self.post(self.request_shutdown))
        deadline.start()
        try:
            while not self.over:
                if self.posted:
                    self.posted.pop(0)()
                else:
                    board.run(board.vcpus[0])
        finally:
            deadline.cancel()
            board.flush_consoles(5)
        return self.status


Build = Callable[..., VirtmmioMachine]


@pytest.fixture
def program() -> Program:
    return Program()


@pytest.fixture
def console() -> MemoryChardev:
    return MemoryChardev()


@pytest.fixture
def build(program: Program, console: MemoryChardev, tmp_path: Path) -> Iterator[Build]:
    """Makes a machine from code at 0x100 (big-endian), and code at vectors."""

    def make(
        *code: Code, vectors: dict[int, Code] | None = None, **more: object
    ) -> VirtmmioMachine:
        path = tmp_path / "image.bin"
        path.write_bytes(image(code, vectors or {}))
        return start(bios=str(path), **more)

    def start(**options: object) -> VirtmmioMachine:
        settings = {"ram_size": 16 * MIB, "console": console} | options
        machine = VirtmmioMachine(VirtmmioOptions(**settings), program)  # type: ignore[arg-type]
        program.board = machine
        return machine

    make.start = start  # type: ignore[attr-defined]
    yield make
    if program.board is not None:
        program.board.close()


def image(code: Code, vectors: dict[int, Code]) -> bytes:
    """A raw image: a branch at 0x100 to the code at 0x2000."""
    data = bytearray(0x2000)
    data[0x100:0x104] = assemble(asm.b(0x1F00))
    for vector, handler in vectors.items():
        words = assemble(handler)
        data[vector : vector + len(words)] = words
    return bytes(data) + assemble(code)


def store(address: int, value: int, width: Literal[1, 4] = 4) -> Code:
    """Store a constant; uses r10 and r11."""
    write = asm.stb if width == 1 else asm.stw
    return [asm.li64(10, address), asm.li64(11, value), write(11, 10)]


def put(text: str) -> Code:
    """Print on the console."""
    return [asm.li64(10, CONSOLE), [[asm.li(11, byte), asm.stb(11, 10)] for byte in text.encode()]]


def leave(status: int) -> Code:
    """End with a status; in either byte order the word on the bus is big-endian."""
    return [store(EXIT, status), SPIN]


def test_image_prints_a_line_and_exits_with_its_status(
    build: Build, program: Program, console: MemoryChardev
) -> None:
    build(put("hello\n"), leave(42))
    assert program.run() == 42
    assert console.transcript == b"hello\n"


def test_exit_status_is_the_low_byte(build: Build, program: Program) -> None:
    build(leave(0x1234))
    assert program.run() == 0x34


def test_entry_state(build: Build, program: Program) -> None:
    """Real mode, big-endian, r3 = device tree, in RAM, as the machine shows it."""
    machine = build(leave(0))
    vcpu = machine.vcpus[0]
    assert vcpu.msr == MSR_SF | MSR_ME
    assert vcpu.pc == 0x100
    tree = machine.ram.read(vcpu.gpr(3), len(machine.fdt))
    assert tree == machine.fdt
    assert tree[:4] == b"\xd0\x0d\xfe\xed"
    assert not vcpu.spr(Spr.LPCR) & LPCR_ILE


@pytest.mark.parametrize("little", [False, True])
def test_elf_is_entered_where_it_is_linked_in_its_own_order(
    build: Build, program: Program, tmp_path: Path, little: bool
) -> None:
    path = tmp_path / "image.elf"
    status = 7 if not little else int.from_bytes((7).to_bytes(4, "big"), "little")
    path.write_bytes(elf(0x123400, assemble(leave(status), little=little), little))
    machine: VirtmmioMachine = build.start(kernel=str(path))  # type: ignore[attr-defined]
    assert machine.vcpus[0].pc == 0x123400
    assert bool(machine.vcpus[0].msr & MSR_LE) is little
    assert bool(machine.vcpus[0].spr(Spr.LPCR) & LPCR_ILE) is little
    assert program.run() == 7


def elf(address: int, code: bytes, little: bool) -> bytes:
    """A program of one segment that starts at its beginning (ELFv2)."""
    order = "<" if little else ">"
    ident = b"\x7fELF" + bytes([2, 1 if little else 2, 1]) + bytes(9)
    header = struct.pack(f"{order}HHIQQQIHHHHHH", 2, 21, 1, address, 64, 0, 2, 64, 56, 1, 0, 0, 0)
    segment = struct.pack(f"{order}IIQQQQQQ", 1, 5, 120, address, address, len(code), len(code), 1)
    return ident + header + segment + code


def test_hypercalls_do_not_exist(build: Build, program: Program) -> None:
    build(asm.li64(3, 0x58), asm.EXIT, asm.li64(10, EXIT), asm.stw(3, 10), SPIN)
    assert program.run() == 0xFE  # H_FUNCTION, -2


def test_system_call_goes_to_its_vector(build: Build, program: Program) -> None:
    build(asm.SC, leave(1), vectors={SYSTEM_CALL: asm.b(0x3000 - SYSTEM_CALL)})
    assert program.board is not None
    program.board.ram.write(0x3000, assemble(leave(5)))
    assert program.run() == 5


def test_checkstop_is_a_panic(build: Build, program: Program) -> None:
    """Instructions fetched from a device, with MSR[ME] clear."""
    build(
        asm.li64(9, MSR_SF), asm.mtmsrd(9), asm.li64(10, CONSOLE), asm.mtctr(10), asm.BCTR
    )  # fmt: skip
    assert program.run() is None
    assert program.panic is not None
    assert "checkstop" in program.panic


# Console


def test_console_input_by_polling(build: Build, program: Program, console: MemoryChardev) -> None:
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
    build: Build, program: Program, console: MemoryChardev
) -> None:
    machine = build(leave(0))
    console.send(b"x" * 5000)
    taken = b""
    while machine.console.mmio_read(4, 1) == b"\1":
        taken += machine.console.mmio_read(5, 1)
    assert taken == b"x" * 5000
    assert machine.console.mmio_read(5, 1) == b"\0"


def test_console_without_chardev(build: Build, program: Program) -> None:
    build(put("nobody reads this"), leave(3), console=None)
    assert program.run() == 3


# Interrupts


def test_interrupt_line_reaches_the_vector(
    build: Build, program: Program, console: MemoryChardev
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


def test_disabled_line_does_not_interrupt(build: Build, program: Program) -> None:
    machine = build(
        asm.li64(9, MSR_SF | MSR_EE), asm.mtmsrd(9), asm.NOP, asm.NOP, leave(9),
        vectors={EXTERNAL: asm.b(0x2800 - EXTERNAL)},
    )  # fmt: skip
    machine.intc.set_line(3, True)
    assert program.run() == 9


def test_enabling_a_pending_line_interrupts_at_once(build: Build, program: Program) -> None:
    machine = build(
        asm.li64(9, MSR_SF | MSR_EE), asm.mtmsrd(9), store(INTC + 4, 1 << 3), SPIN,
        vectors={EXTERNAL: asm.b(0x3000 - EXTERNAL)},
    )  # fmt: skip
    machine.ram.write(0x3000, assemble(leave(11)))
    machine.intc.set_line(3, True)
    assert program.run() == 11


def test_intc_registers_are_big_endian_words(build: Build) -> None:
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


# Virtio slots


class Config(VirtioDevice):
    """A device with four bytes of configuration and no queue that matters."""

    DEVICE_ID: ClassVar[VirtioId] = VirtioId.RNG

    def __init__(self, name: str, host: DeviceHost) -> None:
        super().__init__(name, host, [4])
        self.latches: list[GuestEndian] = []
        self.closed = False

    def config_space(self, endian: GuestEndian) -> bytes:
        return (0x01020304).to_bytes(4, endian.order)

    def on_reset(self) -> None:
        self.latches.append(self.latched_endian)

    def close(self) -> None:
        self.closed = True


def attach_one(kept: list[Config], **more: object) -> Callable[[DeviceHost], Sequence[MmioDevice]]:
    def attach(host: DeviceHost) -> Sequence[MmioDevice]:
        kept.append(Config("config", host))
        return [MmioDevice(kept[0], **more)]  # type: ignore[arg-type]

    return attach


def in_little_endian(*code: Code) -> Code:
    """Big-endian code that runs ``code`` with MSR[LE] set: place it at 0x2000."""
    body = assemble(code, little=True)
    switch = [
        asm.li64(9, 0x2000 + 4 * 14), asm.mtspr(Spr.SRR0, 9),
        asm.li64(9, MSR_SF | MSR_ME | MSR_LE), asm.mtspr(Spr.SRR1, 9), asm.RFID, asm.NOP,
    ]  # fmt: skip
    assert len(assemble(switch)) == 4 * 14
    return [switch, list(struct.unpack(f">{len(body) // 4}I", body))]


@pytest.mark.parametrize("register", [Register.STATUS, Register.QUEUE_PFN])
@pytest.mark.parametrize("little", [False, True])
def test_guest_reset_latches_the_order_of_the_cpu(
    build: Build, program: Program, little: bool, register: Register
) -> None:
    """The image resets the device and exits with the first byte of its configuration."""
    kept: list[Config] = []
    slot = layout.slot_address(0)
    # The exit register takes the low byte of a big-endian word.
    code = [
        store(slot + register, 0),
        asm.li64(10, slot + Register.CONFIG), asm.lbz(4, 10), asm.rotldi(4, 4, 24 * little),
        asm.li64(10, EXIT), asm.stw(4, 10), SPIN,
    ]  # fmt: skip
    build(in_little_endian(code) if little else code, attach=attach_one(kept))
    assert kept[0].latches == [GuestEndian.BIG]
    assert program.run() == (4 if little else 1)
    assert kept[0].latches[-1] is (GuestEndian.LITTLE if little else GuestEndian.BIG)


def test_machine_reset_makes_devices_big_again(build: Build, program: Program) -> None:
    """A little-endian image resets device, then machine; before the second reset it leaves."""
    kept: list[Config] = []
    slot = layout.slot_address(0)
    code = [store(slot + Register.STATUS, 0), store(RESET, 1), SPIN]
    machine = build(in_little_endian(code), attach=attach_one(kept))
    reset = program._reset

    def reset_once() -> None:
        reset()
        program.over = True

    program._reset = reset_once  # type: ignore[method-assign]
    program.run()
    assert program.resets == 1
    assert kept[0].latches == [GuestEndian.BIG, GuestEndian.LITTLE, GuestEndian.BIG]
    assert machine.vcpus[0].pc == 0x100
    assert machine.current_endian() is GuestEndian.BIG


@pytest.mark.parametrize("legacy", [True, False])
def test_slots_hold_devices_or_nothing(build: Build, program: Program, legacy: bool) -> None:
    kept: list[Config] = []
    machine = build(leave(0), attach=attach_one(kept, legacy=legacy, slot=5))

    def word(slot: int, register: int) -> int:
        found = machine.partition.bus.find(layout.slot_address(slot) + register, 4)
        assert found is not None
        window, offset = found
        return int.from_bytes(window.handler.mmio_read(offset, 4), "little")

    ids = [word(slot, Register.DEVICE_ID) for slot in range(layout.SLOT_COUNT)]
    assert ids == [VirtioId.RNG if slot == 5 else 0 for slot in range(layout.SLOT_COUNT)]
    assert word(5, Register.VERSION) == (1 if legacy else 2)
    assert word(6, Register.MAGIC_VALUE) == word(5, Register.MAGIC_VALUE)


def test_device_interrupt_is_its_slots_line(build: Build, program: Program) -> None:
    kept: list[Config] = []
    machine = build(leave(0), attach=attach_one(kept, slot=7))
    machine.slots.transports[7].notify_queue(0)
    assert machine.intc.pending == 1 << 7
    machine.reset()
    assert machine.intc.pending == 0


def test_devices_without_slot_take_the_lowest_free(build: Build) -> None:
    machine = build(leave(0))
    devices = [Config(name, machine) for name in "abcd"]
    wanted = [None, 1, None, 0]
    assigned = assign_slots(
        [MmioDevice(device, slot=slot) for device, slot in zip(devices, wanted, strict=True)], 4
    )
    assert {slot: entry.device.name for slot, entry in assigned.items()} == {
        0: "d", 1: "b", 2: "a", 3: "c",
    }  # fmt: skip


def test_impossible_slots_are_told_in_one_line(build: Build) -> None:
    machine = build(leave(0))
    a, b = Config("a", machine), Config("b", machine)
    for entries, text in (
        ([MmioDevice(a, slot=1), MmioDevice(b, slot=1)], "b: bus virtio-mmio-bus.1 is taken by a"),
        ([MmioDevice(a, slot=2)], "a: there is no bus virtio-mmio-bus.2"),
        ([MmioDevice(a), MmioDevice(b), MmioDevice(a)], "a: no free virtio-mmio slot"),
    ):
        with pytest.raises(ConfigError, match=text):
            assign_slots(entries, 2)
    assert parse_bus("virtio-mmio-bus.31", 32) == 31
    for bus in ("virtio-mmio-bus.32", "pci.0", "virtio-mmio-bus", "virtio-mmio-bus.x"):
        with pytest.raises(ConfigError, match="not found"):
            parse_bus(bus, 32)


def test_close_closes_devices(build: Build, program: Program) -> None:
    kept: list[Config] = []
    build(leave(0), attach=attach_one(kept)).close()
    program.board = None
    assert kept[0].closed


# What else the board has


def test_device_tree_lists_everything(build: Build) -> None:
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


def test_radix_translation(build: Build, program: Program) -> None:
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
def test_impossible_tables_are_refused(build: Build, mode: int, table: int, shift: int) -> None:
    machine = build(leave(0))  # power8: no radix
    for register, value in (
        (TABLE_HIGH, table >> 32), (TABLE_LOW, table & 0xFFFFFFFF), (TABLE_SIZE, shift),
        (TRANSLATION, mode),
    ):  # fmt: skip
        machine.control.mmio_write(register, value.to_bytes(4, "big"))
    assert machine.control.mmio_read(TRANSLATION, 4) == bytes(4)
    assert machine.partition.record["hpt"] == 0
    assert not machine.partition.record["radix"]


def test_interrupt_order_is_the_guests_choice(build: Build) -> None:
    machine = build(leave(0))
    machine.control.mmio_write(0x10, b"\0\0\0\1")
    assert machine.vcpus[0].spr(Spr.LPCR) & LPCR_ILE
    machine.reset()
    assert not machine.vcpus[0].spr(Spr.LPCR) & LPCR_ILE


@pytest.mark.parametrize("size", [15 * MIB, 16 * MIB + 65536, 1 << 40, 0])
def test_impossible_ram(size: int) -> None:
    with pytest.raises(ConfigError, match="virtmmio machine is a multiple of 1 MiB"):
        check_ram_size(size)


def test_unusable_images(build: Build, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(0x200))
    start = build.start  # type: ignore[attr-defined]
    for options, text in (
        ({}, "nothing to boot"),
        ({"kernel": str(raw), "bios": str(raw)}, "not both"),
        ({"kernel": str(raw)}, "not an ELF file"),
        ({"kernel": str(raw), "initrd": "x"}, "no initrd"),
        ({"bios": str(tmp_path / "missing")}, "missing"),
    ):
        with pytest.raises(ImageError, match=text):
            start(**options)


def test_machine_reset_starts_from_a_clean_image(
    build: Build, program: Program, console: MemoryChardev
) -> None:
    """The image counts in its own memory and asks for a reset; after it the count is 0 again."""
    build(put("a"), store(RESET, 0), SPIN)
    started = time.monotonic()
    original = program._reset

    def reset() -> None:
        original()
        if program.resets == 3:
            program.over = True

    program._reset = reset  # type: ignore[method-assign]
    program.run()
    assert console.transcript == b"aaa"
    assert time.monotonic() - started < SECONDS


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


def test_board_state_moves_to_another_machine(build: Build, program: Program) -> None:
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


@pytest.mark.parametrize("status", [0, 42])
def test_command_line(tmp_path: Path, status: int) -> None:
    """The whole program: the console on standard output, the image's status as its own."""
    path = tmp_path / "image.bin"
    path.write_bytes(image([put("hello\n"), leave(status)], {}))
    command = [sys.executable, "-m", "emu", "-M", "virtmmio", "-m", "16", "-nographic"]
    result = subprocess.run(
        [*command, "-bios", str(path), "-device", "virtio-rng-device"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.stdout.replace("\r", "") == "hello\n"
    assert result.returncode == status, result.stderr
