"""Device windows: what reaches a handler, byte for byte."""

from __future__ import annotations

from typing import Literal

import pytest

from emu.cpu.isa import MSR_DR, MSR_IR, MSR_LE
from emu.cpu.record import ExitReason
from emu.cpu.vcpu import Vcpu
from emu.memory.bus import MmioWindow
from emu.memory.endian import GuestEndian
from tests.support import asm
from tests.support.bare import CODE, BareMachine
from tests.support.paging import KERNEL, SHIFT_4K, HashTable, Page, Segment, map_all, set_slb

BASE = 1 << 40
PATTERN = bytes(range(0x10, 0x20))
VALUE = 0x1122334455667788
CACHE_INHIBITED = Page(g=True)


class Recorder:
    """Registers that hold PATTERN and note what is written."""

    def __init__(self) -> None:
        self.reads: list[tuple[int, int]] = []
        self.writes: list[tuple[int, bytes]] = []
        self.error: Exception | None = None
        self.endians: list[GuestEndian] = []
        self.vcpu: Vcpu | None = None

    def mmio_read(self, offset: int, size: int) -> bytes:
        self.reads.append((offset, size))
        if self.error is not None:
            raise self.error
        return PATTERN[offset : offset + size]

    def mmio_write(self, offset: int, data: bytes) -> None:
        self.writes.append((offset, data))
        if self.vcpu is not None:
            self.endians.append(self.vcpu.guest_endian)
        if self.error is not None:
            raise self.error


@pytest.fixture
def device(machine: BareMachine) -> Recorder:
    recorder = Recorder()
    recorder.vcpu = machine.vcpu
    machine.partition.add_mmio(MmioWindow(BASE, 0x1000, recorder, "recorder"))
    machine.vcpu.set_gpr(10, BASE)
    machine.vcpu.set_gpr(4, VALUE)
    return recorder


STORES = {1: asm.stb(4, 10), 2: asm.sth(4, 10), 4: asm.stw(4, 10), 8: asm.std(4, 10)}
LOADS = {1: asm.lbz(5, 10), 2: asm.lhz(5, 10), 4: asm.lwz(5, 10), 8: asm.ld(5, 10)}


@pytest.mark.parametrize("little", [False, True])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_a_handler_gets_the_bytes_on_the_bus(
    machine: BareMachine, device: Recorder, little: bool, size: int
) -> None:
    machine.vcpu.msr |= MSR_LE if little else 0
    machine.execute(STORES[size])
    order: Literal["little", "big"] = "little" if little else "big"
    on_bus = (VALUE & ((1 << 8 * size) - 1)).to_bytes(size, order)
    if size == 8:
        assert device.writes == [(0, on_bus[:4]), (4, on_bus[4:])]
    else:
        assert device.writes == [(0, on_bus)]
    assert set(device.endians) == {GuestEndian.LITTLE if little else GuestEndian.BIG}


@pytest.mark.parametrize("little", [False, True])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_the_guest_gets_the_bytes_of_a_handler(
    machine: BareMachine, device: Recorder, little: bool, size: int
) -> None:
    machine.vcpu.msr |= MSR_LE if little else 0
    machine.execute(LOADS[size])
    expected = int.from_bytes(PATTERN[:size], "little" if little else "big")
    assert machine.vcpu.gpr(5) == expected
    assert device.reads == ([(0, 4), (4, 4)] if size == 8 else [(0, size)])


@pytest.mark.parametrize("little", [False, True])
def test_byte_reversed_stores_reverse(machine: BareMachine, device: Recorder, little: bool) -> None:
    machine.vcpu.msr |= MSR_LE if little else 0
    machine.execute(asm.stwbrx(4, 0, 10))
    assert device.writes == [(0, (VALUE & 0xFFFFFFFF).to_bytes(4, "big" if little else "little"))]


def test_offsets_count_from_the_window(machine: BareMachine, device: Recorder) -> None:
    machine.execute(asm.lbz(5, 10, 3), asm.lhz(6, 10, 6), asm.stb(4, 10, 0x7FF))
    assert device.reads == [(3, 1), (6, 2)]
    assert device.writes == [(0x7FF, b"\x88")]


def test_a_translated_window_behaves_alike(machine: BareMachine, device: Recorder) -> None:
    table = map_all(machine, radix=False)
    assert isinstance(table, HashTable)
    machine.tables = table
    segment = Segment(0xD0000000_00000000, 0x9999, SHIFT_4K)
    set_slb(machine.vcpu, 7, segment)
    table.insert(segment, segment.ea + 0x5000, BASE, CACHE_INHIBITED)
    machine.vcpu.msr |= MSR_IR | MSR_DR
    machine.vcpu.set_gpr(10, segment.ea + 0x5000)
    machine.execute(asm.lwz(5, 10, 4), asm.stw(5, 10, 8))
    assert device.reads == [(4, 4)]
    assert device.writes == [(8, PATTERN[4:8])]


def test_windows_added_before_the_vcpu_are_mapped(machine: BareMachine, device: Recorder) -> None:
    other = Vcpu(machine.partition, 1, "power8")
    machine.load(CODE, asm.lbz(5, 10))
    other.set_gpr(10, BASE)
    other.pc = CODE
    assert other.run() is ExitReason.HYPERCALL
    assert device.reads == [(0, 1)]
    assert other.gpr(5) == PATTERN[0]


@pytest.mark.parametrize("access", [asm.lwz(5, 10), asm.stw(4, 10)])
def test_an_error_of_a_handler_comes_out_of_run(
    machine: BareMachine, device: Recorder, access: int
) -> None:
    device.error = RuntimeError("device on fire")
    machine.load(CODE, access, asm.b(0))
    machine.vcpu.pc = CODE
    with pytest.raises(RuntimeError, match="device on fire"):
        machine.run()
    device.error = None
    machine.execute(asm.li(6, 1))
    assert machine.vcpu.gpr(6) == 1


def test_a_load_whose_handler_fails_reads_ones(machine: BareMachine, device: Recorder) -> None:
    device.error = KeyError("missing")
    machine.load(CODE, asm.lwz(5, 10), asm.b(0))
    machine.vcpu.pc = CODE
    with pytest.raises(KeyError):
        machine.run()
    assert machine.vcpu.gpr(5) == 0xFFFFFFFF


def test_code_in_a_window_is_a_machine_check(machine: BareMachine, device: Recorder) -> None:
    taken = machine.interrupt(asm.mtctr(10), asm.BCTR)
    assert (taken.vector, taken.srr0) == (0x200, BASE)
    assert device.reads == []


def test_a_dcbz_on_a_window_is_a_run_of_stores(machine: BareMachine, device: Recorder) -> None:
    machine.execute(asm.dcbz(0, 10))
    assert b"".join(data for _, data in device.writes) == bytes(128)


def test_the_relocated_kernel_address_is_not_the_window(
    machine: BareMachine, device: Recorder
) -> None:
    machine.tables = map_all(machine, radix=False)
    machine.vcpu.msr |= MSR_IR | MSR_DR
    machine.vcpu.set_gpr(10, KERNEL + BASE)
    assert machine.interrupt(asm.lwz(5, 10)).vector == 0x380
    assert device.reads == []
