"""Hypercalls on the calling CPU's registers, mode and translation."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from emu.cpu.isa import LPCR_AIL, LPCR_AIL_SHIFT, LPCR_HR, LPCR_ILE, Spr
from emu.cpu.vcpu import Vcpu
from machines.pseries import papr
from machines.pseries.hcalls import Reply, hypercall
from machines.pseries.papr import HcallNumber

if TYPE_CHECKING:
    from machines.pseries.machine import PseriesMachine

_PAGE = 4096
_LPCR_UPRT = 1 << 22
_PROC_TABLE_RADIX = 0x04
_PROC_TABLE_NEW = 0x18
_PROC_TABLE_DEREGISTER = 0x10
_PROC_TABLE_OPERATION = 0x18


@hypercall(HcallNumber.H_SET_SPRG0)
def _set_sprg0(_machine: PseriesMachine, vcpu: Vcpu, args: list[int]) -> int:
    vcpu.set_spr(Spr.SPRG0, args[0])
    return papr.H_SUCCESS


@hypercall(HcallNumber.H_SET_DABR)
def _set_dabr(_machine: PseriesMachine, _vcpu: Vcpu, _args: list[int]) -> int:
    """POWER8 and later have no DABR."""
    return papr.H_HARDWARE


@hypercall(HcallNumber.H_SET_XDABR)
def _set_xdabr(_machine: PseriesMachine, _vcpu: Vcpu, _args: list[int]) -> int:
    return papr.H_HARDWARE


@hypercall(HcallNumber.H_RANDOM)
def _random(_machine: PseriesMachine, _vcpu: Vcpu, _args: list[int]) -> Reply:
    return Reply(papr.H_SUCCESS, [int.from_bytes(os.urandom(8), "big")])


@hypercall(HcallNumber.H_GET_CPU_CHARACTERISTICS)
def _cpu_characteristics(_machine: PseriesMachine, _vcpu: Vcpu, _args: list[int]) -> Reply:
    """Nothing here speculates: no cache need be flushed, and what flushes one costs nothing.

    Guests flush unless told not to (Linux reads 64 KiB at each access to user memory).
    """
    return Reply(papr.H_SUCCESS, [int(papr.CPU_CHARACTERISTICS), int(papr.CPU_BEHAVIOUR)])


@hypercall(HcallNumber.H_SET_MODE)
def _set_mode(machine: PseriesMachine, _vcpu: Vcpu, args: list[int]) -> int:
    mode, resource, value1, value2 = args[:4]
    if resource == papr.H_SET_MODE_RESOURCE_LE:
        return _set_interrupt_endian(machine, mode, value1, value2)
    if resource == papr.H_SET_MODE_RESOURCE_ADDR_TRANS_MODE:
        return _set_translation_mode(machine, mode, value1, value2)
    # CIABR and DAWR match nothing in this CPU core, so they cannot be set
    return papr.H_P2


def _set_interrupt_endian(machine: PseriesMachine, mode: int, value1: int, value2: int) -> int:
    if value1:
        return papr.H_P3
    if value2:
        return papr.H_P4
    if mode > 1:
        return papr.H_UNSUPPORTED_FLAG
    machine.change_lpcr(LPCR_ILE, LPCR_ILE if mode else 0)
    return papr.H_SUCCESS


def _set_translation_mode(machine: PseriesMachine, mode: int, value1: int, value2: int) -> int:
    if value1:
        return papr.H_P3
    if value2:
        return papr.H_P4
    if mode not in (0, 2, 3):
        return papr.H_UNSUPPORTED_FLAG
    machine.change_lpcr(LPCR_AIL, mode << LPCR_AIL_SHIFT)
    return papr.H_SUCCESS


@hypercall(HcallNumber.H_REGISTER_PROC_TBL)
def _register_process_table(machine: PseriesMachine, vcpu: Vcpu, args: list[int]) -> int:
    """Select radix or hash translation and, for radix, the process table."""
    flags, base, page_size, table_size = args[:4]
    if vcpu.model == "power8":
        return papr.H_FUNCTION
    if flags & ~0x1F:
        return papr.H_PARAMETER
    operation = flags & _PROC_TABLE_OPERATION
    if operation == _PROC_TABLE_DEREGISTER:
        machine.select_translation(radix=False, table=0, size=0)
    elif operation == _PROC_TABLE_NEW and flags & _PROC_TABLE_RADIX:
        if base % _PAGE or base >> 60:
            return papr.H_P2
        if page_size:
            return papr.H_P3
        if table_size > 24:
            return papr.H_P4
        machine.select_translation(radix=True, table=base, size=1 << (table_size + 12))
        machine.change_lpcr(LPCR_HR | _LPCR_UPRT, LPCR_HR | _LPCR_UPRT)
        return papr.H_SUCCESS
    elif operation == _PROC_TABLE_NEW:
        machine.select_translation(radix=False, table=0, size=0)
    machine.change_lpcr(LPCR_HR | _LPCR_UPRT, 0)
    return papr.H_SUCCESS


@hypercall(HcallNumber.H_CLEAN_SLB)
@hypercall(HcallNumber.H_INVALIDATE_PID)
def _invalidate(machine: PseriesMachine, vcpu: Vcpu, _args: list[int]) -> int:
    if vcpu.model == "power8":
        return papr.H_FUNCTION
    machine.partition.flush_tlb()
    return papr.H_SUCCESS
