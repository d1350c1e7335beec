"""What the guest is told about speculation decides what its mitigations cost."""

from __future__ import annotations

from typing import Any, cast

from machines.pseries import hcalls, hcalls_cpu
from machines.pseries.papr import CpuBehaviour, CpuCharacteristics, HcallNumber

assert hcalls_cpu  # registers the handler


def test_guest_is_told_to_flush_nothing() -> None:
    handler = hcalls.HANDLERS[HcallNumber.H_GET_CPU_CHARACTERISTICS]
    reply = cast(Any, handler)(None, None, [0] * 8)
    characteristics, behaviour = reply.values
    assert characteristics & CpuCharacteristics.L1D_FLUSH_ORI30
    assert behaviour & CpuBehaviour.NO_L1D_FLUSH_ENTRY
    assert behaviour & CpuBehaviour.NO_L1D_FLUSH_UACCESS
    assert behaviour & CpuBehaviour.NO_STF_BARRIER
