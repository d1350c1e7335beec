"""Hypercalls between vCPUs: shared areas, system reset, home nodes (LoPAPR 1.1, 14.11)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.cpu.vcpu import Vcpu
from machines.pseries import papr
from machines.pseries.hcalls import Reply, hypercall
from machines.pseries.papr import HcallNumber

if TYPE_CHECKING:
    from machines.pseries.machine import PseriesMachine

_PAGE = 4096
_ALL_ONES = (1 << 64) - 1
_VPA_SHARED_PROCESSOR = 9, 0x02  # offset and bit of the "shared processor" flag


@hypercall(HcallNumber.H_REGISTER_VPA)
def _register_vpa(machine: PseriesMachine, _vcpu: Vcpu, args: list[int]) -> int:
    flags, number, address = args[:3]
    target = machine.vcpu_by_number(number)
    if target is None:
        return papr.H_PARAMETER
    function = (flags >> 45) & 7
    record = target.record
    if function == papr.VPA_REGISTER:
        return _register_area(machine, target, address)
    if function == papr.VPA_DEREGISTER:
        if record["slb_shadow"] or record["dtl"]:
            return papr.H_RESOURCE
        record["vpa"] = 0
        return papr.H_SUCCESS
    if function in (papr.VPA_REGISTER_SLB_SHADOW, papr.VPA_REGISTER_DTL):
        return _register_shadow(machine, target, function, address)
    if function == papr.VPA_DEREGISTER_SLB_SHADOW:
        record["slb_shadow"] = 0
        return papr.H_SUCCESS
    if function == papr.VPA_DEREGISTER_DTL:
        record["dtl"] = record["dtl_size"] = 0
        return papr.H_SUCCESS
    return papr.H_PARAMETER


def _register_area(machine: PseriesMachine, target: Vcpu, address: int) -> int:
    if address == 0 or address % 64:
        return papr.H_PARAMETER
    size = int.from_bytes(machine.dma.read(address + 4, 2), "big")
    if size < papr.VPA_MIN_SIZE or address // _PAGE != (address + size - 1) // _PAGE:
        return papr.H_PARAMETER
    offset, bit = _VPA_SHARED_PROCESSOR
    flags = machine.dma.read(address + offset, 1)[0]
    machine.dma.write(address + offset, bytes([flags | bit]))
    target.record["vpa"] = address
    return papr.H_SUCCESS


def _register_shadow(machine: PseriesMachine, target: Vcpu, function: int, address: int) -> int:
    if address == 0:
        return papr.H_PARAMETER
    size = machine.dma.read_u32_be(address + 4)
    if not target.record["vpa"]:
        return papr.H_RESOURCE
    if function == papr.VPA_REGISTER_DTL:
        if size < 48:
            return papr.H_PARAMETER
        target.record["dtl"], target.record["dtl_size"] = address, size
        return papr.H_SUCCESS
    if size < 8 or address // _PAGE != (address + size - 1) // _PAGE:
        return papr.H_PARAMETER
    target.record["slb_shadow"] = address
    return papr.H_SUCCESS


@hypercall(HcallNumber.H_SIGNAL_SYS_RESET)
def _signal_sys_reset(machine: PseriesMachine, vcpu: Vcpu, args: list[int]) -> int:
    """Targets: -1 all, -2 all but the caller, else one vCPU."""
    if args[0] == _ALL_ONES:
        targets = list(machine.partition.vcpus)
    elif args[0] == _ALL_ONES - 1:
        targets = [other for other in machine.partition.vcpus if other is not vcpu]
    else:
        one = machine.vcpu_by_number(args[0])
        if one is None:
            return papr.H_PARAMETER
        targets = [one]
    for target in targets:
        target.raise_system_reset()
    return papr.H_SUCCESS


@hypercall(HcallNumber.H_HOME_NODE_ASSOCIATIVITY)
def _home_node(machine: PseriesMachine, _vcpu: Vcpu, args: list[int]) -> int | Reply:
    if args[0] != 1:
        return papr.H_FUNCTION
    if machine.vcpu_by_number(args[1]) is None:
        return papr.H_P2
    # four zero domains, then the CPU; packed two to a register, the rest all ones
    return Reply(papr.H_SUCCESS, [0, 0, args[1] << 32 | 0xFFFFFFFF] + [_ALL_ONES] * 3)
