"""Reading and writing the whole register state."""

from __future__ import annotations

import ctypes
import dataclasses
import random
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.cpu import layout
from emu.cpu.isa import (
    IRQ_DECR,
    IRQ_DOORBELL,
    IRQ_EXT,
    LPCR_GTSE,
    LPCR_LPES0,
    MSR_DR,
    MSR_EE,
    MSR_FP,
    MSR_IR,
    MSR_LE,
    MSR_ME,
    MSR_PR,
    MSR_SF,
    MSR_VEC,
    MSR_VSX,
    Spr,
)
from emu.cpu.registers import (
    MIGRATABLE_SPRS,
    SLB_ENTRIES,
    CpuState,
    Reservation,
    read_state,
    write_state,
)
from tests.support import asm
from tests.support.bare import CODE, BareMachine, bare_machine

U32 = st.integers(0, (1 << 32) - 1)
U64 = st.integers(0, (1 << 64) - 1)
U128 = st.integers(0, (1 << 128) - 1)
MSRS = st.sampled_from(
    [
        MSR_SF | MSR_ME,
        MSR_SF | MSR_ME | MSR_LE | MSR_EE | MSR_FP | MSR_VEC | MSR_VSX,
        MSR_SF | MSR_ME | MSR_IR | MSR_DR | MSR_EE | MSR_PR | MSR_LE,
        MSR_ME | MSR_IR,
    ]
)
FP = MSR_SF | MSR_ME | MSR_FP | MSR_VEC | MSR_VSX


@st.composite
def slb_entries(draw: st.DrawFn) -> tuple[tuple[int, int], ...]:
    """An SLB that ``slbmte`` can make."""
    esid = st.builds(lambda e, v: e << 28 | v << 27, st.integers(0, (1 << 36) - 1), st.booleans())
    vsid = st.builds(
        lambda size, number, flags, page: size << 62 | number << 12 | flags << 9 | page,
        st.integers(0, 1),
        st.integers(0, (1 << 50) - 1),
        st.integers(0, 7),
        st.sampled_from([0, 0x100, 0x110, 0x120]),
    )
    used = draw(st.lists(st.tuples(esid, vsid), max_size=SLB_ENTRIES))
    return tuple(used + [(0, 0)] * (layout.ENV_SLB_ENTRIES - len(used)))


def sprs(draw: st.DrawFn) -> dict[str, int]:
    values = {name: draw(U64) for name in draw(st.sets(st.sampled_from([*MIGRATABLE_SPRS])))}
    values = dict.fromkeys(MIGRATABLE_SPRS, 0) | values
    return values | {"LPCR": draw(st.sampled_from([LPCR_LPES0, LPCR_LPES0 | LPCR_GTSE]))}


@st.composite
def states(draw: st.DrawFn) -> CpuState:
    """Any state that a guest can reach."""
    return CpuState(
        gpr=tuple(draw(st.lists(U64, min_size=32, max_size=32))),
        vsr=tuple(draw(st.lists(U128, min_size=64, max_size=64))),
        cr=draw(U32),
        xer=draw(U64),
        lr=draw(U64),
        ctr=draw(U64),
        msr=draw(MSRS),
        fpscr=draw(st.integers(0, (1 << 35) - 1)),
        vscr=draw(st.sampled_from([0, 1, 0x10000, 0x10001])),
        nip=draw(U64) & ~3,
        cfar=draw(U64),
        sprs=sprs(draw),
        slb=draw(slb_entries()),
        reservation=Reservation(draw(U64), draw(U64), draw(U64)),
        pending=draw(st.sampled_from([0, 1 << IRQ_EXT, 1 << IRQ_DECR | 1 << IRQ_DOORBELL])),
        timebase=draw(st.integers(0, (1 << 60) - 1)),
        decrementer=draw(st.integers(-(1 << 40), (1 << 31) - 1)),
        halted=draw(st.booleans()),
        prodded=draw(st.booleans()),
        stopped=draw(st.booleans()),
    )


@given(state=states())
def test_a_written_state_reads_back_whole(shared: BareMachine, state: CpuState) -> None:
    write_state(shared.vcpu, state)
    assert read_state(shared.vcpu) == state


@pytest.fixture(scope="module")
def shared() -> Any:
    """One machine for all examples."""
    with bare_machine() as guest:
        yield guest


def mixed_code() -> list[asm.Code]:
    """Integer, floating-point, vector, reservation and XER work that depends on all of it."""
    return [
        asm.adde(3, 4, 5),
        asm.addo_(6, 3, 7),
        0x7CE00026,  # mfcr r7
        asm.mfspr(8, 1),  # XER
        asm.fadd(1, 2, 3),
        asm.fdiv(4, 5, 6),
        0xFC00048E | 9 << 21,  # mffs f9
        asm.vadduwm(2, 3, 4),
        0x10A31180 | 0,  # vadduws v5, v3, v2 (saturates)
        asm.xxlxor(10, 11, 12),
        asm.mfspr(9, 256),
        asm.mfspr(10, 815),
        asm.slbmfee(11, 20),
        asm.slbmfev(12, 20),
        asm.mfspr(13, 28),
        asm.stdcx(4, 0, 21),
        0x7DC00026,  # mfcr r14
        asm.mfspr(15, 22),
        asm.mfspr(16, 268),
    ]


def busy_state(base: CpuState, seed: int) -> CpuState:
    """A state in which :func:`mixed_code` can run."""
    rng = random.Random(seed)
    gpr = [rng.getrandbits(64) for _ in range(32)]
    gpr[20], gpr[21] = 3, 0x3000
    slb = list(base.slb)
    slb[3] = (0xC0000000_08000000, 0x40000000_12345510)
    return dataclasses.replace(
        base,
        gpr=tuple(gpr),
        vsr=tuple(rng.getrandbits(128) & ~(0xFF << 118) | 0x3FF << 116 for _ in range(64)),
        cr=rng.getrandbits(32),
        xer=rng.getrandbits(32) & 0xE00C007F,
        msr=FP,
        fpscr=rng.randrange(4),
        nip=CODE,
        cfar=rng.getrandbits(40),
        sprs=dict(base.sprs) | {"VRSAVE": rng.getrandbits(32), "TAR": 0x1234, "FSCR": 0x100},
        slb=tuple(slb),
        reservation=Reservation(0x3000, 0x1122334455667788, 0),
        timebase=1 << 40,
        decrementer=123456,
    )


@pytest.mark.parametrize("seed", range(8))
def test_code_goes_on_the_same_in_another_vcpu(machine: BareMachine, seed: int) -> None:
    with bare_machine() as other:
        machine.vcpu.msr = FP  # something to overwrite
        state = busy_state(read_state(machine.vcpu), seed)
        ends = []
        for guest in (machine, other):
            guest.partition.dma.write_u64_be(0x3000, 0x1122334455667788)
            write_state(guest.vcpu, state)
            carried = read_state(guest.vcpu)
            write_state(guest.vcpu, carried)
            guest.execute(mixed_code())
            ends.append(read_state(guest.vcpu))
        times: dict[str, Any] = {"gpr": (), "timebase": 0, "decrementer": 0}
        first, second = (dataclasses.replace(end, **times) for end in ends)
        assert first == second
        assert ends[0].gpr[:15] == ends[1].gpr[:15]
        assert machine.vcpu.gpr(11) == 0xC0000000_08000000
        assert machine.vcpu.gpr(14) >> 28 == 2 | state.xer >> 31 | (ends[0].xer >> 31)


@pytest.mark.parametrize(("rounding", "third"), [(0, 0x555), (1, 0x555), (2, 0x556), (3, 0x555)])
def test_the_rounding_mode_follows_a_written_fpscr(
    machine: BareMachine, rounding: int, third: int
) -> None:
    """1/3 rounds to an even last bit, towards zero, up, or down."""
    state = dataclasses.replace(read_state(machine.vcpu), msr=FP, fpscr=rounding)
    vsr = list(state.vsr)
    vsr[1], vsr[2] = 0x3FF0000000000000 << 64, 0x4008000000000000 << 64
    write_state(machine.vcpu, dataclasses.replace(state, vsr=tuple(vsr)))
    machine.execute(asm.fdiv(3, 1, 2))
    assert read_state(machine.vcpu).vsr[3] >> 64 & 0xFFF == third


def test_non_java_mode_follows_a_written_vscr(machine: BareMachine) -> None:
    """Denormals count as zero when VSCR[NJ] is set."""
    tiny = int.from_bytes(bytes.fromhex("00000001") * 4)
    for vscr, expected in ((0, tiny), (0x10000, 0)):
        state = dataclasses.replace(read_state(machine.vcpu), msr=FP, vscr=vscr)
        vsr = list(state.vsr)
        vsr[33], vsr[34] = tiny, 0
        write_state(machine.vcpu, dataclasses.replace(state, vsr=tuple(vsr)))
        machine.execute(0x1061100A)  # vaddfp v3, v1, v2
        assert read_state(machine.vcpu).vsr[35] == expected


def test_fprs_are_the_upper_halves_of_the_first_vsrs(machine: BareMachine) -> None:
    machine.vcpu.msr = FP
    machine.partition.dma.write_u64_be(0x3000, 0x400921FB54442D18)
    machine.execute(asm.li64(3, 0x3000), asm.lfd(7, 3))
    assert read_state(machine.vcpu).vsr[7] >> 64 == 0x400921FB54442D18


def test_a_written_msr_takes_effect_on_translated_code(machine: BareMachine) -> None:
    """hflags follow: the same address runs as little-endian code."""
    machine.execute(asm.li(3, 1))
    state = read_state(machine.vcpu)
    write_state(machine.vcpu, dataclasses.replace(state, msr=state.msr | MSR_LE))
    machine.execute(asm.li(3, 2))
    assert machine.vcpu.gpr(3) == 2
    assert machine.ram.read(CODE, 4) == asm.assemble(asm.li(3, 2), little=True)


def test_every_spr_that_a_guest_can_write_is_part_of_the_state(machine: BareMachine) -> None:
    """Whatever ``mtspr`` changes, for all 1024 numbers, belongs to ``MIGRATABLE_SPRS``."""
    vcpu = machine.vcpu
    elsewhere = {1, 8, 9, 22, 28, 268, 269, 284, 285}  # fields of their own, and the timers
    elsewhere |= {62}  # Unicorn's note of an illegal instruction
    stored = set(MIGRATABLE_SPRS.values()) | elsewhere
    written = set()
    for number in range(1024):
        vcpu.reset_state()
        vcpu.set_spr(Spr.FSCR, (1 << 56) - 1)
        before = stored_sprs(machine)
        machine.load(CODE, asm.li64(3, 0x5A5A5A5A5A5A5A58), asm.mtspr(number, 3))
        vcpu.pc = CODE
        machine.run()
        changed = set(np.flatnonzero(stored_sprs(machine) != before).tolist())
        assert changed <= stored, f"mtspr {number} changes {changed - stored}"
        written |= changed
    by_hypercall = {"DAWR0", "DAWRX0", "CIABR", "LPCR", "PCR"}
    named = {name for name, spr in MIGRATABLE_SPRS.items() if spr in written}
    assert named == set(MIGRATABLE_SPRS) - by_hypercall


def stored_sprs(machine: BareMachine) -> npt.NDArray[np.uint64]:
    where = machine.vcpu.env + layout.ENV_SPR
    return np.frombuffer(ctypes.string_at(where, 8 * 1024), np.uint64)


@pytest.mark.parametrize(
    "change",
    [
        {"gpr": (0,) * 31},
        {"cr": 1 << 32},
        {"pending": 1 << 9},
        {"sprs": {"HID0": 1}},
        {"sprs": {"LPCR": 1 << 23}},
        {"slb": ((0x08000001, 0),) + ((0, 0),) * 63},
        {"slb": ((0x08000000, 0x30),) + ((0, 0),) * 63},
        {"slb": ((0, 0),) * 63 + ((0x08000000, 0),)},
    ],
    ids=lambda change: str(next(iter(change))),
)
def test_a_state_that_no_guest_reaches_is_refused_whole(
    machine: BareMachine, change: dict[str, Any]
) -> None:
    machine.vcpu.set_gpr(5, 77)
    before = read_state(machine.vcpu)
    bad = dataclasses.replace(before, gpr=(1,) * 32)
    with pytest.raises(ValueError, match=next(iter(change)) + "|SPR"):
        write_state(machine.vcpu, dataclasses.replace(bad, **change))
    assert read_state(machine.vcpu) == before
