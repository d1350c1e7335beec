"""Hypercalls of firmware and of virtual I/O: RTAS, client architecture support, the console."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.cpu.vcpu import Vcpu
from emu.log import guest_error, log
from firmware.boot_image import FDT_MAX_SIZE
from firmware.cpu_features import CPU_FACTS, CpuModel
from firmware.flat_tree_edit import HEADER, tree_size, walk
from machines.pseries import cas, papr
from machines.pseries.hcalls import hypercall
from machines.pseries.papr import HcallNumber

if TYPE_CHECKING:
    from machines.pseries.machine import PseriesMachine

_fdt_log = log("fdt")
_REAL_ADDRESS = (1 << 60) - 1


@hypercall(HcallNumber.H_RTAS)
def _rtas(machine: PseriesMachine, vcpu: Vcpu, args: list[int]) -> int:
    return machine.rtas.call(vcpu, args[0])


@hypercall(HcallNumber.H_CAS)
def _client_architecture_support(machine: PseriesMachine, vcpu: Vcpu, args: list[int]) -> int:
    """(wishes, buffer, its size): the answer is a version word and the device tree."""
    wishes, buffer, size = args[0] & _REAL_ADDRESS, args[1], args[2]
    try:
        agreement = cas.negotiate(machine.dma, wishes, CPU_FACTS[CpuModel(vcpu.model)])
    except cas.UnknownProcessorError:
        guest_error("pseries", "the guest knows no processor like this one")
        return papr.H_HARDWARE
    except cas.BadRequestError as error:
        guest_error("pseries", "ibm,client-architecture-support: %s", error)
        return papr.H_PARAMETER
    answer = cas.UPDATE_VERSION.to_bytes(4, "big") + cas.agreed_tree(machine.fdt, agreement)
    if len(answer) > size:
        return papr.H_PARAMETER
    machine.dma.write(buffer, answer)
    return papr.H_SUCCESS


@hypercall(HcallNumber.H_UPDATE_DT)
def _update_dt(machine: PseriesMachine, _vcpu: Vcpu, args: list[int]) -> int:
    """(tree): firmware shows the tree it gives the guest.  It is checked; nothing here needs it."""
    address = args[0] & _REAL_ADDRESS
    try:
        size = tree_size(machine.dma.read(address, HEADER.size))
        if size > FDT_MAX_SIZE:
            return papr.H_PARAMETER
        count = sum(1 for _ in walk(machine.dma.read(address, size)))
    except ValueError as error:
        guest_error("pseries", "H_UPDATE_DT: %s", error)
        return papr.H_PARAMETER
    _fdt_log("firmware's tree: %d bytes, %d properties", size, count)
    return papr.H_SUCCESS


@hypercall(HcallNumber.H_VIO_SIGNAL)
def _vio_signal(machine: PseriesMachine, _vcpu: Vcpu, args: list[int]) -> int:
    return machine.vio_signal(args[0], args[1])


@hypercall(HcallNumber.H_PUT_TERM_CHAR)
def _put_term_char(machine: PseriesMachine, _vcpu: Vcpu, args: list[int]) -> int:
    return machine.put_term_char_slow(args[0], args[1], args[2], args[3])
