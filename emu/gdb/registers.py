"""The registers as gdb numbers them, and the target description that says so.

Names and sizes in the ``org.gnu.gdb.power`` features are what gdb demands ("PowerPC Features" in
its manual); the other special purpose registers are a feature of our own.  A register's number is
its place in :data:`REGISTERS`.  Values travel in the guest's present byte order, MSR[LE].
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal
from xml.sax.saxutils import quoteattr

from emu.cpu.isa import MSR_LE, Spr
from emu.cpu.registers import MIGRATABLE_SPRS, CpuState, read_state, write_state
from emu.cpu.vcpu import Vcpu

ARCHITECTURE = "powerpc:common64"
_M64 = (1 << 64) - 1


@dataclass(frozen=True)
class Register:
    """One register of the description; ``kind`` is its type there."""

    name: str
    bits: int
    kind: str
    group: str = ""
    writable: bool = True

    @property
    def size(self) -> int:
        """Bytes."""
        return self.bits // 8


def _numbered(pattern: str, bits: int, kind: str, group: str = "") -> tuple[Register, ...]:
    return tuple(Register(pattern.format(n), bits, kind, group) for n in range(32))


_IN_OTHER_FEATURES = ("VRSAVE",)
_SPR_NAMES = {name.lower(): name for name in MIGRATABLE_SPRS if name not in _IN_OTHER_FEATURES}
_CONSTANT = ("pvr", "pir")
_PLAIN = ("msr", "cr", "lr", "ctr", "xer", "fpscr", "vscr", "cfar")

FEATURES: Mapping[str, tuple[Register, ...]] = {
    "org.gnu.gdb.power.core": (
        *_numbered("r{}", 64, "uint64"),
        Register("pc", 64, "code_ptr"),
        Register("msr", 64, "uint64"),
        Register("cr", 32, "uint32"),
        Register("lr", 64, "code_ptr"),
        Register("ctr", 64, "uint64"),
        Register("xer", 32, "uint32"),
    ),
    "org.gnu.gdb.power.fpu": (
        *_numbered("f{}", 64, "ieee_double", "float"),
        Register("fpscr", 64, "int", "float"),
    ),
    "org.gnu.gdb.power.altivec": (
        *_numbered("vr{}", 128, "vec128"),
        Register("vscr", 32, "int", "vector"),
        Register("vrsave", 32, "int", "vector"),
    ),
    "org.gnu.gdb.power.vsx": _numbered("vs{}h", 64, "uint64"),
    "org.ppc64emu.power.spr": (
        *(Register(name, 64, "uint64", "system") for name in ("tb", "dec", "cfar")),
        *(Register(name, 64, "uint64", "system") for name in _SPR_NAMES),
        *(Register(name, 64, "uint64", "system", writable=False) for name in _CONSTANT),
    ),
}
REGISTERS: tuple[Register, ...] = tuple(r for feature in FEATURES.values() for r in feature)
_VECTOR_TYPES = """\
<vector id="v4f" type="ieee_single" count="4"/><vector id="v2d" type="ieee_double" count="2"/>\
<vector id="v4i32" type="int32" count="4"/><vector id="v8i16" type="int16" count="8"/>\
<vector id="v16i8" type="int8" count="16"/><union id="vec128">\
<field name="uint128" type="uint128"/><field name="v2_double" type="v2d"/>\
<field name="v4_float" type="v4f"/><field name="v4_int32" type="v4i32"/>\
<field name="v8_int16" type="v8i16"/><field name="v16_int8" type="v16i8"/></union>"""


def target_description() -> bytes:
    """The XML document ``target.xml``."""
    lines = ['<?xml version="1.0"?>', '<!DOCTYPE target SYSTEM "gdb-target.dtd">']
    lines += ['<target version="1.0">', f"<architecture>{ARCHITECTURE}</architecture>"]
    for name, registers in FEATURES.items():
        lines.append(f"<feature name={quoteattr(name)}>")
        if name == "org.gnu.gdb.power.altivec":
            lines.append(_VECTOR_TYPES)
        lines += [_describe(register) for register in registers]
        lines.append("</feature>")
    return "\n".join([*lines, "</target>", ""]).encode()


def _describe(register: Register) -> str:
    text = f'<reg name="{register.name}" bitsize="{register.bits}" type="{register.kind}"'
    if register.group:
        text += f' group="{register.group}"'
    if register.group == "system":
        text += ' save-restore="no"'  # not across a function that gdb calls
    return text + "/>"


def _from_state(state: CpuState) -> dict[str, int]:
    values = {f"r{n}": value for n, value in enumerate(state.gpr)}
    values |= {f"f{n}": value >> 64 for n, value in enumerate(state.vsr[:32])}
    values |= {f"vs{n}h": value & _M64 for n, value in enumerate(state.vsr[:32])}
    values |= {f"vr{n}": value for n, value in enumerate(state.vsr[32:])}
    values |= {name: getattr(state, name) for name in _PLAIN}
    values |= {name: state.sprs[spr] for name, spr in _SPR_NAMES.items()}
    values["pc"], values["vrsave"] = state.nip, state.sprs["VRSAVE"]
    values["tb"], values["dec"] = state.timebase, state.decrementer & _M64
    return values


def _to_state(state: CpuState, values: Mapping[str, int]) -> CpuState:
    upper = tuple(values[f"f{n}"] << 64 | values[f"vs{n}h"] for n in range(32))
    sprs = {spr: values[name] for name, spr in _SPR_NAMES.items()}
    decrementer = values["dec"] - (1 << 64) if values["dec"] >> 63 else values["dec"]
    plain: dict[str, Any] = {name: values[name] for name in _PLAIN}
    return replace(
        state,
        gpr=tuple(values[f"r{n}"] for n in range(32)),
        vsr=upper + tuple(values[f"vr{n}"] for n in range(32)),
        sprs={**state.sprs, **sprs, "VRSAVE": values["vrsave"]},
        nip=values["pc"] & ~3,
        timebase=values["tb"],
        decrementer=decrementer,
        # Where gdb sends it, it runs: sleeping on there would be no answer to "jump".
        halted=state.halted and values["pc"] == state.nip,
        **plain,
    )


class RegisterFile:
    """The registers of a vCPU that is not running (vCPU thread)."""

    def __init__(self, vcpu: Vcpu) -> None:
        self._vcpu = vcpu
        self._state = read_state(vcpu)
        self._values = _from_state(self._state)
        self._values["pvr"], self._values["pir"] = vcpu.spr(Spr.PVR), vcpu.spr(Spr.PIR)

    @property
    def _order(self) -> Literal["little", "big"]:
        return "little" if self._state.msr & MSR_LE else "big"

    def read(self, number: int) -> bytes:
        """One register; ``IndexError`` if there is none of that number."""
        register = REGISTERS[number]
        value = self._values[register.name] & (1 << register.bits) - 1
        return value.to_bytes(register.size, self._order)

    def read_all(self) -> bytes:
        """All of them."""
        return b"".join(self.read(number) for number in range(len(REGISTERS)))

    def write(self, number: int, data: bytes) -> None:
        """Change one register.

        ``IndexError`` if there is none of that number; ``ValueError``, with nothing changed, for
        a wrong size, a constant register, or a state that no CPU has.
        """
        register = REGISTERS[number]
        if not register.writable or len(data) != register.size:
            raise ValueError(f"{register.name}: not writable, or not {register.size} bytes")
        self._store({register.name: int.from_bytes(data, self._order)})

    def write_all(self, data: bytes) -> None:
        """Change all that are writable; ``ValueError`` as for :meth:`write`."""
        if len(data) != sum(register.size for register in REGISTERS):
            raise ValueError(f"{len(data)} bytes of registers")
        values, start = {}, 0
        for register in REGISTERS:
            part = data[start : start + register.size]
            start += register.size
            if register.writable:
                values[register.name] = int.from_bytes(part, self._order)
        self._store(values)

    def set_pc(self, address: int) -> None:
        """Go on elsewhere."""
        self._store({"pc": address & _M64})

    def _store(self, values: Mapping[str, int]) -> None:
        write_state(self._vcpu, _to_state(self._state, {**self._values, **values}))
