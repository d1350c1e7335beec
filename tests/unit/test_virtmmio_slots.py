"""Virtio slots of the virtmmio machine: the latch, by CPUs of both orders; who sits where."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import ClassVar

import pytest

from devices.host import DeviceHost
from devices.virtio.constants import VirtioId
from devices.virtio.device import VirtioDevice
from devices.virtio.mmio import Register
from devices.virtio.mmio_slots import MmioDevice, assign_slots, parse_bus
from emu.chardev.config import ConfigError
from emu.chardev.memory import MemoryChardev
from emu.cpu.isa import MSR_LE, MSR_ME, MSR_SF, Spr
from emu.memory.endian import GuestEndian
from machines.virtmmio import layout
from tests.support import asm
from tests.support.asm import Code, assemble
from tests.unit.virtmmio_tools import (
    EXIT,
    RESET,
    SPIN,
    Builder,
    Program,
    leave,
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
    build: Builder, program: Program, little: bool, register: Register
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


def test_machine_reset_makes_devices_big_again(build: Builder, program: Program) -> None:
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
def test_slots_hold_devices_or_nothing(build: Builder, program: Program, legacy: bool) -> None:
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


def test_device_interrupt_is_its_slots_line(build: Builder, program: Program) -> None:
    kept: list[Config] = []
    machine = build(leave(0), attach=attach_one(kept, slot=7))
    machine.slots.transports[7].notify_queue(0)
    assert machine.intc.pending == 1 << 7
    machine.reset()
    assert machine.intc.pending == 0


def test_devices_without_slot_take_the_lowest_free(build: Builder) -> None:
    machine = build(leave(0))
    devices = [Config(name, machine) for name in "abcd"]
    wanted = [None, 1, None, 0]
    assigned = assign_slots(
        [MmioDevice(device, slot=slot) for device, slot in zip(devices, wanted, strict=True)], 4
    )
    assert {slot: entry.device.name for slot, entry in assigned.items()} == {
        0: "d", 1: "b", 2: "a", 3: "c",
    }  # fmt: skip


def test_impossible_slots_are_told_in_one_line(build: Builder) -> None:
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


def test_close_closes_devices(build: Builder, program: Program) -> None:
    kept: list[Config] = []
    build(leave(0), attach=attach_one(kept)).close()
    program.board = None
    assert kept[0].closed
