"""The way out for test images, H_TEST_EXIT: not PAPR's, and only there when it is asked for.

Its number is outside PAPR's (multiples of 4 below 0x10000) and QEMU's (from 0xf000).  r4's low 8
bits are the emulator's exit status.  Without ``-machine x-test-exit=on`` it is H_FUNCTION, as any
unknown number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.cpu.vcpu import Vcpu
from machines.pseries import papr
from machines.pseries.hcalls import hypercall
from machines.pseries.papr import HcallNumber

if TYPE_CHECKING:
    from machines.pseries.machine import PseriesMachine


@hypercall(HcallNumber.H_TEST_EXIT)
def _test_exit(machine: PseriesMachine, vcpu: Vcpu, args: list[int]) -> int:
    if machine.options.test_exit is None:
        machine.unknown_hypercall(vcpu.gpr(3))
        return papr.H_FUNCTION
    machine.options.test_exit(args[0] & 0xFF)
    return papr.H_SUCCESS
