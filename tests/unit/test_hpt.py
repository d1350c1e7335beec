"""The hash table hypercalls, called as a guest would."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from emu.cpu.record import Hcall
from emu.events import EventLoop
from machines.pseries import dispatch, papr
from machines.pseries.machine import PseriesMachine, PseriesOptions
from machines.pseries.papr import HcallNumber

# A 64 KiB page of a 1 TiB segment: V and L set, LP 1, WIMG M, read and write
PTE0 = 0x400EA1B217000385
PTE1 = 0x3E51194 & ~0x7 | 0x2
AVPN = PTE0 & ~0x7F
# The flags as Linux passes them (arch/powerpc/include/asm/hvcall.h), not our constants
LINUX_H_EXACT, LINUX_H_READ_4 = 0x80_0000_0000, 0x20_0000_0000
LINUX_H_AVPN, LINUX_H_ANDCOND = 0x8000_0000, 0x4000_0000


class _Host:
    """A host that nothing is asked of."""

    def __init__(self) -> None:
        self.loop = EventLoop()  # not started

    def request_shutdown(self) -> None:
        raise AssertionError

    def request_reset(self) -> None:
        raise AssertionError

    def guest_panicked(self, message: str) -> None:
        raise AssertionError(message)

    def post(self, work: object) -> None:
        raise AssertionError

    def unknown_hypercall(self, number: int) -> None:
        raise AssertionError(hex(number))

    def is_ending(self) -> bool:
        return False


@pytest.fixture
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PseriesMachine]:
    """A machine that never runs: hypercalls are made from outside."""
    image = tmp_path_factory.mktemp("image") / "stay.bin"
    image.write_bytes(bytes(0x100) + bytes.fromhex("48000000"))
    machine = PseriesMachine(PseriesOptions(ram_size=256 << 20, bios=str(image)), _Host())
    yield machine
    machine.close()


def call(machine: PseriesMachine, number: HcallNumber, *args: int) -> tuple[int, int, int]:
    """(signed return code, r4, r5) of a hypercall."""
    vcpu = machine.vcpus[0]
    for register, value in enumerate((number, *args), start=3):
        vcpu.set_gpr(register, value)
    assert dispatch.serve_native(vcpu.address) == Hcall.DONE
    code = vcpu.gpr(3)
    return code - (1 << 64) if code >> 63 else code, vcpu.gpr(4), vcpu.gpr(5)


def enter(machine: PseriesMachine, index: int, flags: int = 0) -> int:
    """H_ENTER of the sample entry; the index used."""
    code, used, _ = call(machine, HcallNumber.H_ENTER, flags, index, PTE0, PTE1)
    assert code == papr.H_SUCCESS
    return used


def test_enter_takes_the_first_free_slot_of_the_group(machine: PseriesMachine) -> None:
    assert [enter(machine, 0x103) for _ in range(8)] == list(range(0x100, 0x108))
    code, _, _ = call(machine, HcallNumber.H_ENTER, 0, 0x100, PTE0, PTE1)
    assert code == papr.H_PTEG_FULL


def test_enter_with_exact_takes_that_slot_or_none(machine: PseriesMachine) -> None:
    assert enter(machine, 0x105, LINUX_H_EXACT) == 0x105
    code, _, _ = call(machine, HcallNumber.H_ENTER, LINUX_H_EXACT, 0x105, PTE0, PTE1)
    assert code == papr.H_PTEG_FULL


def test_protect_with_avpn_refuses_another_page_in_the_slot(machine: PseriesMachine) -> None:
    """Linux believes a success and never enters the page again: an endless fault."""
    index = enter(machine, 0x100)
    other = AVPN ^ 0x80
    code, _, _ = call(machine, HcallNumber.H_PROTECT, LINUX_H_AVPN | 1, index, other)
    assert code == papr.H_NOT_FOUND
    code, _, _ = call(machine, HcallNumber.H_PROTECT, LINUX_H_AVPN | 1, index, AVPN)
    assert code == papr.H_SUCCESS
    code, _, pte1 = call(machine, HcallNumber.H_READ, 0, index)
    assert (code, pte1 & 0x3) == (papr.H_SUCCESS, 1)


def test_remove_obeys_its_conditions(machine: PseriesMachine) -> None:
    index = enter(machine, 0x100)
    code, _, _ = call(machine, HcallNumber.H_REMOVE, LINUX_H_AVPN, index, AVPN ^ 0x80)
    assert code == papr.H_NOT_FOUND
    code, _, _ = call(machine, HcallNumber.H_REMOVE, LINUX_H_ANDCOND, index, PTE0 & 0x80)
    assert code == papr.H_NOT_FOUND
    code, pte0, pte1 = call(machine, HcallNumber.H_REMOVE, LINUX_H_AVPN, index, AVPN)
    assert (code, pte0, pte1) == (papr.H_SUCCESS, PTE0, PTE1)
    code, _, _ = call(machine, HcallNumber.H_REMOVE, 0, index, 0)
    assert code == papr.H_NOT_FOUND


def test_read_4_gives_the_aligned_quarter_group(machine: PseriesMachine) -> None:
    enter(machine, 0x106, LINUX_H_EXACT)
    vcpu = machine.vcpus[0]
    code, _, _ = call(machine, HcallNumber.H_READ, LINUX_H_READ_4, 0x107)
    assert code == papr.H_SUCCESS
    assert [vcpu.gpr(4 + 2 * slot) for slot in range(4)] == [0, 0, PTE0, 0]


@pytest.mark.parametrize("index", [1 << 17, 1 << 40, (1 << 64) - 1])
@pytest.mark.parametrize(
    "number",
    [HcallNumber.H_REMOVE, HcallNumber.H_PROTECT, HcallNumber.H_READ, HcallNumber.H_CLEAR_MOD],
)
def test_an_index_beyond_the_table_is_refused(
    machine: PseriesMachine, number: HcallNumber, index: int
) -> None:
    code, _, _ = call(machine, number, 0, index, 0)
    assert code == papr.H_PARAMETER


@pytest.mark.parametrize("real", [256 << 20, 1 << 40])
def test_an_entry_for_a_real_address_that_is_not_there_is_refused(
    machine: PseriesMachine, real: int
) -> None:
    code, _, _ = call(machine, HcallNumber.H_ENTER, 0, 0x100, PTE0, real | (PTE1 & 0xFFFF))
    assert code == papr.H_PARAMETER
