"""int, mmu and irq: each interrupt, fault and flush once, with the right numbers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from emu.cpu.isa import (
    LPCR_AIL_SHIFT,
    LPCR_ILE,
    MSR_DR,
    MSR_EE,
    MSR_IR,
    MSR_ME,
    MSR_SF,
    Spr,
)
from emu.cpu.record import ExitReason
from emu.cpu.vcpu import Vcpu
from emu.trace.lines import VECTORS, vector_name
from emu.trace.record import Item
from emu.trace.symbols import Symbol
from machines.pseries import dispatch
from machines.pseries.papr import HcallNumber
from tests.support import asm
from tests.support.bare import CODE, H_DOUBLE, BareMachine
from tests.support.paging import HashTable, RadixTree, enter_problem_state, map_all
from tests.support.traced import traced

DECREMENT = [asm.li(3, -1), asm.mtspr(Spr.DEC, 3)]


def only(lines: list[str]) -> str:
    assert len(lines) == 1, lines
    return lines[0]


@pytest.mark.parametrize(
    ("code", "name", "vector", "at"),
    [
        ([asm.TRAP], "program", 0x700, CODE),
        ([asm.ILLEGAL], "program", 0x700, CODE),
        ([asm.SC], "system call", 0xC00, CODE),
        ([asm.lfd(1, 2)], "floating-point unavailable", 0x800, CODE),
        ([asm.NOP, asm.vadduwm(1, 2, 3)], "vector unavailable", 0xF20, CODE + 4),
        ([asm.xxlxor(1, 2, 3)], "VSX unavailable", 0xF40, CODE),
        ([*asm.li64(4, 1 << 40), asm.ld(3, 4)], "machine check", 0x200, CODE + 20),
    ],
)
def test_each_interrupt_is_one_line(
    machine: BareMachine, code: list[int], name: str, vector: int, at: int
) -> None:
    with traced(machine, Item.INT) as trace:
        taken = machine.interrupt(*code)
        line = only(trace.lines())
    assert taken.vector == vector
    assert line.startswith(
        f"int: {name} ({vector:#x}) at {at:#018x} MSR {MSR_SF | MSR_ME:016x} (BE) -> {vector:#018x}"
    )


def test_addresses_have_names(machine: BareMachine) -> None:
    symbols = [Symbol(CODE, CODE + 8, "user"), Symbol(0x700, 0x800, "program_check")]
    with traced(machine, Item.INT, symbols=symbols) as trace:
        machine.interrupt(asm.NOP, asm.TRAP)
        line = only(trace.lines())
    assert " at 0x0000000000010004 <user+0x4> MSR" in line
    assert " -> 0x0000000000000700 <program_check> MSR" in line


def test_little_endian_and_problem_state_are_told(machine: BareMachine) -> None:
    machine.install_vectors(little=True)
    enter_problem_state(machine)
    machine.vcpu.set_spr(Spr.LPCR, machine.vcpu.spr(Spr.LPCR) | LPCR_ILE)
    with traced(machine, Item.INT) as trace:
        machine.interrupt(asm.SC)
        line = only(trace.lines())
    assert "(BE PR IR DR) -> " in line
    assert line.split(" -> ")[1].split("(")[1].startswith("LE)")


def test_system_calls_show_their_arguments(machine: BareMachine) -> None:
    with traced(machine, Item.INT) as trace:
        for register, value in ((0, 4), (3, 1), (4, 0xABC), (5, 7), (6, 0)):
            machine.vcpu.set_gpr(register, value)
        machine.interrupt(asm.SC)
        assert only(trace.lines()).endswith("r0 4 r3 0x1 r4 0xabc r5 0x7 r6 0x0")


def test_storage_interrupts_show_address_and_status(machine: BareMachine) -> None:
    machine.tables = map_all(machine, radix=False)
    machine.vcpu.msr = MSR_SF | MSR_ME | MSR_IR | MSR_DR
    with traced(machine, Item.INT | Item.MMU) as trace:
        machine.interrupt(asm.li64(4, 0xF000000), asm.std(3, 4))
        fault, interrupt = trace.lines()
    address = "0x000000000f000000"
    assert fault == f"mmu: store {address}, relocated, privileged: DSI DSISR 0x42000000"
    assert interrupt.startswith("int: data storage (0x300) at 0x0000000000010014")
    assert interrupt.endswith("DAR 0xf000000 DSISR 0x42000000")


@pytest.mark.parametrize(
    ("code", "line"),
    [
        ([asm.ld(3, 4)], "mmu: load 0x4000000000000000, relocated, problem state: DSEG"),
        ([asm.mtctr(4), asm.BCTR], "mmu: fetch 0x4000000000000000, relocated, problem state: ISEG"),
    ],
)
def test_faults_name_access_and_state(machine: BareMachine, code: list[int], line: str) -> None:
    enter_problem_state(machine)
    with traced(machine, Item.MMU) as trace:
        machine.interrupt(asm.li64(4, 1 << 62), code)
        assert only(trace.lines()).startswith(line)


def test_misses_that_are_filled_are_no_faults(machine: BareMachine) -> None:
    machine.tables = map_all(machine, radix=False)
    machine.vcpu.msr = MSR_SF | MSR_ME | MSR_IR | MSR_DR
    with traced(machine, Item.MMU) as trace:
        machine.vcpu.set_gpr(4, 0x30000)
        machine.execute(asm.ld(3, 4))
        assert trace.lines() == []


def test_asynchronous_interrupts_are_told(machine: BareMachine) -> None:
    machine.partition.start_clock()
    machine.vcpu.msr = machine.vcpu.msr | MSR_EE
    with traced(machine, Item.INT) as trace:
        assert machine.interrupt(DECREMENT, asm.b(0)).vector == 0x900
        line = only(trace.lines())
    assert line.startswith("int: decrementer (0x900) at 0x0000000000010008")


def test_hypercalls_and_what_is_emulated_are_no_interrupts(power9: BareMachine) -> None:
    machine = power9
    with traced(machine, Item.INT) as trace:
        machine.execute(asm.li64(3, H_DOUBLE), asm.EXIT)
        machine.execute(asm.li64(4, 5 << 27), asm.msgsndp(4))
        assert trace.lines() == []


def test_system_call_vectored_and_its_return(power9: BareMachine) -> None:
    machine = power9
    machine.vcpu.set_spr(Spr.FSCR, 1 << 12)
    with traced(machine, Item.INT) as trace:
        machine.interrupt(asm.SCV_0)
        line = only(trace.lines())
        assert line.startswith("int: system call vectored (0x3000) at 0x0000000000010000")
        code = asm.assemble(asm.RFSCV)
        machine.partition.dma.write(0x17000, code)
        machine.load(CODE, asm.SCV_0, asm.li(7, 9))
        machine.vcpu.pc = CODE
        machine.run()
        assert machine.vcpu.gpr(7) == 9
        only(trace.lines())


def test_an_emulated_instruction_that_fails_is_an_interrupt(power9: BareMachine) -> None:
    enter_problem_state(power9)
    with traced(power9, Item.INT) as trace:
        assert power9.interrupt(asm.RFSCV).vector == 0x700
        assert only(trace.lines()).startswith("int: program (0x700)")


def test_a_checkstop_is_no_interrupt(machine: BareMachine) -> None:
    machine.vcpu.msr = MSR_SF
    with traced(machine, Item.INT) as trace:
        machine.load(CODE, asm.li64(4, 1 << 40), asm.ld(3, 4))
        machine.vcpu.pc = CODE
        assert machine.run() is ExitReason.CHECKSTOP
        assert trace.lines() == []


def test_vectors_are_known_wherever_ail_puts_them(machine: BareMachine) -> None:
    assert vector_name(0xC000000000004300) == "data storage"
    assert vector_name(0x18500) == "external"
    assert vector_name(0xC000000000003000) == vector_name(0x17000) == "system call vectored"
    assert len(set(VECTORS.values())) == len(VECTORS)
    lpcr = machine.vcpu.spr(Spr.LPCR) | 3 << LPCR_AIL_SHIFT
    machine.vcpu.set_spr(Spr.LPCR, lpcr)
    machine.tables = map_all(machine, radix=False)
    machine.install_vectors(offset=0x4000)
    machine.vcpu.msr = MSR_SF | MSR_ME | MSR_IR | MSR_DR
    with traced(machine, Item.INT) as trace:
        machine.interrupt(asm.TRAP)
        assert "int: program (0x700)" in only(trace.lines())


@pytest.mark.parametrize(
    ("word", "text"),
    [(0x10000, "(page)"), (0x10000 | 1 << 10, "(set)"), (3 << 10, "(everything)")],
)
def test_tlbie_of_a_radix_guest(power9: BareMachine, word: int, text: str) -> None:
    map_all(power9, radix=True)
    with traced(power9, Item.MMU) as trace:
        power9.vcpu.set_spr(Spr.PID, 0)
        power9.execute(asm.li64(4, word), asm.li(5, 0), asm.tlbie(4, 5, r=1))
        assert trace.lines()[0] == f"mmu: tlbie RB {word:#x} {text}, PID 0"


def test_a_new_process_flushes(power9: BareMachine) -> None:
    map_all(power9, radix=True)
    with traced(power9, Item.MMU) as trace:
        power9.execute(asm.li(4, 5), asm.mtspr(Spr.PID, 4))
        assert "mmu: TLB flushed, PID 5" in trace.lines()


def test_flushes_do_what_they_do_untraced(power9: BareMachine) -> None:
    """A page that is gone after tlbie is gone with the trace on, too."""
    tree = map_all(power9, radix=True)
    assert isinstance(tree, RadixTree)
    power9.vcpu.msr = MSR_SF | MSR_ME | MSR_IR | MSR_DR
    with traced(power9, Item.MMU) as trace:
        power9.vcpu.set_gpr(6, 0x40000)
        power9.execute(asm.ld(7, 6))
        power9.partition.dma.write_u64_be(tree.root, 0)
        taken = power9.interrupt(
            asm.li64(4, 3 << 10), asm.li(5, 0), asm.tlbie(4, 5, ric=2, r=1), asm.PTESYNC,
            asm.ld(7, 6),
        )  # fmt: skip
        assert taken.vector in (0x300, 0x400)
        assert trace.lines("mmu: tlbie")


class Pair(BareMachine):
    """Two vCPUs."""

    def __init__(self) -> None:
        super().__init__("power8")
        self.other = Vcpu(self.partition, 1, "power8")


@pytest.fixture
def pair() -> Iterator[Pair]:
    machine = Pair()
    yield machine
    machine.close()


def test_with_several_vcpus_lines_carry_the_number(pair: Pair) -> None:
    with traced(pair, Item.INT | Item.EXEC | Item.IN_ASM) as trace:
        for vcpu in (pair.vcpu, pair.other):
            at = CODE + 0x1000 * vcpu.index
            pair.load(at, asm.TRAP)
            vcpu.pc = at
            vcpu.run()
        lines = trace.lines()
    for number in (0, 1):
        at = CODE + 0x1000 * number
        assert f"Trace {number}: {at:#018x}" in lines
        assert f"IN: CPU#{number} (big-endian)" in lines
        assert any(line.startswith(f"int: CPU#{number} program (0x700)") for line in lines)


def test_hash_table_and_interrupt_hypercalls_of_every_vcpu(pair: Pair) -> None:
    HashTable(pair)
    board = np.zeros(256, np.uint8)
    pair.partition.record["machine"] = board.ctypes.data
    pair.partition.record["hypercall"] = dispatch.hypercall.address
    with traced(pair, Item.MMU | Item.IRQ) as trace:
        for vcpu in (pair.vcpu, pair.other):
            at = CODE + 0x1000 * vcpu.index
            arguments = (HcallNumber.H_REMOVE, 0, 8 + vcpu.index, 0, 0)
            load = [asm.li64(register, value) for register, value in enumerate(arguments, 3)]
            pair.load(at, load, asm.EXIT, asm.li64(3, 0xF000), asm.EXIT)
            vcpu.pc = at
            assert vcpu.run() is ExitReason.HYPERCALL  # the last one, which nobody knows
        assert trace.lines() == [
            "mmu: CPU#0 H_REMOVE(0x0, 0x8, 0x0, 0x0) -> -7, r4 0x0",
            "mmu: CPU#1 H_REMOVE(0x0, 0x9, 0x0, 0x0) -> -7, r4 0x0",
        ]
        trace.items(Item.IRQ)
        pair.vcpu.pc = CODE
        pair.vcpu.run()
        assert trace.lines() == []
