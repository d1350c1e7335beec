"""Guest memory in the monitors: x, xp, gva2gpa, memsave, pmemsave, info symbol."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from emu.cpu.mmu import debug_translate
from emu.cpu.vcpu import Vcpu
from emu.memory.endian import GuestEndian
from emu.monitor.inspect_cpu import cpu_by_index, current_cpu, evaluate
from emu.monitor.registry import Arguments, QmpError, command
from emu.trace.symbols import describe

if TYPE_CHECKING:  # capstone takes a while to load: when first needed
    from emu.machine import Machine
    from emu.trace.disassembler import Disassembler

_PAGE = 4096
_MASK = (1 << 64) - 1
_FORMAT = re.compile(r"(\d*)([xduoci]?)([bhwg]?)([xduoci]?)")
_SIZES = {"b": 1, "h": 2, "w": 4, "g": 8}
_CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}
_LINE_BYTES = 16
_MAX_BYTES = 1 << 20
_PIECE = 1 << 20


class UnmappedError(Exception):
    """Nothing readable at an address, which is the argument."""


def translate(vcpu: Vcpu, address: int) -> int | None:
    """Guest real address of an effective one in the CPU's present state.  vCPU thread."""
    mapped, real = debug_translate(vcpu.address, address & _MASK)
    return int(real) if mapped else None


def _pieces(vcpu: Vcpu, address: int, size: int) -> Iterator[tuple[int, int]]:
    """Guest real ranges in RAM that an effective range is; :class:`UnmappedError`."""
    while size:
        length = min(size, _PAGE - address % _PAGE)
        real = translate(vcpu, address)
        if real is None or not vcpu.partition.ram.contains(real, length):
            raise UnmappedError(address)
        yield real, length
        address, size = address + length & _MASK, size - length


def read_memory(vcpu: Vcpu, address: int, size: int, *, physical: bool = False) -> bytes:
    """RAM at an effective (or guest real) address; :class:`UnmappedError`.  vCPU thread."""
    ram = vcpu.partition.ram
    if physical:
        if not ram.contains(address, size):
            raise UnmappedError(address)
        return ram.read(address, size)
    return b"".join(ram.read(real, length) for real, length in _pieces(vcpu, address, size))


def _parse_format(text: str) -> tuple[int, str, int]:
    """(count, kind, bytes of an item) of what follows the slash."""
    match = _FORMAT.fullmatch(text)
    if match is None or (match[2] and match[4]):
        raise ValueError(f"invalid format '/{text}' (count, one of xduoci, one of bhwg)")
    kind = match[2] or match[4] or "x"
    size = 4 if kind == "i" else _SIZES[match[3] or ("b" if kind == "c" else "w")]
    count = int(match[1] or 1)
    if count * size > _MAX_BYTES:
        raise ValueError(f"more than {_MAX_BYTES} bytes")
    return count, kind, size


def _split(words: list[str], name: str) -> tuple[str, str]:
    """The format and the expression of ``x /fmt address``."""
    form = ""
    if words and words[0].startswith("/"):
        form, words = words[0][1:], words[1:]
    if not words:
        raise ValueError(f"{name}: expected an address")
    return form, " ".join(words)


def _dump(machine: Machine, words: list[str], name: str, *, physical: bool) -> str:
    form, expression = _split(words, name)
    count, kind, size = _parse_format(form)
    address = evaluate(machine, expression)
    return str(machine.on_vcpu(lambda: _examine(machine, address, count, kind, size, physical)))


def _examine(
    machine: Machine, address: int, count: int, kind: str, size: int, physical: bool
) -> str:
    from emu.trace.disassembler import Disassembler

    vcpu = current_cpu(machine)
    lines: list[str] = []
    step = size if kind == "i" else (_LINE_BYTES if kind != "c" else 8)
    left = count * size
    disassembler = Disassembler() if kind == "i" else None
    try:
        while left:
            length = min(left, step)
            data = read_memory(vcpu, address, length, physical=physical)
            little = vcpu.guest_endian is GuestEndian.LITTLE
            if disassembler is not None:
                lines += _instructions(machine, disassembler, address, data, little)
            else:
                lines.append(f"{address:016x}: {_items(data, kind, size, little)}")
            address, left = address + length & _MASK, left - length
    except UnmappedError as error:
        lines.append(f"{error.args[0]:#018x}: Cannot access memory")
    return "\n".join(lines)


def _instructions(
    machine: Machine, disassembler: Disassembler, address: int, data: bytes, little: bool
) -> Iterator[str]:
    for at in disassembler.instructions(data, address, little=little):
        name = describe(machine.trace.symbols.find(at.address), at.address)
        where = f" <{name}>" if name else ""
        yield f"{at.address:#018x}{where}:  {at.word:08x}  {at.text}"


def _items(data: bytes, kind: str, size: int, little: bool) -> str:
    order = "<" if little else ">"
    code = _CODES[size].lower() if kind == "d" else _CODES[size]
    values = struct.unpack(f"{order}{len(data) // size}{code}", data)
    if kind == "x":
        return " ".join(f"{value:#0{2 * size + 2}x}" for value in values)
    if kind == "o":
        return " ".join(f"0{value:0{-(-8 * size // 3)}o}" for value in values)
    if kind == "c":
        return " ".join(_character(value) for value in values)
    width = len(str(1 << 8 * size))
    return " ".join(f"{value:{width}}" for value in values)


def _character(value: int) -> str:
    text = chr(value)
    if value < 0x7F and text.isprintable():
        return f"'{text}'" if text not in "'\\" else f"'\\{text}'"
    return {0: "'\\0'", 9: "'\\t'", 10: "'\\n'", 13: "'\\r'"}.get(value, f"'\\x{value:02x}'")


def x(machine: Machine, words: list[str]) -> str:
    """``x /fmt address``: memory at an effective address of the current CPU."""
    return _dump(machine, words, "x", physical=False)


def xp(machine: Machine, words: list[str]) -> str:
    """``xp /fmt address``: memory at a guest real address."""
    return _dump(machine, words, "xp", physical=True)


def gva2gpa(machine: Machine, words: list[str]) -> str:
    """``gva2gpa address``: where the current CPU finds an effective address."""
    address = evaluate(machine, " ".join(words))
    real = machine.on_vcpu(lambda: translate(current_cpu(machine), address))
    return "Unmapped" if real is None else f"gpa: {real:#x}"


def info_symbol(machine: Machine, words: list[str]) -> str:
    """``info symbol address``: its name."""
    address = evaluate(machine, " ".join(words))
    symbol = machine.trace.symbols.find(address)
    if symbol is None:
        return f"no symbol for {address:#x}"
    size = symbol.end - symbol.start
    return f"{describe(symbol, address)} ({symbol.start:#x}, {size} bytes)"


def _save(
    machine: Machine, address: int, size: int, path: str, vcpu: Vcpu, *, physical: bool
) -> None:
    if not 0 <= address <= _MASK or not 0 <= size <= _MASK:
        raise QmpError("Parameter 'size' expects a positive 64-bit number")

    def write() -> None:
        with open(path, "wb") as file:
            for offset in range(0, size, _PIECE):
                length = min(_PIECE, size - offset)
                at = address + offset & _MASK
                file.write(read_memory(vcpu, at, length, physical=physical))

    try:
        machine.on_vcpu(write)
    except UnmappedError as error:
        raise QmpError(f"Invalid addr {error.args[0]:#018x}/size {size} specified") from None
    except OSError as error:
        raise QmpError(f"Could not open '{path}': {error.strerror}") from error


@command("memsave", val=int, size=int, filename=str, cpu_index_opt=int)
def _memsave(machine: Machine, arguments: Arguments) -> dict[str, Any]:
    vcpu = cpu_by_index(machine, arguments.get("cpu-index"))
    name = arguments["filename"]
    _save(machine, arguments["val"], arguments["size"], name, vcpu, physical=False)
    return {}


@command("pmemsave", val=int, size=int, filename=str)
def _pmemsave(machine: Machine, arguments: Arguments) -> dict[str, Any]:
    vcpu = current_cpu(machine)
    name = arguments["filename"]
    _save(machine, arguments["val"], arguments["size"], name, vcpu, physical=True)
    return {}


def memsave(machine: Machine, words: list[str]) -> str:
    """``memsave address size file``."""
    return _save_words(machine, words, "memsave", physical=False)


def pmemsave(machine: Machine, words: list[str]) -> str:
    """``pmemsave address size file``."""
    return _save_words(machine, words, "pmemsave", physical=True)


def _save_words(machine: Machine, words: list[str], name: str, *, physical: bool) -> str:
    if len(words) != 3:
        raise ValueError(f"{name}: expected an address, a size and a file")
    address, size = evaluate(machine, words[0]), evaluate(machine, words[1])
    _save(machine, address, size, words[2], current_cpu(machine), physical=physical)
    return ""
