"""Symbols from ELF files of both orders and ABIs, from lists, and from damaged files."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emu.config import ConfigError, MachineConfig
from emu.config_trace import SymbolFile, TraceConfig
from emu.memory.ram import GuestRam
from emu.trace.guest_symbols import GuestSymbols
from emu.trace.symbols import Symbol, SymbolTable, describe, load_symbols
from tests.support.symbol_file import (
    ALLOC,
    EXECINSTR,
    FILE,
    LOCAL,
    NOTYPE,
    OBJECT,
    WRITE,
    Entry,
    Section,
    symbol_elf,
)

BASE = 0xC000000000000000
TEXT = Section(".text", BASE, bytes(0x100), ALLOC | EXECINSTR)
DATA = Section(".data", BASE + 0x1000, bytes(0x40), ALLOC | WRITE)
ORDERS = pytest.mark.parametrize("order", ["<", ">"])


def table(tmp_path: Path, data: bytes, address: int | None = None) -> SymbolTable:
    path = tmp_path / "image.elf"
    path.write_bytes(data)
    return SymbolTable(load_symbols(SymbolFile(str(path), address)))


def name_at(symbols: SymbolTable | GuestSymbols, address: int) -> str:
    return describe(symbols.find(address), address)


@ORDERS
def test_addresses_have_names_and_offsets(tmp_path: Path, order: str) -> None:
    entries = [
        Entry("first", ".text", BASE, 0x20),
        Entry("second", ".text", BASE + 0x20, 0x10),
        Entry("value", ".data", BASE + 0x1000, 8, OBJECT),
    ]
    symbols = table(tmp_path, symbol_elf([TEXT, DATA], entries, order=order))
    assert name_at(symbols, BASE) == "first"
    assert name_at(symbols, BASE + 0x1F) == "first+0x1f"
    assert name_at(symbols, BASE + 0x20) == "second"
    assert name_at(symbols, BASE + 0x30) == ""  # second has a size
    assert name_at(symbols, BASE - 1) == ""
    assert name_at(symbols, BASE + 0x1004) == "value+0x4"
    assert symbols.address_of("second") == BASE + 0x20
    code, data = symbols.find(BASE), symbols.find(BASE + 0x1000)
    assert code is not None
    assert data is not None
    assert (code.code, data.code) == (True, False)


def test_symbols_without_a_size_end_at_the_next_or_their_section(tmp_path: Path) -> None:
    entries = [
        Entry("label", ".text", BASE, 0, NOTYPE),
        Entry("last", ".text", BASE + 0x80, 0, NOTYPE),
    ]
    symbols = table(tmp_path, symbol_elf([TEXT], entries))
    assert name_at(symbols, BASE + 0x7F) == "label+0x7f"
    assert name_at(symbols, BASE + 0xFF) == "last+0x7f"
    assert name_at(symbols, BASE + 0x100) == ""


def test_functions_go_before_labels_and_files_have_no_address(tmp_path: Path) -> None:
    entries = [
        Entry("label", ".text", BASE, 0, NOTYPE),
        Entry("file.c", ".text", BASE, 0, FILE),
        Entry("local", ".text", BASE, 0x10, binding=LOCAL),
        Entry("function", ".text", BASE, 0x10),
    ]
    assert name_at(table(tmp_path, symbol_elf([TEXT], entries)), BASE) == "function"


@ORDERS
def test_function_descriptors_lead_to_the_code(tmp_path: Path, order: str) -> None:
    """ELFv1: a function's symbol is its descriptor in .opd, with the size of the code."""
    opd = struct.pack(order + "6Q", BASE + 0x40, 0, 0, BASE + 0x80, 0, 0)
    sections = [TEXT, Section(".opd", BASE + 0x2000, opd, ALLOC | WRITE)]
    entries = [
        Entry("start", ".opd", BASE + 0x2000, 0x20),
        Entry("stop", ".opd", BASE + 0x2018, 0x10),
        Entry("nowhere", ".opd", BASE + 0x2008, 0x10),
    ]
    symbols = table(tmp_path, symbol_elf(sections, entries, order=order))
    assert name_at(symbols, BASE + 0x44) == "start+0x4"
    assert name_at(symbols, BASE + 0x8F) == "stop+0xf"
    assert name_at(symbols, BASE + 0x90) == ""
    assert symbols.address_of("nowhere") is None
    assert name_at(symbols, BASE + 0x2000) == ""


@pytest.mark.skipif(shutil.which("powerpc64-linux-gnu-gcc") is None, reason="no cross compiler")
@pytest.mark.parametrize("abi", ["elfv1", "elfv2"])
def test_real_linkers_output_is_understood(tmp_path: Path, abi: str) -> None:
    source, image = tmp_path / "a.c", tmp_path / "a.elf"
    source.write_text("int twice(int x) { return 2 * x; } int _start(void) { return twice(2); }")
    command = ["powerpc64-linux-gnu-gcc", "-O0", f"-mabi={abi}", "-nostdlib", "-static", "-no-pie"]
    subprocess.run([*command, str(source), "-o", str(image)], check=True)
    symbols = SymbolTable(load_symbols(SymbolFile(str(image))))
    objdump = ["powerpc64-linux-gnu-objdump", "-d", str(image)]
    listing = subprocess.run(objdump, check=True, capture_output=True, text=True).stdout
    label = re.search(r"^([0-9a-f]+) <\.?twice>:", listing, re.MULTILINE)
    assert label is not None
    assert symbols.address_of("twice") == int(label[1], 16)


def test_elf_files_can_be_moved(tmp_path: Path) -> None:
    entries = [Entry("f", ".text", BASE + 0x10, 0x10)]
    data = symbol_elf([TEXT], entries, load_address=BASE)
    assert name_at(table(tmp_path, data, 0x7000), 0x7014) == "f+0x4"


def test_text_of_relocatable_objects_goes_to_the_address(tmp_path: Path) -> None:
    sections = [Section(".init.text", 0, bytes(32), ALLOC | EXECINSTR),
                Section(".text", 0, bytes(64), ALLOC | EXECINSTR)]  # fmt: skip
    entries = [Entry("init", ".init.text", 0, 8), Entry("run", ".text", 0x20, 8)]
    data = symbol_elf(sections, entries, e_type=1)
    symbols = table(tmp_path, data, 0x9000)
    assert name_at(symbols, 0x9024) == "run+0x4"
    assert symbols.address_of("init") is None
    with pytest.raises(ConfigError, match=r"needs the address of its \.text"):
        table(tmp_path, data)


def test_lists_are_those_of_proc_kallsyms(tmp_path: Path) -> None:
    path = tmp_path / "kallsyms"
    path.write_text(
        "c000000000000000 T _stext\nc000000000000100 t inner\nc000000000000200 D value\n"
        "c008000000000000 t probe\t[virtio_net]\n0000000000000001 a absolute\n\n"
    )
    symbols = SymbolTable(load_symbols(SymbolFile(str(path))))
    assert name_at(symbols, BASE + 0xFF) == "_stext+0xff"
    assert name_at(symbols, BASE + 0x104) == "inner+0x4"
    assert name_at(symbols, 0xC008000000000000) == "probe_[virtio_net]"
    assert symbols.address_of("absolute") is None
    value = symbols.find(BASE + 0x200)
    assert value is not None
    assert not value.code
    moved = SymbolTable(load_symbols(SymbolFile(str(path), 0x10000)))
    assert name_at(moved, BASE + 0x10000) == "_stext"


@pytest.mark.parametrize(
    "text", ["nonsense", "12 T", "xyz T name", "1 TT name", "1 T a b c", "-1 T name"]
)
def test_other_files_are_refused_with_their_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "list"
    path.write_text(f"0 T good\n{text}\n")
    with pytest.raises(ConfigError, match="line 2: neither an ELF file nor lines"):
        load_symbols(SymbolFile(str(path)))


def test_other_machines_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a 64-bit PowerPC ELF file"):
        table(tmp_path, symbol_elf([TEXT], [], machine=62))
    with pytest.raises(ConfigError, match="No such file"):
        load_symbols(SymbolFile(str(tmp_path / "none")))


GOOD = symbol_elf(
    [TEXT, Section(".opd", BASE + 0x2000, struct.pack("<3Q", BASE, 0, 0))],
    [Entry("a", ".text", BASE, 8), Entry("b", ".opd", BASE + 0x2000, 8)],
)


@given(
    changes=st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), max_size=12),
    length=st.integers(4, len(GOOD)),
)
def test_damaged_files_give_symbols_or_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], length: int
) -> None:
    data = bytearray(GOOD)
    for where, value in changes:
        data[where] = value
    path = tmp_path_factory.getbasetemp() / "damaged.elf"
    path.write_bytes(b"\x7fELF" + bytes(data[4:length]))
    problem = ""
    symbols = SymbolTable()
    try:
        symbols.add(load_symbols(SymbolFile(str(path), 0x1000)))
    except ConfigError as error:
        problem = str(error)
    assert "\n" not in problem
    for symbol in symbols:
        assert 0 <= symbol.start < symbol.end <= 1 << 64
        assert symbol.name.isprintable()


def test_names_cannot_break_lines_or_stacks(tmp_path: Path) -> None:
    symbols = table(tmp_path, symbol_elf([TEXT], [Entry("a;b c\nd", ".text", BASE, 8)]))
    assert name_at(symbols, BASE) == "a_b_c_d"


def test_where_two_tables_meet_the_first_wins() -> None:
    symbols = SymbolTable([Symbol(1, 4, "old")])
    symbols.add([Symbol(1, 8, "new"), Symbol(4, 8, "more")])
    assert (name_at(symbols, 3), name_at(symbols, 5)) == ("old+0x2", "more+0x1")
    assert len(symbols) == 2


def test_kernels_have_names_where_they_are_loaded_and_where_they_move(tmp_path: Path) -> None:
    """A kernel starts at 4 MiB in real mode, then copies itself to real address 0."""
    path = tmp_path / "vmlinux"
    text = Section(".text", BASE, b"head of the kernel".ljust(0x500000, b"."), ALLOC | EXECINSTR)
    entries = [Entry("start", ".text", BASE, 0x100), Entry("late", ".text", BASE + 0x400000, 0x100)]
    path.write_bytes(symbol_elf([text], entries, load_address=BASE))
    symbols = GuestSymbols(MachineConfig(kernel=str(path)))
    ram = GuestRam(16 << 20)
    symbols.set_ram(ram)
    head = path.read_bytes()[120:136]
    assert name_at(symbols, BASE + 4) == "start+0x4"
    assert name_at(symbols, 0x400000) == "start"
    assert name_at(symbols, 0x800000) == "late"
    ram.write(0, head)  # it has moved
    assert name_at(symbols, 8) == "start+0x8"
    assert name_at(symbols, 0x400000) == "late"
    assert name_at(symbols, 0x900000) == ""


def test_extra_files_are_read_at_once(tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_text("what")
    trace = TraceConfig(symbols=(SymbolFile(str(bad)),))
    with pytest.raises(ConfigError, match="line 1"):
        GuestSymbols(MachineConfig(trace=trace))
