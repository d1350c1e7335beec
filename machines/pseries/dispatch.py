"""The native hypercall dispatcher: frequent calls are served without leaving compiled code."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cfunc, njit, types

from emu.cpu.exceptions import cede
from emu.cpu.layout import ENV_GPR
from emu.cpu.record import Hcall, partition_at, vcpu_at
from emu.memory.native import load_u64, store_u64
from machines.pseries.hpt import (
    SUCCESS,
    argument,
    h_bulk_remove,
    h_clear_mod,
    h_clear_ref,
    h_enter,
    h_protect,
    h_read,
    h_remove,
)
from machines.pseries.papr import HcallNumber
from machines.pseries.record import pseries_at
from machines.pseries.splpar import h_confer, h_prod
from machines.pseries.vty import RING_FULL, h_get_term_char, h_put_term_char
from machines.pseries.xics_presentation import h_cppr, h_eoi, h_ipi, h_ipoll, h_xirr, h_xirr_x

_GPR3 = ENV_GPR + 8 * 3
_EXIT = np.uint64(Hcall.EXIT)
_DONE = np.uint64(Hcall.DONE)

# Function sets for /rtas/ibm,hypertas-functions, each with the calls it stands for
HYPERTAS_FUNCTIONS: dict[str, tuple[HcallNumber, ...]] = {
    "hcall-pft": (
        HcallNumber.H_ENTER,
        HcallNumber.H_REMOVE,
        HcallNumber.H_READ,
        HcallNumber.H_CLEAR_MOD,
        HcallNumber.H_CLEAR_REF,
        HcallNumber.H_PROTECT,
    ),
    "hcall-bulk": (HcallNumber.H_BULK_REMOVE,),
    "hcall-term": (HcallNumber.H_GET_TERM_CHAR, HcallNumber.H_PUT_TERM_CHAR),
    "hcall-interrupt": (
        HcallNumber.H_EOI,
        HcallNumber.H_CPPR,
        HcallNumber.H_IPI,
        HcallNumber.H_IPOLL,
        HcallNumber.H_XIRR,
        HcallNumber.H_XIRR_X,
    ),
    "hcall-tce": (HcallNumber.H_GET_TCE, HcallNumber.H_PUT_TCE),
    "hcall-multi-tce": (HcallNumber.H_STUFF_TCE, HcallNumber.H_PUT_TCE_INDIRECT),
    "hcall-dabr": (HcallNumber.H_SET_DABR,),
    "hcall-copy": (HcallNumber.H_PAGE_INIT,),
    "hcall-sprg0": (HcallNumber.H_SET_SPRG0,),
    "hcall-splpar": (
        HcallNumber.H_REGISTER_VPA,
        HcallNumber.H_CEDE,
        HcallNumber.H_CONFER,
        HcallNumber.H_PROD,
    ),
    "hcall-set-mode": (HcallNumber.H_SET_MODE,),
    "hcall-vio": (HcallNumber.H_VIO_SIGNAL,),
    "hcall-vphn": (HcallNumber.H_HOME_NODE_ASSOCIATIVITY,),
}


@njit(types.uint64(types.uint64), cache=True, nogil=True)
def serve_native(address):  # type: ignore[no-untyped-def]
    """Serve the hypercall of a vCPU record, or say that Python must (``Hcall``)."""
    vcpu = vcpu_at(address)
    partition = partition_at(vcpu.partition)
    machine = pseries_at(partition.machine)
    number = load_u64(vcpu.env + np.uint64(_GPR3))
    if number == np.uint64(HcallNumber.H_ENTER):
        code = h_enter(vcpu, partition)
    elif number == np.uint64(HcallNumber.H_REMOVE):
        code = h_remove(vcpu, partition)
    elif number == np.uint64(HcallNumber.H_PROTECT):
        code = h_protect(vcpu, partition)
    elif number == np.uint64(HcallNumber.H_BULK_REMOVE):
        code = h_bulk_remove(vcpu, partition)
    elif number == np.uint64(HcallNumber.H_CEDE):
        store_u64(vcpu.env + np.uint64(_GPR3), SUCCESS)
        return cede(address)
    elif number == np.uint64(HcallNumber.H_CONFER):
        return h_confer(vcpu, partition, argument(vcpu, 0), argument(vcpu, 1))
    elif number == np.uint64(HcallNumber.H_PROD):
        code = h_prod(partition, argument(vcpu, 0))
    elif number == np.uint64(HcallNumber.H_XIRR):
        code = h_xirr(vcpu, partition, machine)
    elif number == np.uint64(HcallNumber.H_EOI):
        code = h_eoi(vcpu, partition, machine, argument(vcpu, 0))
    elif number == np.uint64(HcallNumber.H_CPPR):
        code = h_cppr(vcpu, partition, machine, argument(vcpu, 0))
    elif number == np.uint64(HcallNumber.H_IPI):
        code = h_ipi(vcpu, partition, machine, argument(vcpu, 0), argument(vcpu, 1))
    elif number == np.uint64(HcallNumber.H_XIRR_X):
        code = h_xirr_x(vcpu, partition, machine)
    elif number == np.uint64(HcallNumber.H_IPOLL):
        code = h_ipoll(vcpu, partition, machine, argument(vcpu, 0))
    elif number == np.uint64(HcallNumber.H_PUT_TERM_CHAR):
        code = h_put_term_char(
            machine, argument(vcpu, 0), argument(vcpu, 1), argument(vcpu, 2), argument(vcpu, 3)
        )
        if code == RING_FULL:
            return _EXIT
    elif number == np.uint64(HcallNumber.H_GET_TERM_CHAR):
        code = h_get_term_char(vcpu, machine, argument(vcpu, 0))
    elif number == np.uint64(HcallNumber.H_READ):
        code = h_read(vcpu, partition)
    elif number == np.uint64(HcallNumber.H_CLEAR_MOD):
        code = h_clear_mod(vcpu, partition)
    elif number == np.uint64(HcallNumber.H_CLEAR_REF):
        code = h_clear_ref(vcpu, partition)
    else:
        return _EXIT
    store_u64(vcpu.env + np.uint64(_GPR3), code)
    return _DONE


@cfunc(types.uint64(types.uint64), cache=True)
def hypercall(address: int) -> Any:
    """The partition's hypercall function; while calls are traced, all go through Python."""
    vcpu = vcpu_at(address)
    if pseries_at(partition_at(vcpu.partition).machine).trace_hcalls != 0:
        return _EXIT
    return serve_native(address)
