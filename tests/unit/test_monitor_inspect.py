"""x, xp, gva2gpa, memsave, symbols, CPUs and interrupt controllers in the monitors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.config import MachineConfig
from emu.config_trace import SymbolFile, TraceConfig
from emu.cpu.isa import MSR_DR, MSR_IR, MSR_LE
from emu.machine import Machine
from emu.monitor.hmp import execute
from emu.monitor.inspect_cpu import evaluate
from emu.monitor.registry import COMMANDS, QmpError
from emu.options import parse_command_line
from tests.support import asm

ENTRY = 0x100
RAM = 256 << 20
CODE = [asm.li(3, 1), asm.b(8), asm.ILLEGAL, asm.b(0)]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """Two CPUs that stand still; memory from 0x1000 on holds 0, 1, 2, ..."""
    data = bytearray(0x2000)
    data[ENTRY : ENTRY + 16] = asm.assemble(CODE)
    data[0x1000:0x1100] = bytes(range(256))
    bios, names = tmp_path / "image.bin", tmp_path / "names"
    bios.write_bytes(data)
    names.write_text("100 T entry\n108 T stop\n10c T end\n1000 D table\n")
    trace = TraceConfig(symbols=(SymbolFile(str(names)),))
    config = MachineConfig(
        bios=bios, ram_size=RAM, smp=2, start_paused=True, trace=trace, nodefaults=True
    )
    with Machine(config) as machine:
        machine.start()
        yield machine


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("xp 0x1000", "0000000000001000: 0x00010203"),
        ("xp /2xw 0x1000", "0000000000001000: 0x00010203 0x04050607"),
        ("xp/2hx 0x1000", "0000000000001000: 0x0001 0x0203"),
        ("xp /3bx 0x1001", "0000000000001001: 0x01 0x02 0x03"),
        ("xp /gx table", "0000000000001000: 0x0001020304050607"),
        ("xp /2du 0x1000", "Error: invalid format '/2du'"),
        ("xp /2dw 0x1080", "0000000000001080: -2138996093 -2071624057"),
        ("xp /2ub 0x10fe", "00000000000010fe: 254 255"),
        ("xp /2ob 0x1007", "0000000000001007: 0007 0010"),
        ("xp /4c 0x1041", "0000000000001041: 'A' 'B' 'C' 'D'"),
        ("xp /4c 0x1027", "0000000000001027: '\\'' '(' ')' '*'"),
        ("xp /2c 0x1009", "0000000000001009: '\\t' '\\n'"),
        ("x /1gx 0x1000", "0000000000001000: 0x0001020304050607"),
        ("x /1gx $r3 + 0x1000", "0000000000001000: 0x0001020304050607"),
    ],
)
def test_memory_in_many_forms(machine: Machine, line: str, answer: str) -> None:
    machine.board.vcpus[0].set_gpr(3, 0)
    got = execute(machine, line)
    assert " ".join(got.split()).startswith(" ".join(answer.split()))


def test_lines_hold_16_bytes(machine: Machine) -> None:
    text = execute(machine, "xp /9xw 0x1000").splitlines()
    assert [line.split(":")[0][-4:] for line in text] == ["1000", "1010", "1020"]
    assert [len(line.split()) - 1 for line in text] == [4, 4, 1]


def test_instructions_have_names_and_the_cpus_order(machine: Machine) -> None:
    assert execute(machine, "x/4i entry").splitlines() == [
        "0x0000000000000100 <entry>:  38600001  li r3, 1",
        "0x0000000000000104 <entry+0x4>:  48000008  b 0x10c",
        "0x0000000000000108 <stop>:  00000000  .long 0x00000000",
        "0x000000000000010c <end>:  48000000  b 0x10c",
    ]
    machine.board.vcpus[0].msr = machine.board.vcpus[0].msr | MSR_LE
    assert execute(machine, "x/i entry").endswith(":  01006038  .long 0x01006038")
    assert execute(machine, "xp/2xh 0x1000") == "0000000000001000: 0x0100 0x0302"


def test_what_is_not_mapped_is_told_after_what_is(machine: Machine) -> None:
    end = RAM - 16
    assert execute(machine, f"xp /8xw {end}").splitlines() == [
        f"{end:016x}: 0x00000000 0x00000000 0x00000000 0x00000000",
        f"{RAM:#018x}: Cannot access memory",
    ]
    machine.board.vcpus[0].msr = machine.board.vcpus[0].msr | MSR_IR | MSR_DR
    assert execute(machine, "x 0x1000") == "0x0000000000001000: Cannot access memory"
    assert execute(machine, "gva2gpa 0x1000") == "Unmapped"
    assert execute(machine, "x /i -4").endswith("Cannot access memory")


def test_real_mode_addresses_are_translated(machine: Machine) -> None:
    assert execute(machine, "gva2gpa 0xc000000000001004") == "gpa: 0x1004"
    assert execute(machine, "gva2gpa table + 4") == "gpa: 0x1004"
    assert execute(machine, "x /i 0xc000000000000100").endswith("li r3, 1")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1+2*3", 7),
        ("(1+2)*3", 9),
        ("-1", (1 << 64) - 1),
        ("0x10 - 4", 12),
        ("$pc", ENTRY),
        ("$nip+$NIP", 2 * ENTRY),
        ("entry", ENTRY),
        ("stop-entry", 8),
        ("$pvr", 0x004D0200),
        ("--5", 5),
    ],
)
def test_expressions(machine: Machine, text: str, value: int) -> None:
    assert evaluate(machine, text) == value


@pytest.mark.parametrize(
    "text", ["", "1+", "(1", "1)", "$foo", "foo", "1 2", "*1", "1/2", "'", "(" * 200, "1" * 300]
)
def test_bad_expressions_are_told(machine: Machine, text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|unexpected|unknown|too long"):
        evaluate(machine, text)


@pytest.mark.parametrize(
    "line",
    ["x", "xp", "x /4x", "x /z 0", "x /9999999gx 0", "gva2gpa", "memsave 0 1", "cpu", "cpu x",
     "cpu 2", "info symbol", "info tlb nope", "pmemsave 0 -1 /tmp/never", "memsave 0 1 /no/dir/f"],
)  # fmt: skip
def test_mistakes_are_one_line(machine: Machine, line: str) -> None:
    answer = execute(machine, line)
    assert answer.startswith("Error: ")
    assert "\n" not in answer


def test_the_current_cpu_can_be_chosen(machine: Machine) -> None:
    machine.board.vcpus[1].pc = 0x1234
    lines = execute(machine, "info cpus").splitlines()
    assert lines[0].startswith("* CPU #0: nip=0x0000000000000100")
    assert lines[1].startswith("  CPU #1: nip=0x0000000000001234 (stopped)")
    assert execute(machine, "cpu 1") == ""
    assert evaluate(machine, "$pc") == 0x1234
    assert execute(machine, "info cpus").splitlines()[1].startswith("* CPU #1")


def test_symbols_can_be_asked_for(machine: Machine) -> None:
    assert execute(machine, "info symbol 0x104") == "entry+0x4 (0x100, 8 bytes)"
    assert execute(machine, "info symbol 0x90") == "no symbol for 0x90"


def test_memory_is_saved(machine: Machine, tmp_path: Path) -> None:
    path = tmp_path / "saved"
    assert execute(machine, f"pmemsave table 256 {path}") == ""
    assert path.read_bytes() == bytes(range(256))
    COMMANDS["memsave"].handler(machine, {"val": 0x1010, "size": 3, "filename": str(path)})
    assert path.read_bytes() == b"\x10\x11\x12"
    COMMANDS["pmemsave"].handler(machine, {"val": 0, "size": RAM, "filename": str(path)})
    assert path.stat().st_size == RAM
    path.unlink()
    arguments = {"val": 0, "size": 1, "filename": str(path)}
    with pytest.raises(QmpError, match="Invalid addr"):
        COMMANDS["pmemsave"].handler(machine, {**arguments, "val": RAM})
    with pytest.raises(QmpError, match="CPU number"):
        COMMANDS["memsave"].handler(machine, {**arguments, "cpu-index": 2})
    with pytest.raises(QmpError, match="positive"):
        COMMANDS["memsave"].handler(machine, {**arguments, "size": -1})


def test_interrupt_controller_of_pseries(machine: Machine) -> None:
    lines = execute(machine, "info pic").splitlines()
    assert lines[0] == "CPU 0 XIRR=00000000 PP=ff MFRR=ff"
    assert lines[1].startswith("CPU 1 XIRR=")
    assert "  10ff MSI server 0 priority ff (saved ff) status 00  nvram" in lines


def test_interrupt_controller_of_virtmmio(tmp_path: Path) -> None:
    bios = tmp_path / "image.bin"
    bios.write_bytes(bytes(0x200))
    argv = ["-M", "virtmmio", "-m", "64M", "-nodefaults", "-S", "-bios", str(bios)]
    with Machine(parse_command_line(argv)) as machine:
        machine.start()
        board = machine.board
        board.intc.set_line(3, True)  # type: ignore[attr-defined]
        assert execute(machine, "info pic") == (
            "INTC pending 0x0000000000000008 enabled 0x0000000000000000 output 0"
        )


def test_help_lists_the_commands(machine: Machine) -> None:
    text = execute(machine, "help")
    for name in ("x", "xp", "gva2gpa", "memsave", "pmemsave", "cpu", "log", "profile"):
        assert any(line.split()[0] == name for line in text.splitlines())
    topics = execute(machine, "info")
    for name in ("cpus", "tlb", "pic", "virtio", "virtio-queue-element", "symbol", "profile"):
        assert f"info {name} " in topics
