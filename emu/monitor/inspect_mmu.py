"""``info tlb``: how the guest's effective addresses are translated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.cpu.isa import MSR_DR, MSR_IR
from emu.monitor import inspect_hash, inspect_radix
from emu.monitor.inspect_cpu import current_cpu, evaluate

if TYPE_CHECKING:
    from emu.machine import Machine


def info_tlb(machine: Machine, words: list[str]) -> str:
    """``info tlb [address]``: the current CPU's mappings, or how it finds one address."""
    address = evaluate(machine, " ".join(words)) if words else None
    return str(machine.on_vcpu(lambda: _info_tlb(machine, address)))


def _info_tlb(machine: Machine, address: int | None) -> str:
    vcpu = current_cpu(machine)
    relocate = [name for bit, name in ((MSR_IR, "IR"), (MSR_DR, "DR")) if vcpu.msr & bit]
    radix = bool(vcpu.partition.record["radix"])
    mode = f"{'radix' if radix else 'hash'}, MSR {' '.join(relocate) or 'real mode'}"
    module = inspect_radix if radix else inspect_hash
    text = module.info_tlb(vcpu) if address is None else module.info_address(vcpu, address)
    return f"{mode}\n{text}"
