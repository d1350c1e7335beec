"""Hypercalls served in Python: everything that is rare (LoPAPR 1.1, chapter 14).

A handler gets the machine, the calling vCPU and its arguments (r4 to r12) and returns the
return code, or a :class:`Reply` with values for r4 and up.  Handlers are in the ``hcalls_*``
modules, by subject.  The frequent calls are native, in :mod:`machines.pseries.dispatch`; the
device tree advertises function sets from both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

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

_NUMBERS = frozenset(HcallNumber)
_hcall_log = log("hcall")


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
