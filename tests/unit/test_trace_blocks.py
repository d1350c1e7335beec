"""in_asm, exec and cpu: the right bytes in the right order, where wanted and nowhere else."""

from __future__ import annotations

import ctypes

import pytest

from emu.cpu import codegen, exceptions, layout, mmu, tlb, tlbie
from emu.cpu.isa import MSR_LE, Spr
from emu.cpu.probe import symbol_address
from emu.trace.attach import BLOCK_SLOTS, FLUSH_SLOTS, _slots
from emu.trace.record import Item
from emu.trace.symbols import Symbol
from tests.support import asm
from tests.support.bare import CODE, BareMachine, bare_hypercall, bare_machine
from tests.support.traced import Traced, traced

LOOP = [asm.li(4, 3), asm.mtctr(4), asm.li(5, 0), asm.addi(5, 5, 1), asm.bdnz(-4)]
BLOCK_ITEMS = [Item.IN_ASM, Item.EXEC, Item.CPU]


def switch_to_little(machine: BareMachine, target: int) -> None:
    """Put code at CODE that goes to little-endian code at ``target``."""
    le = [asm.mfmsr(4), 0x60840001, asm.mtspr(Spr.SRR1, 4)]
    machine.load(CODE, asm.li64(3, target), asm.mtspr(Spr.SRR0, 3), le, asm.RFID)
    machine.vcpu.pc = CODE


def again(machine: BareMachine) -> None:
    """Run what is at CODE once more: the code has not changed since."""
    machine.vcpu.pc = CODE
    machine.run()


def test_blocks_are_disassembled_once(machine: BareMachine) -> None:
    with traced(machine, Item.IN_ASM) as trace:
        machine.execute(LOOP)
        text = trace.text()
        machine.vcpu.pc = CODE
        machine.run()
        assert trace.text() == ""
    assert text.splitlines()[:8] == [
        "----------------",
        "IN: (big-endian)",
        "0x0000000000010000:  38800003  li r4, 3",
        "0x0000000000010004:  7c8903a6  mtctr r4",
        "0x0000000000010008:  38a00000  li r5, 0",
        "0x000000000001000c:  38a50001  addi r5, r5, 1",
        "0x0000000000010010:  4200fffc  bdnz 0x1000c",
        "",
    ]
    assert "0x0000000000010014:  44000022  sc 1\n" in text


def test_each_block_is_disassembled_in_the_order_it_runs_in(machine: BareMachine) -> None:
    machine.partition.dma.write(0x20000, asm.assemble(asm.li(6, 7), asm.EXIT, little=True))
    with traced(machine, Item.IN_ASM) as trace:
        switch_to_little(machine, 0x20000)
        machine.run()
        lines = trace.lines()
    assert machine.vcpu.gpr(6) == 7
    assert machine.vcpu.msr & MSR_LE
    big, little = lines.index("IN: (big-endian)"), lines.index("IN: (little-endian)")
    assert big < little
    assert lines[little - 3].endswith("4c000024  rfid")
    assert lines[little + 1] == "0x0000000000020000:  38c00007  li r6, 7"


def test_the_same_bytes_read_otherwise_in_the_other_order(machine: BareMachine) -> None:
    """One address, two orders: what Linux's entry does (tdi or a branch)."""
    both = 0x48000008  # b .+8; as little-endian 0x08000048, tdi 0,r0,72
    word = both.to_bytes(4, "little")
    machine.partition.dma.write(0x30000, word)
    machine.partition.dma.write(0x30004, asm.assemble(asm.EXIT))
    machine.partition.dma.write(0x30008, asm.assemble(asm.EXIT, little=True))
    with traced(machine, Item.IN_ASM, [(0x30000, 0x3000F)]) as trace:
        machine.vcpu.pc = 0x30000
        machine.run()
        machine.vcpu.msr = machine.vcpu.msr | MSR_LE
        machine.vcpu.pc = 0x30000
        machine.run()
        lines = trace.lines("0x0000000000030000")
    assert lines == [
        "0x0000000000030000:  08000048  tdi 0, r0, 0x48",
        "0x0000000000030000:  48000008  b 0x30008",
    ]


def test_words_that_are_no_instructions_are_data(machine: BareMachine) -> None:
    with traced(machine, Item.IN_ASM) as trace:
        machine.interrupt(asm.li(3, 1), asm.ILLEGAL)
        assert "0x0000000000010004:  00000000  .long 0x00000000" in trace.lines()


def test_exec_shows_every_turn_of_a_loop(machine: BareMachine) -> None:
    symbols = [Symbol(CODE, CODE + 0x100, "loop")]
    with traced(machine, Item.EXEC, symbols=symbols) as trace:
        machine.execute(LOOP)
        assert trace.lines() == [
            "Trace 0: 0x0000000000010000 <loop>",
            "Trace 0: 0x000000000001000c <loop+0xc>",
            "Trace 0: 0x000000000001000c <loop+0xc>",
            "Trace 0: 0x0000000000010014 <loop+0x14>",
        ]


def test_cpu_shows_registers_as_they_are_before_the_block(machine: BareMachine) -> None:
    with traced(machine, Item.CPU) as trace:
        machine.vcpu.set_gpr(31, 0x1234_5678_9ABC_DEF0)
        machine.execute(LOOP)
        text = trace.text()
    blocks = text.split("CPU#0 ")[1:]
    assert [block.split()[1] for block in blocks] == [
        f"{CODE + offset:016x}" for offset in (0, 0xC, 0xC, 0x14)
    ]
    assert [block.split()[block.split().index("CTR") + 1] for block in blocks] == [
        f"{count:016x}" for count in (0, 2, 1, 0)
    ]
    counts = [block.splitlines()[3].split()[2] for block in blocks]  # GPR04 r4 r5
    assert counts == [f"{count:016x}" for count in (0, 1, 2, 3)]
    assert all("123456789abcdef0" in block for block in blocks)


def test_exec_goes_with_its_in_asm_in_order(machine: BareMachine) -> None:
    with traced(machine, Item.IN_ASM | Item.EXEC) as trace:
        machine.execute(asm.li(3, 1))
        lines = trace.lines()
    assert lines.index("IN: (big-endian)") < lines.index("Trace 0: 0x0000000000010000")


@pytest.mark.parametrize("item", BLOCK_ITEMS)
def test_dfilter_limits_blocks(machine: BareMachine, item: Item) -> None:
    with traced(machine, item, [(CODE + 0x14, CODE + 0x14), (1, 2)]) as trace:
        machine.execute(LOOP)
        text = trace.text()
    assert f"{CODE + 0x14:x}" in text
    assert f"{CODE + 0xC:x}" not in text
    assert f"{CODE:x} " not in text


def test_ranges_may_change_while_tracing(machine: BareMachine) -> None:
    with traced(machine, Item.EXEC, [(0x100, 0x200)]) as trace:
        machine.execute(LOOP)
        assert trace.lines() == []
        trace.items(Item.EXEC, [(CODE + 0xC, CODE + 0xC)])
        again(machine)
        assert len(trace.lines()) == 2
        trace.items(Item.EXEC)
        again(machine)
        assert len(trace.lines()) == 4


def test_items_that_come_later_see_code_that_ran_before(machine: BareMachine) -> None:
    with traced(machine, Item(0)) as trace:
        machine.execute(LOOP)
        assert trace.text() == ""
        trace.items(Item.EXEC)
        again(machine)
        assert len(trace.lines()) == 4
        trace.items(Item.IN_ASM)
        again(machine)
        assert len(trace.lines("IN: ")) == 3


def functions(machine: BareMachine) -> list[int]:
    """Every function pointer that a trace may exchange."""
    vcpu = machine.vcpu
    classes = int(vcpu.record["cs"]) + layout.CPU_CLASS
    places = [
        classes + layout.CLASS_HANDLE_MMU_FAULT,
        classes + layout.CLASS_CPU_EXEC_INTERRUPT,
        classes + layout.CLASS_CPU_EXEC_ENTER,
        vcpu.interrupt_hook + 40,
    ]
    slots = _slots()
    names = [*BLOCK_SLOTS._functions, *FLUSH_SLOTS._functions]
    places += [slots.address(name) for name in names]
    values = [ctypes.c_uint64.from_address(place).value for place in places]
    return [*values, int(machine.partition.record["hypercall"])]


def test_nothing_of_a_trace_is_left_when_it_is_off(machine: BareMachine) -> None:
    """The same code runs as if there had never been a trace."""
    machine.execute(LOOP)
    before = functions(machine)
    everything = Item.IN_ASM | Item.EXEC | Item.CPU | Item.INT | Item.MMU | Item.IRQ
    trace = Traced(machine)
    trace.items(everything)
    trace.vcpus[0].profile(trace.ring)
    machine.execute(LOOP)
    during = functions(machine)
    assert all(a != b for a, b in zip(before, during, strict=True))
    trace.items(Item(0))
    trace.vcpus[0].profile(None)
    trace.text()
    head = int(trace.ring.record["head"])
    again(machine)  # the blocks are translated anew, without the call
    machine.interrupt(asm.SC)
    assert int(trace.ring.record["head"]) == head
    assert functions(machine) == [
        mmu.handle_mmu_fault.address,
        exceptions.exec_interrupt.address,
        exceptions.exec_enter.address,
        exceptions.on_exception.address,
        symbol_address("gen_intermediate_code_ppc64"),
        codegen.tcg_gen_callN.address,
        tlb.tlb_flush.address,
        tlbie.ppc_tlb_invalidate_one.address,
        tlbie.tlb_flush_all_cpus_synced.address,
        bare_hypercall.address,
    ]
    trace.close()
    assert machine.vcpu.record["trace"] == 0


def test_another_guest_of_the_process_is_not_traced(machine: BareMachine) -> None:
    with traced(machine, Item.IN_ASM | Item.EXEC | Item.MMU) as trace, bare_machine() as other:
        other.execute(LOOP)
        assert trace.text() == ""
        machine.execute(LOOP)
        assert len(trace.lines("Trace")) == 4


def test_slots_stay_while_any_guest_wants_them(machine: BareMachine) -> None:
    with bare_machine() as other, traced(machine, Item.EXEC) as trace:
        with traced(other, Item.EXEC) as second:
            other.execute(LOOP)
            assert len(second.lines()) == 4
        machine.execute(LOOP)
        assert len(trace.lines()) == 4


def test_blocks_that_cross_a_page_are_whole(machine: BareMachine) -> None:
    code = [asm.li(n, n) for n in range(3, 13)]
    start = 0x20000 - 16
    machine.load(start, code)
    with traced(machine, Item.IN_ASM) as trace:
        machine.vcpu.pc = start
        machine.run()
        lines = [line for line in trace.lines("0x") if " li " in line]
    assert lines == [
        f"{start + 4 * n:#018x}:  {word:08x}  li r{n + 3}, {hex(n + 3) if n + 3 > 9 else n + 3}"
        for n, word in enumerate(code)
    ]


def test_self_modifying_code_is_shown_as_it_was_each_time(machine: BareMachine) -> None:
    with traced(machine, Item.IN_ASM) as trace:
        for number in (1, 2):
            machine.execute(asm.li(3, number))
        text = trace.text()
    assert text.index("li r3, 1") < text.index("li r3, 2")


def test_a_small_ring_loses_nothing(machine: BareMachine) -> None:
    """The writer has the reader make room, in the middle of a block."""
    with traced(machine, Item.EXEC) as trace:
        machine.execute(asm.li64(4, 100_000), asm.mtctr(4), asm.addi(5, 5, 1), asm.bdnz(-4))
        assert len(trace.lines("Trace 0: ")) == 100_001
    assert trace.ring.dropped == 0
