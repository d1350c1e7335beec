"""Asking the emulator's MMU for one translation, without a guest running."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, types

from emu.cpu.mmu import translate
from emu.cpu.record import partition_at, vcpu_at
from tests.support.bare import BareMachine

READ, WRITE, EXECUTE = 1, 2, 4  # PAGE_* bits


@dataclass(frozen=True)
class Answer:
    """Fault number (0: none), guest real address, and what the page may be mapped with."""

    fault: int
    real: int = 0
    prot: int = 0


@njit(
    types.UniTuple(types.uint64, 3)(types.uint64, types.uint64, types.int64, types.int64),
    cache=True,
)
def _translate(vcpu_address, address, need, how):  # type: ignore[no-untyped-def]
    vcpu = vcpu_at(vcpu_address)
    fault, real, prot = translate(
        vcpu,
        partition_at(vcpu.partition),
        address,
        need,
        how & 4 != 0,
        how & 2 != 0,
        how & 1 != 0,
    )
    return np.uint64(fault), np.uint64(real), np.uint64(prot)


def ask(
    machine: BareMachine,
    address: int,
    need: int,
    *,
    user: bool = False,
    update: bool = True,
    real_mode: bool = False,
) -> Answer:
    """Translate an effective address for an access that needs one PAGE_* bit."""
    how = real_mode << 2 | user << 1 | update
    fault, real, prot = _translate(machine.vcpu.address, np.uint64(address), need, how)
    return Answer(int(fault), int(real), int(prot)) if not fault else Answer(int(fault))
