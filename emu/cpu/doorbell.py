"""Directed privileged doorbells: what ``msgsndp`` does and the interrupt it causes.

Unicorn's own would write to the wrong structure and abort the process.  A core has one thread
here, so a message goes to its sender (Power ISA v3.0B, book III, 11.2 and 6.5.13).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from emu.cpu import external as ext
from emu.cpu.isa import (
    IRQ_DECR,
    IRQ_DOORBELL,
    IRQ_EXT,
    IRQ_MCK,
    IRQ_RESET,
    MSR_EE,
    MSR_PR,
    Excp,
)
from emu.cpu.layout import (
    CS_EXCEPTION_INDEX,
    ENV_ERROR_CODE,
    ENV_GPR,
    ENV_MSR,
    ENV_NIP,
    ENV_PENDING_INTERRUPTS,
)
from emu.memory.native import load_u32, load_u64, store_u32, store_u64

_MSGSNDP = np.uint32(0x7C00011C)
_MSGSNDP_FIXED = np.uint32(0xFFFF07FF)
_MESSAGE_TYPE, _DIRECTED = np.uint64(31 << 27), np.uint64(5 << 27)
_PRIVILEGED_INSTRUCTION = np.uint64(0x31)  # POWERPC_EXCP_PRIV | PRIV_OPC
_PENDING = np.uint32(1 << IRQ_DOORBELL)
_BEFORE = np.uint32(1 << IRQ_RESET | 1 << IRQ_MCK | 1 << IRQ_EXT | 1 << IRQ_DECR)
_VECTOR_AFTER_DECR = np.uint64(0xA00 - 0x900)


@njit(cache=True)
def is_msgsndp(word):  # type: ignore[no-untyped-def]
    """Whether an instruction word is ``msgsndp``."""
    return (word & _MSGSNDP_FIXED) == _MSGSNDP


@njit(cache=True)
def send(vcpu, word, nip):  # type: ignore[no-untyped-def]
    """Execute ``msgsndp``; false when the state is problem state."""
    env = vcpu.env
    if load_u64(env + np.uint64(ENV_MSR)) & np.uint64(MSR_PR):
        store_u32(env + np.uint64(ENV_ERROR_CODE), _PRIVILEGED_INSTRUCTION)
        return False
    register = np.uint64((word >> np.uint32(11)) & np.uint32(31))
    message = load_u64(env + np.uint64(ENV_GPR) + np.uint64(8) * register)
    if (message & _MESSAGE_TYPE) == _DIRECTED:
        ext.ppc_set_irq(vcpu.cs, np.int32(IRQ_DOORBELL), np.int32(1))
    store_u64(env + np.uint64(ENV_NIP), nip + np.uint64(4))
    return True


@njit(cache=True)
def is_next(vcpu):  # type: ignore[no-untyped-def]
    """Whether a doorbell is the most urgent interrupt pending."""
    pending = load_u32(vcpu.env + np.uint64(ENV_PENDING_INTERRUPTS))
    return pending & _PENDING != 0 and pending & _BEFORE == 0


@njit(cache=True)
def deliver(vcpu):  # type: ignore[no-untyped-def]
    """Enter vector 0xA00 if external interrupts are enabled."""
    env = vcpu.env
    if load_u64(env + np.uint64(ENV_MSR)) & np.uint64(MSR_EE):
        ext.ppc_set_irq(vcpu.cs, np.int32(IRQ_DOORBELL), np.int32(0))
        store_u32(vcpu.cs + np.uint64(CS_EXCEPTION_INDEX), np.uint64(Excp.DECR))
        ext.ppc_cpu_do_interrupt(vcpu.cs)
        nip = env + np.uint64(ENV_NIP)
        store_u64(nip, load_u64(nip) + _VECTOR_AFTER_DECR)
