"""Walking a guest's stack: both orders, 32-bit code, and memory that holds anything."""

from __future__ import annotations

import random
import struct

import numpy as np
import pytest
from numba import njit, types

from emu.cpu.isa import MSR_DR, MSR_IR, MSR_LE, MSR_ME, MSR_PR, MSR_SF
from emu.cpu.record import partition_at, vcpu_at
from emu.trace.profile import UNKNOWN, frames_of
from emu.trace.stacks import MAX_FRAMES, walk_stack
from tests.support.bare import BareMachine
from tests.support.paging import KERNEL, map_all

ORDERS = pytest.mark.parametrize("order", ["<", ">"])


@njit(types.int64(types.uint64, types.Array(types.uint64, 1, "C")), cache=True)
def walk_at(address, frames):  # type: ignore[no-untyped-def]
    """:func:`walk_stack` for callers in Python."""
    vcpu = vcpu_at(address)
    return walk_stack(vcpu, partition_at(vcpu.partition), frames)


def walk(machine: BareMachine) -> list[int]:
    frames = np.zeros(MAX_FRAMES, np.uint64)
    count = walk_at(machine.vcpu.address, frames)
    return [int(address) for address in frames[:count]]


def set_order(machine: BareMachine, order: str) -> None:
    bit = MSR_LE if order == "<" else 0
    machine.vcpu.msr = machine.vcpu.msr & ~MSR_LE | bit


def frame(machine: BareMachine, order: str, at: int, caller: int, link: int) -> None:
    """A stack frame of 64-bit code: its caller's, and the return address in that."""
    machine.partition.dma.write(at, struct.pack(order + "Q", caller))
    if caller % (1 << 60) + 24 <= machine.ram.size:
        machine.partition.dma.write(caller % (1 << 60) + 16, struct.pack(order + "Q", link))


@ORDERS
def test_the_back_chain_is_followed_in_the_guests_order(machine: BareMachine, order: str) -> None:
    frame(machine, order, 0x1000, 0x1100, 0xAAA0)
    frame(machine, order, 0x1100, 0x1200, 0xBBB0)
    frame(machine, order, 0x1200, 0, 0)
    set_order(machine, order)
    machine.vcpu.set_gpr(1, 0x1000)
    assert walk(machine) == [0xAAA0, 0xBBB0]


@ORDERS
def test_addresses_are_translated_as_the_cpu_would(machine: BareMachine, order: str) -> None:
    machine.tables = map_all(machine, radix=False)
    frame(machine, order, 0x1000, KERNEL + 0x1100, 0xAAA0)
    frame(machine, order, 0x1100, KERNEL + 0x10_0000_0000, 0)  # not mapped
    machine.vcpu.msr = MSR_SF | MSR_ME | MSR_IR | MSR_DR
    set_order(machine, order)
    machine.vcpu.set_gpr(1, KERNEL + 0x1000)
    assert walk(machine) == [0xAAA0]


@ORDERS
def test_32_bit_code_has_small_frames(machine: BareMachine, order: str) -> None:
    write = machine.partition.dma.write
    write(0x1000, struct.pack(order + "I", 0x1100))
    write(0x1100, struct.pack(order + "II", 0, 0xAAA0))
    machine.vcpu.msr = MSR_ME
    set_order(machine, order)
    machine.vcpu.set_gpr(1, 0xFFFFFFFF_00001000)
    assert walk(machine) == [0xAAA0]


def test_the_walk_ends(machine: BareMachine) -> None:
    """A frame that is its own caller, a circle, an address nowhere or unaligned."""
    set_order(machine, ">")
    machine.vcpu.set_gpr(1, 0x1000)
    for caller in (0, 0x1000, 1 << 40, 0x1001, 0x1104):
        frame(machine, ">", 0x1000, caller, 5)
        assert walk(machine) == []
    frame(machine, ">", 0x1000, 0x1100, 1)
    frame(machine, ">", 0x1100, 0x1000, 2)
    assert walk(machine) == [1, 2] * (MAX_FRAMES // 2)
    machine.vcpu.set_gpr(1, machine.ram.size - 8)
    machine.partition.dma.write(machine.ram.size - 8, struct.pack(">Q", machine.ram.size - 16))
    assert walk(machine) == []  # the return address would lie behind RAM


def test_nothing_in_the_guest_changes(machine: BareMachine) -> None:
    table = map_all(machine, radix=False)
    words = table.words  # type: ignore[union-attr]
    words[:, 1] &= ~np.uint64(0x180)  # R and C
    before = words.copy()
    machine.vcpu.msr = MSR_SF | MSR_ME | MSR_IR | MSR_DR
    machine.partition.dma.write(0x1000, struct.pack(">Q", 0x1100))
    machine.vcpu.set_gpr(1, 0x1000)
    assert walk(machine) == [0]
    assert (words == before).all()


@pytest.mark.parametrize("radix", [False, True])
def test_any_memory_and_any_registers_are_survived(radix: bool) -> None:
    from tests.support.bare import bare_machine

    rng = random.Random(5)
    with bare_machine("power9" if radix else "power8") as machine:
        machine.tables = map_all(machine, radix=radix)
        for _ in range(3000):
            modes = rng.choice([0, MSR_IR | MSR_DR, MSR_DR, MSR_DR | MSR_PR])
            sixty_four, little = rng.choice([0, MSR_SF]), rng.choice([0, MSR_LE])
            machine.vcpu.msr = MSR_ME | sixty_four | little | modes
            at = rng.randrange(machine.ram.size)
            values = [rng.choice([rng.getrandbits(64), rng.randrange(machine.ram.size) & ~15])
                      for _ in range(4)]  # fmt: skip
            at = min(at, machine.ram.size - 32)
            machine.ram.write(at, struct.pack("<4Q", *values))
            machine.vcpu.set_gpr(1, rng.choice([at & ~7, rng.getrandbits(64), KERNEL + at]))
            assert len(walk(machine)) <= MAX_FRAMES


@pytest.mark.parametrize(
    ("names", "link", "new", "stack"),
    [
        (["leaf", "", "main"], "caller", True, ("main", "caller", "leaf")),
        (["leaf", "caller", "main"], "caller", True, ("main", "caller", "leaf")),
        (["leaf", "main"], "caller", True, ("main", "caller", "leaf")),
        (["f", "main"], "f", True, ("main", "f")),  # has called, so it has saved the register
        (["f", "main"], "main", False, ("main", "f")),  # has saved it just now
        (["f", "f", "main"], "f", True, ("main", "f", "f")),  # recursion
        (["f"], "", True, ("f",)),
        ([""], "", True, (UNKNOWN,)),
        (["f", "", ""], "", True, ("f",)),
        (["f", "", "", "main"], "", True, ("main", UNKNOWN, "f")),
    ],
)
def test_frames_follow_from_link_register_and_stack(
    names: list[str], link: str, new: bool, stack: tuple[str, ...]
) -> None:
    assert frames_of(names, link, new) == stack
