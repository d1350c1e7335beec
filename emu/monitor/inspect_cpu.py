"""The CPUs as the monitors see them: which one is meant, its registers, expressions."""

from __future__ import annotations

import re
import weakref
from typing import TYPE_CHECKING

from emu.cpu.isa import Spr
from emu.cpu.registers import MIGRATABLE_SPRS, read_state
from emu.cpu.vcpu import Vcpu
from emu.monitor.registry import QmpError

if TYPE_CHECKING:
    from emu.machine import Machine

_MASK = (1 << 64) - 1
_TOKEN = re.compile(
    r"\s*(?:(0[xX][0-9a-fA-F]+|[0-9]+)|\$(\w+)|([A-Za-z_.][\w.$]*)|([-+*()]))", re.ASCII
)
_chosen: weakref.WeakKeyDictionary[Machine, int] = weakref.WeakKeyDictionary()


def current_cpu(machine: Machine) -> Vcpu:
    """The CPU that commands are about (``cpu N``)."""
    return machine.board.vcpus[_chosen.get(machine, 0)]


def cpu_by_index(machine: Machine, index: int | None) -> Vcpu:
    """A CPU by number, or the current one; :class:`QmpError`."""
    if index is None:
        return current_cpu(machine)
    if not 0 <= index < len(machine.board.vcpus):
        raise QmpError("Parameter 'cpu-index' expects a CPU number")
    return machine.board.vcpus[index]


def cpu(machine: Machine, words: list[str]) -> str:
    """``cpu N``: commands are about this CPU from now on."""
    if len(words) != 1 or not words[0].isdigit():
        raise ValueError("cpu: expected a number")
    if int(words[0]) >= len(machine.board.vcpus):
        raise ValueError("invalid CPU index")
    _chosen[machine] = int(words[0])
    return ""


def info_cpus(machine: Machine, _words: list[str]) -> str:
    """One line for each CPU, a star at the current one."""
    return str(machine.on_vcpu(lambda: _info_cpus(machine)))


def _info_cpus(machine: Machine) -> str:
    chosen = current_cpu(machine)
    lines = []
    for vcpu in machine.board.vcpus:
        mark = "*" if vcpu is chosen else " "
        state = ""
        if vcpu.record["stopped"]:
            state = " (stopped)"
        elif vcpu.record["halted"]:
            state = " (halted)"
        lines.append(
            f"{mark} CPU #{vcpu.index}: nip={vcpu.pc:#018x}{state} thread_id={machine.thread_id}"
        )
    return "\n".join(lines)


def register(vcpu: Vcpu, name: str) -> int:
    """A register by name, for ``$name``; ``ValueError`` for an unknown one.  vCPU thread."""
    lower = name.lower()
    state = read_state(vcpu)
    values: dict[str, int] = {
        **{f"r{n}": value for n, value in enumerate(state.gpr)},
        **{"pc": state.nip, "nip": state.nip, "sp": state.gpr[1], "lr": state.lr},
        **{"ctr": state.ctr, "msr": state.msr, "xer": state.xer, "cr": state.cr},
        **{"ccr": state.cr, "cfar": state.cfar, "tb": state.timebase, "fpscr": state.fpscr},
        "pvr": vcpu.spr(Spr.PVR),
        **{spr.lower(): vcpu.spr(number) for spr, number in MIGRATABLE_SPRS.items()},
    }
    if lower not in values:
        raise ValueError(f"unknown register '${name}'")
    return values[lower]


class _Parser:
    """``number``, ``$register``, ``symbol``, sums, differences, products, parentheses."""

    def __init__(self, machine: Machine, text: str) -> None:
        self._machine = machine
        self._tokens: list[tuple[str, str]] = []
        at = 0
        text = text.strip()
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise ValueError(f"unexpected '{text[at:]}' in expression")
            kind = ("number", "register", "symbol", "sign")[(match.lastindex or 1) - 1]
            self._tokens.append((kind, str(match[match.lastindex or 1])))
            at = match.end()
        self._at = 0

    def parse(self) -> int:
        """The value, 64 bits."""
        value = self._sum()
        if self._at < len(self._tokens):
            raise ValueError(f"unexpected '{self._tokens[self._at][1]}' in expression")
        return value & _MASK

    def _peek(self) -> str:
        return self._tokens[self._at][1] if self._at < len(self._tokens) else ""

    def _sum(self) -> int:
        value = self._product()
        while self._peek() in ("+", "-"):
            sign = self._peek()
            self._at += 1
            value = value + self._product() if sign == "+" else value - self._product()
        return value

    def _product(self) -> int:
        value = self._unary()
        while self._peek() == "*":
            self._at += 1
            value *= self._unary()
        return value

    def _unary(self) -> int:
        negative = False
        while self._peek() in ("-", "+"):
            negative ^= self._peek() == "-"
            self._at += 1
        value = self._primary()
        return -value if negative else value

    def _primary(self) -> int:
        if self._at >= len(self._tokens):
            raise ValueError("expression expected")
        kind, text = self._tokens[self._at]
        self._at += 1
        if kind == "number":
            return int(text, 16 if text[:2].lower() == "0x" else 10)
        if kind == "register":
            vcpu = current_cpu(self._machine)
            return int(self._machine.on_vcpu(lambda: register(vcpu, text)))
        if kind == "symbol":
            address = self._machine.trace.symbols.address_of(text)
            if address is None:
                raise ValueError(f"unknown symbol '{text}'")
            return address
        if text == "(":
            value = self._sum()
            if self._peek() != ")":
                raise ValueError("')' expected")
            self._at += 1
            return value
        raise ValueError(f"unexpected '{text}' in expression")


_MAX_EXPRESSION = 256


def evaluate(machine: Machine, text: str) -> int:
    """The value of an expression, 64 bits; ``ValueError`` for a mistake."""
    if len(text) > _MAX_EXPRESSION:
        raise ValueError("expression too long")
    return _Parser(machine, text).parse()
