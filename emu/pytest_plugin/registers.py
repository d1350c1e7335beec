"""Registers of a guest's CPU by name, for tests."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from emu.cpu.registers import MIGRATABLE_SPRS, CpuState, read_state, write_state

if TYPE_CHECKING:
    from emu.pytest_plugin.guest import GuestMachine

_M64 = (1 << 64) - 1
_NUMBERED = re.compile(r"(r|gpr|f|fpr|v|vr|vs|vsr)(\d{1,2})|cr(\d)")
_FIELDS = {name: name for name in ("cr", "xer", "lr", "ctr", "msr", "fpscr", "vscr", "cfar")} | {
    "nip": "nip",
    "pc": "nip",
    "tb": "timebase",
    "dec": "decrementer",
}


@dataclass(frozen=True)
class _Register:
    """How a register is taken from a state and put into one; `bits` is its width."""

    read: Callable[[CpuState], int]
    write: Callable[[CpuState, int], CpuState]
    bits: int = 64


class Registers(MutableMapping[str, int]):
    """Registers of one CPU: `registers["r3"]`, `registers["nip"] = 0x100`. Any thread.

    Names, in either case: r0-r31, f0-f31 (64 bits), v0-v31 and vs0-vs63 (128 bits), nip or pc, lr,
    ctr, cr, cr0-cr7 (4 bits), xer, msr, fpscr, vscr, cfar, tb, dec (signed), and the special
    purpose registers of `emu.cpu.registers` (srr0, sprg0, dar, pid, lpcr, ...). Values are
    unsigned integers. KeyError for other names; the guest stands still during each call.
    """

    def __init__(self, machine: GuestMachine, cpu: int = 0) -> None:
        self._machine = machine
        self._cpu = cpu

    def state(self) -> CpuState:
        """All registers at one moment."""
        state: CpuState = self._machine.on_vcpu(lambda: read_state(self._machine.vcpu(self._cpu)))
        return state

    def __getitem__(self, name: str) -> int:
        return _register(name).read(self.state())

    def __setitem__(self, name: str, value: int) -> None:
        register = _register(name)
        if value >> register.bits not in (0, -1):
            raise ValueError(f"{name} has {register.bits} bits, not {value:#x}")
        value &= (1 << register.bits) - 1

        def work() -> None:
            vcpu = self._machine.vcpu(self._cpu)
            write_state(vcpu, register.write(read_state(vcpu), value))

        self._machine.on_vcpu(work)

    def __delitem__(self, name: str) -> None:
        raise TypeError("registers cannot be deleted")

    def __iter__(self) -> Iterator[str]:
        yield from (f"r{number}" for number in range(32))
        yield from _FIELDS
        yield from (name.lower() for name in MIGRATABLE_SPRS)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _register(name: str) -> _Register:
    wanted = name.lower()
    if wanted in _FIELDS:
        return _field(_FIELDS[wanted])
    if wanted.upper() in MIGRATABLE_SPRS:
        return _spr(wanted.upper())
    match = _NUMBERED.fullmatch(wanted)
    register = None if match is None else _numbered(match[1] or "cr", int(match[2] or match[3]))
    if register is None:
        raise KeyError(f"no register {name!r} (known: r0, f0, v0, vs0, nip, lr, msr, srr0, ...)")
    return register


def _field(name: str) -> _Register:
    bits = 32 if name in ("cr", "vscr") else 64
    if name != "decrementer":
        return _Register(lambda s: getattr(s, name), lambda s, value: _with(s, name, value), bits)

    def write(state: CpuState, value: int) -> CpuState:
        return _with(state, name, value - (1 << 64) if value >> 63 else value)

    return _Register(lambda s: s.decrementer, write)


def _with(state: CpuState, name: str, value: object) -> CpuState:
    changes: dict[str, object] = {name: value}
    return replace(state, **changes)  # type: ignore[arg-type]


def _spr(name: str) -> _Register:
    return _Register(
        lambda s: s.sprs[name], lambda s, value: replace(s, sprs={**s.sprs, name: value})
    )


def _numbered(kind: str, number: int) -> _Register | None:
    limit = {"cr": 8, "vs": 64, "vsr": 64}.get(kind, 32)
    if number >= limit:
        return None
    if kind in ("r", "gpr"):
        return _Register(
            lambda s: s.gpr[number],
            lambda s, value: replace(s, gpr=_changed(s.gpr, number, value)),
        )
    if kind == "cr":
        shift = 28 - 4 * number
        return _Register(
            lambda s: s.cr >> shift & 15,
            lambda s, value: replace(s, cr=s.cr & ~(15 << shift) | value << shift),
            bits=4,
        )
    if kind in ("f", "fpr"):
        return _Register(
            lambda s: s.vsr[number] >> 64,
            lambda s, value: replace(
                s, vsr=_changed(s.vsr, number, value << 64 | s.vsr[number] & _M64)
            ),
        )
    index = number if kind in ("vs", "vsr") else number + 32
    return _Register(
        lambda s: s.vsr[index],
        lambda s, value: replace(s, vsr=_changed(s.vsr, index, value)),
        bits=128,
    )


def _changed(values: tuple[int, ...], index: int, value: int) -> tuple[int, ...]:
    return (*values[:index], value, *values[index + 1 :])
