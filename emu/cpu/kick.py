"""Breaking into a running vCPU from any thread."""

from __future__ import annotations

import numpy as np
from numba import njit, types

from emu.cpu.layout import CS_EXIT_REQUEST, CS_ICOUNT_DECR_PTR
from emu.cpu.record import vcpu_at
from emu.memory.native import fence, load_u64, store_u8, store_u16


@njit(cache=True)
def break_run(vcpu):  # type: ignore[no-untyped-def]
    """Make the CPU loop return to its top at the next block start.

    Does not end ``run()``: the loop passes through ``exec_enter``, which looks at
    ``Vcpu.kick`` and the decrementer.  Any thread.
    """
    store_u8(vcpu.cs + np.uint64(CS_EXIT_REQUEST), np.uint64(1))
    fence()
    icount_decr = load_u64(vcpu.cs + np.uint64(CS_ICOUNT_DECR_PTR))
    store_u16(icount_decr + np.uint64(2), np.uint64(0xFFFF))


@njit(types.void(types.uint64), cache=True)
def break_run_at(vcpu_address):  # type: ignore[no-untyped-def]
    """:func:`break_run` for callers in Python."""
    break_run(vcpu_at(vcpu_address))
