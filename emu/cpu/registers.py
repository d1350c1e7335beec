"""The complete register state of a vCPU as plain values: what a migration or a debugger moves.

Names are those of Power ISA v3.0B.  Nothing here runs while the vCPU does.  What hypercalls
keep per CPU (VPA, SLB shadow, dispatch trace log) belongs to the machine.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import unicorn.unicorn_py3.unicorn as binding

from emu.cpu import layout
from emu.cpu.clock import NO_DEADLINE
from emu.cpu.isa import (
    IRQ_DECR,
    IRQ_DOORBELL,
    IRQ_EXT,
    IRQ_MCK,
    IRQ_RESET,
    LPCR_AIL,
    LPCR_AIL_SHIFT,
    Spr,
)
from emu.cpu.vcpu import Vcpu

# Every special purpose register that a guest, or a hypercall for it, can change, and that is
# stored as such.  Not among them: aliases (UAMR, USPRG3, BESCRSU, ...), the timers, and those
# of transactional memory, which guests do not have.
# fmt: off
MIGRATABLE_SPRS: Mapping[str, int] = MappingProxyType({
    "DSCR": 17, "DSISR": 18, "DAR": 19, "SRR0": 26, "SRR1": 27, "AMR": 29, "ACOP": 31,
    "PID": 48, "IAMR": 61, "TIDR": 144, "CTRL": 152,
    "FSCR": 153, "UAMOR": 157, "PSPB": 159, "DAWR0": 180, "CIABR": 187, "DAWRX0": 188,
    "VRSAVE": 256, "SPRG0": 272, "SPRG1": 273, "SPRG2": 274, "SPRG3": 275, "EAR": 282,
    "LPCR": 318, "PCR": 338, "USIER": 768, "SIER": 784, "MMCR2": 785, "MMCRA": 786,
    "PMC1": 787, "PMC2": 788, "PMC3": 789, "PMC4": 790, "PMC5": 791, "PMC6": 792,
    "MMCR0": 795, "SIAR": 796, "SDAR": 797, "MMCR1": 798, "BESCRS": 800, "BESCRR": 802,
    "EBBHR": 804, "EBBRR": 805, "BESCR": 806, "TAR": 815, "TACR": 888, "TCSCR": 889,
    "CSIGR": 890, "SPMC1": 892, "SPMC2": 893, "MMCRS": 894, "WORT": 895, "PPR": 896,
})
# fmt: on
# Interrupt inputs that can be pending: bits of CpuState.pending
PENDING_LINES = (IRQ_RESET, IRQ_MCK, IRQ_EXT, IRQ_DECR, IRQ_DOORBELL)
SLB_ENTRIES = 32  # of the 64 that Unicorn has room for

_XER_FLAGS = {
    31: layout.ENV_SO,
    30: layout.ENV_OV,
    29: layout.ENV_CA,
    19: layout.ENV_OV32,
    18: layout.ENV_CA32,
}
_XER_FLAG_BITS = sum(1 << bit for bit in _XER_FLAGS)
# Field, number of values (None: not a tuple), bits of each
_SHAPES: tuple[tuple[str, int | None, int], ...] = (
    *(("gpr", 32, 64), ("vsr", 64, 128), ("cr", None, 32), ("vscr", None, 32)),
    *((name, None, 64) for name in ("xer", "lr", "ctr", "msr", "fpscr", "nip", "cfar", "timebase")),
)
_LINES = 20
_M64 = (1 << 64) - 1
_uclib: Any = binding.uclib


@dataclass(frozen=True)
class Reservation:
    """What ``lwarx`` and its kin remember; an ``address`` of all ones means none."""

    address: int
    value: int
    value2: int  # second doubleword of a quadword


@dataclass(frozen=True)
class CpuState:
    """All registers of one vCPU.  Integers are unsigned unless said otherwise."""

    gpr: tuple[int, ...]  # 32 of 64 bits
    vsr: tuple[int, ...]  # 64 of 128 bits: FPRs are the upper halves of 0-31, VRs are 32-63
    cr: int  # 32 bits, CR0 first
    xer: int
    lr: int
    ctr: int
    msr: int
    fpscr: int
    vscr: int  # 32 bits, with SAT
    nip: int
    cfar: int
    sprs: Mapping[str, int]  # by the names of MIGRATABLE_SPRS
    slb: tuple[tuple[int, int], ...]  # 64 of (ESID, VSID) doublewords
    reservation: Reservation
    pending: int  # interrupt inputs, bits IRQ_*
    timebase: int  # ticks of 512 MHz; the partition's
    decrementer: int  # signed ticks until it turns negative
    halted: bool  # in H_CEDE
    prodded: bool  # H_PROD seen while running
    stopped: bool  # not started by RTAS, or stopped itself


def read_state(vcpu: Vcpu) -> CpuState:
    """The state of a vCPU that is not running."""
    env, record = vcpu.env, vcpu.record
    vsr = _block(env + layout.ENV_VSR, "<128Q")
    slb = _block(env + layout.ENV_SLB, f"<{3 * layout.ENV_SLB_ENTRIES}Q")
    timebase = vcpu.partition.timebase
    return CpuState(
        gpr=_block(env + layout.ENV_GPR, "<32Q"),
        vsr=tuple(high << 64 | low for low, high in zip(vsr[::2], vsr[1::2], strict=True)),
        cr=_read_cr(env),
        xer=_read_xer(env),
        lr=_u64(env + layout.ENV_LR).value,
        ctr=_u64(env + layout.ENV_CTR).value,
        msr=vcpu.msr,
        fpscr=_u64(env + layout.ENV_FPSCR).value,
        vscr=int(_uclib.helper_mfvscr_ppc64(ctypes.c_void_p(env))) & 0xFFFFFFFF,
        nip=vcpu.pc,
        cfar=_u64(env + layout.ENV_CFAR).value,
        sprs={name: vcpu.spr(number) for name, number in MIGRATABLE_SPRS.items()},
        slb=tuple(zip(slb[::3], slb[1::3], strict=True)),
        reservation=Reservation(*_block(env + layout.ENV_RESERVE_ADDR, "<3Q")),
        pending=_u32(env + layout.ENV_PENDING_INTERRUPTS).value,
        timebase=timebase,
        decrementer=_signed(int(record["dec_expiry"]) - timebase),
        halted=bool(record["halted"]),
        prodded=bool(record["prodded"]),
        stopped=bool(record["stopped"]),
    )


def write_state(vcpu: Vcpu, state: CpuState) -> None:
    """Give a vCPU that is not running a state.

    Also sets the partition's timebase, which its vCPUs share.  Raises ``ValueError``, with
    nothing changed, when the state is none that a guest can reach.
    """
    _check(state)
    env = vcpu.env
    _write_slb(vcpu, state.slb)
    _put(env + layout.ENV_GPR, "<32Q", *state.gpr)
    halves = [half for value in state.vsr for half in (value & _M64, value >> 64)]
    _put(env + layout.ENV_VSR, "<128Q", *halves)
    _put(env + layout.ENV_CRF, "<8I", *(state.cr >> shift & 15 for shift in range(28, -4, -4)))
    _write_xer(env, state.xer)
    _u64(env + layout.ENV_LR).value = state.lr
    _u64(env + layout.ENV_CTR).value = state.ctr
    _u64(env + layout.ENV_CFAR).value = state.cfar
    _put(
        env + layout.ENV_RESERVE_ADDR,
        "<3Q",
        state.reservation.address,
        state.reservation.value,
        state.reservation.value2,
    )
    _write_status(env, state.fpscr, state.vscr)
    _write_sprs(vcpu, state.sprs)
    vcpu.msr = state.msr
    vcpu.pc = state.nip
    _write_interrupts(vcpu, state)
    _forget_translations(vcpu)


def _check(state: CpuState) -> None:
    for name, count, bits in _SHAPES:
        value = getattr(state, name)
        values = (value,) if count is None else value
        if count is not None and len(values) != count:
            raise ValueError(f"{name}: {len(values)} values instead of {count}")
        if any(v >> bits for v in values):
            raise ValueError(f"{name}: more than {bits} bits")
    for name, value in state.sprs.items():
        if name not in MIGRATABLE_SPRS or value >> 64:
            raise ValueError(f"SPR {name}: unknown, or more than 64 bits")
    if state.pending & ~sum(1 << line for line in PENDING_LINES):
        raise ValueError(f"pending: unknown interrupts {state.pending:#x}")
    if state.sprs.get("LPCR", 0) & LPCR_AIL == 1 << LPCR_AIL_SHIFT:
        raise ValueError("SPR LPCR: reserved alternate interrupt location")
    for index, (esid, vsid) in enumerate(state.slb):
        if not _slb_entry_valid(index, esid, vsid):
            raise ValueError(f"slb: entry {index} is {esid:#x}, {vsid:#x}")


def _slb_entry_valid(index: int, esid: int, vsid: int) -> bool:
    """What ``slbmte`` accepts: no reserved bit, a known segment and base page size."""
    if index >= SLB_ENTRIES:
        return esid == vsid == 0
    page_size = vsid & 0x130  # L and LP
    known = page_size in (0, 0x100, 0x110, 0x120)
    return known and not esid & 0x7FFFFFF and not esid >> 64 and vsid >> 62 in (0, 1)


def _write_slb(vcpu: Vcpu, slb: tuple[tuple[int, int], ...]) -> None:
    """Through Unicorn, which keeps a pointer to the page size beside each entry."""
    cpu = ctypes.c_void_p(int(vcpu.record["cs"]))
    for index, (esid, vsid) in enumerate(slb[:SLB_ENTRIES]):
        _uclib.ppc_store_slb(
            cpu, ctypes.c_uint64(index), ctypes.c_uint64(esid), ctypes.c_uint64(vsid)
        )


def _write_status(env: int, fpscr: int, vscr: int) -> None:
    """FPSCR and VSCR through Unicorn, whose arithmetic caches rounding and non-Java modes."""
    _uclib.helper_store_fpscr_ppc64(
        ctypes.c_void_p(env), ctypes.c_uint64(fpscr), ctypes.c_uint32(0xFFFFFFFF)
    )
    _u64(env + layout.ENV_FPSCR).value = fpscr
    _uclib.helper_mtvscr_ppc64(ctypes.c_void_p(env), ctypes.c_uint32(vscr))


def _write_sprs(vcpu: Vcpu, sprs: Mapping[str, int]) -> None:
    lpcr = sprs.get("LPCR", vcpu.spr(Spr.LPCR))
    if lpcr != vcpu.spr(Spr.LPCR):
        vcpu.flush_code()  # translated code knows whether tlbie is legal
    for name, value in sprs.items():
        vcpu.set_spr(MIGRATABLE_SPRS[name], value)


def _write_interrupts(vcpu: Vcpu, state: CpuState) -> None:
    record, partition = vcpu.record, vcpu.partition
    cs = int(record["cs"])
    for line in range(_LINES):
        _uclib.ppc_set_irq_ppc64(ctypes.c_void_p(cs), line, state.pending >> line & 1)
    _u32(cs + layout.CS_EXCEPTION_INDEX).value = 0xFFFFFFFF
    _u32(vcpu.env + layout.ENV_ERROR_CODE).value = 0
    record["external_level"] = state.pending >> IRQ_EXT & 1
    record["dec_raised"] = state.pending >> IRQ_DECR & 1
    record["halted"], record["prodded"] = state.halted, state.prodded
    record["stopped"] = state.stopped
    partition.timebase = state.timebase
    record["dec_expiry"] = (state.timebase + state.decrementer) & _M64
    if partition.running:
        vcpu.refresh_decrementer()
    else:
        record["deadline_ns"] = NO_DEADLINE


def _forget_translations(vcpu: Vcpu) -> None:
    record = vcpu.record
    record["pid"], record["user_page_count"] = vcpu.spr(Spr.PID), 0
    record["generation"] += 1
    _u32(vcpu.env + layout.ENV_TLB_NEED_FLUSH).value = 0
    _uclib.tlb_flush_ppc64(ctypes.c_void_p(int(record["cs"])))


def _read_cr(env: int) -> int:
    value = 0
    for field in _block(env + layout.ENV_CRF, "<8I"):
        value = value << 4 | field & 15
    return value


def _read_xer(env: int) -> int:
    value = _u64(env + layout.ENV_XER).value & ~_XER_FLAG_BITS
    for bit, offset in _XER_FLAGS.items():
        value |= (_u64(env + offset).value & 1) << bit
    return value


def _write_xer(env: int, xer: int) -> None:
    _u64(env + layout.ENV_XER).value = xer & ~_XER_FLAG_BITS
    for bit, offset in _XER_FLAGS.items():
        _u64(env + offset).value = xer >> bit & 1


def _signed(value: int) -> int:
    value &= _M64
    return value - (1 << 64) if value >> 63 else value


def _u64(address: int) -> ctypes.c_uint64:
    return ctypes.c_uint64.from_address(address)


def _u32(address: int) -> ctypes.c_uint32:
    return ctypes.c_uint32.from_address(address)


def _block(address: int, form: str) -> tuple[int, ...]:
    return struct.unpack(form, ctypes.string_at(address, struct.calcsize(form)))


def _put(address: int, form: str, *values: int) -> None:
    data = struct.pack(form, *values)
    ctypes.memmove(address, data, len(data))
