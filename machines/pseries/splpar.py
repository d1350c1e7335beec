"""H_CONFER and H_PROD: vCPUs that share a processor help each other (PAPR 14.11.1)."""

from __future__ import annotations

import numpy as np
from numba import njit

from emu.cpu.layout import ENV_GPR
from emu.cpu.record import Hcall, vcpu_at
from emu.cpu.turns import VPA_DISPATCH_COUNTER, prod
from emu.memory.native import load_u32_be, store_u64
from machines.pseries.hpt import PARAMETER, SUCCESS

_GPR3 = ENV_GPR + 8 * 3
_ANYBODY = np.uint64((1 << 64) - 1)
_DONE, _TURN_OVER = np.uint64(Hcall.DONE), np.uint64(Hcall.TURN_OVER)
_ODD = np.uint32(1)


@njit(cache=True)
def _has_had_turn(partition, target, dispatch):  # type: ignore[no-untyped-def]
    """Whether a vCPU runs, or has run since its dispatch counter was ``dispatch``."""
    area = vcpu_at(partition.vcpus[target]).vpa
    if area == 0:
        return False
    count = load_u32_be(partition.ram + area + np.uint64(VPA_DISPATCH_COUNTER))
    return np.uint64(dispatch) & np.uint64(0xFFFFFFFF) != count or count & _ODD == np.uint32(0)


@njit(cache=True)
def h_confer(vcpu, partition, target, dispatch):  # type: ignore[no-untyped-def]
    """H_CONFER(vCPU or -1 for any, its dispatch counter): give the rest of the turn away.

    Sets the hypercall's result and returns an ``Hcall``.
    """
    count = np.uint64(partition.vcpu_count)
    result = vcpu.env + np.uint64(_GPR3)
    if target != _ANYBODY and target >= count:
        store_u64(result, PARAMETER)
        return _DONE
    store_u64(result, SUCCESS)
    if count < np.uint64(2):
        return _DONE
    if target != _ANYBODY:
        if _has_had_turn(partition, target, dispatch):
            return _DONE
        partition.favoured = np.uint32(target)
    return _TURN_OVER


@njit(cache=True)
def h_prod(partition, target):  # type: ignore[no-untyped-def]
    """H_PROD(vCPU)."""
    if target >= np.uint64(partition.vcpu_count):
        return PARAMETER
    prod(vcpu_at(partition.vcpus[target]), partition)
    return SUCCESS
