"""Hypercalls served in Python: everything that is rare (LoPAPR 1.1, chapter 14).

A handler gets the machine, the calling vCPU and its arguments (r4 to r12) and returns the
return code, or a :class:`Reply` with values for r4 and up.  The frequent ones are native, in
:mod:`machines.pseries.dispatch`; the device tree advertises function sets from both.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from emu.cpu.isa import LPCR_AIL, LPCR_AIL_SHIFT, LPCR_HR, LPCR_ILE, Spr
from emu.cpu.record import Hcall
from emu.cpu.vcpu import Vcpu
from emu.log import log
from emu.memory.dma import DmaError
from machines.pseries import dispatch, papr
from machines.pseries.papr import HcallNumber

if TYPE_CHECKING:
    from machines.pseries.machine import PseriesMachine


@dataclass(frozen=True)
class Reply:
    """Return code for r3 and values for r4 and up."""

    code: int
    values: list[int] = field(default_factory=list)


Handler = Callable[["PseriesMachine", Vcpu, list[int]], "int | Reply"]
HANDLERS: dict[int, Handler] = {}

_LPCR_UPRT = 1 << 22
_NUMBERS = frozenset(HcallNumber)
_hcall_log = log("hcall")
_PAGE = 4096
_ALL_ONES = (1 << 64) - 1


def hypercall(number: HcallNumber) -> Callable[[Handler], Handler]:
    """Register the handler of a hypercall."""

    def register(handler: Handler) -> Handler:
        HANDLERS[number] = handler
        return handler

    return register


def serve(machine: PseriesMachine, vcpu: Vcpu) -> None:
    """Serve the hypercall that a vCPU left ``run()`` with."""
    if _hcall_log.enabled:
        _serve_logged(machine, vcpu)
    else:
        _serve(machine, vcpu)


def _serve_logged(machine: PseriesMachine, vcpu: Vcpu) -> None:
    """Serve any hypercall, native ones too, with a line in the log."""
    number = vcpu.gpr(3)
    name = HcallNumber(number).name if number in _NUMBERS else f"{number:#x}"
    args = ", ".join(f"{vcpu.gpr(register):#x}" for register in range(4, 8))
    if dispatch.serve_native(vcpu.address) == Hcall.EXIT:
        _serve(machine, vcpu)
    code = vcpu.gpr(3)
    signed = code - (1 << 64) if code >> 63 else code
    _hcall_log("%s(%s) -> %d, r4 %#x", name, args, signed, vcpu.gpr(4))


def _serve(machine: PseriesMachine, vcpu: Vcpu) -> None:
    handler = HANDLERS.get(vcpu.gpr(3))
    if handler is None:
        machine.unknown_hypercall(vcpu.gpr(3))
        vcpu.set_gpr(3, papr.H_FUNCTION)
        return
    try:
        reply = handler(machine, vcpu, [vcpu.gpr(number) for number in range(4, 13)])
    except DmaError:
        reply = papr.H_PARAMETER
    if isinstance(reply, int):
        reply = Reply(reply)
    for position, value in enumerate(reply.values):
        vcpu.set_gpr(4 + position, value)
    vcpu.set_gpr(3, reply.code)


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


_PAGE_ZERO, _PAGE_COPY = 1 << 15, 1 << 14
_PAGE_ICACHE = (1 << 23) | (1 << 22)


@hypercall(HcallNumber.H_PAGE_INIT)
def _page_init(machine: PseriesMachine, _vcpu: Vcpu, args: list[int]) -> int:
    flags, destination, source = args[:3]
    if flags & ~(_PAGE_ZERO | _PAGE_COPY | _PAGE_ICACHE) or destination % _PAGE:
        return papr.H_PARAMETER
    if flags & _PAGE_COPY:
        if source % _PAGE:
            return papr.H_PARAMETER
        machine.dma.write(destination, machine.dma.read(source, _PAGE))
    elif flags & _PAGE_ZERO:
        machine.dma.fill(destination, _PAGE)
    else:
        machine.dma.read(destination, _PAGE)
    return papr.H_SUCCESS


@hypercall(HcallNumber.H_LOGICAL_CI_LOAD)
@hypercall(HcallNumber.H_LOGICAL_CACHE_LOAD)
def _logical_load(machine: PseriesMachine, _vcpu: Vcpu, args: list[int]) -> int | Reply:
    size, address = args[:2]
    if size not in (1, 2, 4, 8):
        return papr.H_PARAMETER
    return Reply(papr.H_SUCCESS, [int.from_bytes(_read(machine, address, size), "big")])


@hypercall(HcallNumber.H_LOGICAL_CI_STORE)
@hypercall(HcallNumber.H_LOGICAL_CACHE_STORE)
def _logical_store(machine: PseriesMachine, _vcpu: Vcpu, args: list[int]) -> int:
    size, address, value = args[:3]
    if size not in (1, 2, 4, 8):
        return papr.H_PARAMETER
    _write(machine, address, (value & ((1 << (8 * size)) - 1)).to_bytes(size, "big"))
    return papr.H_SUCCESS


def _read(machine: PseriesMachine, address: int, size: int) -> bytes:
    """Bytes from RAM or a device window; DmaError if there is neither."""
    if size <= 4 and (found := machine.partition.bus.find(address, size)):
        return found[0].handler.mmio_read(found[1], size)
    if size == 8 and (found := machine.partition.bus.find(address, size)):
        window, offset = found
        return window.handler.mmio_read(offset, 4) + window.handler.mmio_read(offset + 4, 4)
    return machine.dma.read(address, size)


def _write(machine: PseriesMachine, address: int, data: bytes) -> None:
    found = machine.partition.bus.find(address, len(data))
    if found is None:
        machine.dma.write(address, data)
        return
    window, offset = found
    for start in range(0, len(data), 4):
        window.handler.mmio_write(offset + start, data[start : start + 4])


_MEMOP_LIMIT = 1 << 24


@hypercall(HcallNumber.H_LOGICAL_MEMOP)
def _logical_memop(machine: PseriesMachine, _vcpu: Vcpu, args: list[int]) -> int:
    """Copy (op 0) or copy inverted (op 1) ``count`` elements of ``1 << esize`` bytes."""
    destination, source, esize, count, operation = args[:5]
    if esize > 3 or operation > 1 or count << esize > _MEMOP_LIMIT:
        return papr.H_PARAMETER
    size = 1 << esize
    if destination % size or source % size:
        return papr.H_PARAMETER
    positions = range(0, count << esize, size)
    overlapping = source < destination < source + (count << esize)
    for offset in reversed(positions) if overlapping else positions:
        data = _read(machine, source + offset, size)
        if operation:
            data = bytes(byte ^ 0xFF for byte in data)
        _write(machine, destination + offset, data)
    return papr.H_SUCCESS


@hypercall(HcallNumber.H_LOGICAL_ICBI)
@hypercall(HcallNumber.H_LOGICAL_DCBF)
def _logical_cache(_machine: PseriesMachine, _vcpu: Vcpu, _args: list[int]) -> int:
    """Translated code follows memory by itself; there is nothing to do."""
    return papr.H_SUCCESS


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


_VPA_SHARED_PROCESSOR = 9, 0x02  # offset and bit of the "shared processor" flag


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


@hypercall(HcallNumber.H_CONFER)
def _confer(_machine: PseriesMachine, _vcpu: Vcpu, _args: list[int]) -> int:
    """The calling vCPU is the only one that could run."""
    return papr.H_SUCCESS


@hypercall(HcallNumber.H_PROD)
def _prod(machine: PseriesMachine, _vcpu: Vcpu, args: list[int]) -> int:
    target = machine.vcpu_by_number(args[0])
    if target is None:
        return papr.H_PARAMETER
    target.record["prodded"] = 1
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


_PROC_TABLE_RADIX = 0x04
_PROC_TABLE_NEW = 0x18
_PROC_TABLE_DEREGISTER = 0x10
_PROC_TABLE_OPERATION = 0x18


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


@hypercall(HcallNumber.H_RTAS)
def _rtas(machine: PseriesMachine, vcpu: Vcpu, args: list[int]) -> int:
    return machine.rtas.call(vcpu, args[0])


@hypercall(HcallNumber.H_VIO_SIGNAL)
def _vio_signal(machine: PseriesMachine, _vcpu: Vcpu, args: list[int]) -> int:
    return machine.vio_signal(args[0], args[1])


@hypercall(HcallNumber.H_PUT_TERM_CHAR)
def _put_term_char(machine: PseriesMachine, _vcpu: Vcpu, args: list[int]) -> int:
    return machine.put_term_char_slow(args[0], args[1], args[2], args[3])
