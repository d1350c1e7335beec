"""The virtmmio machine: images in both byte orders, entry, reset, bad input."""

from __future__ import annotations

import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.chardev.config import ConfigError
from emu.chardev.memory import MemoryChardev
from emu.cpu.isa import LPCR_ILE, MSR_LE, MSR_ME, MSR_SF, Spr
from firmware.errors import ImageError
from machines.virtmmio.machine import VirtmmioMachine, check_ram_size
from tests.support import asm
from tests.support.asm import assemble
from tests.unit.virtmmio_tools import (
    CONSOLE,
    EXIT,
    MIB,
    RESET,
    SECONDS,
    SPIN,
    SYSTEM_CALL,
    Builder,
    Program,
    image,
    leave,
    put,
    store,
)


@pytest.fixture
def program() -> Program:
    return Program()


@pytest.fixture
def console() -> MemoryChardev:
    return MemoryChardev()


@pytest.fixture
def build(program: Program, console: MemoryChardev, tmp_path: Path) -> Iterator[Builder]:
    builder = Builder(program, console, tmp_path)
    yield builder
    builder.close()


def test_image_prints_a_line_and_exits_with_its_status(
    build: Builder, program: Program, console: MemoryChardev
) -> None:
    build(put("hello\n"), leave(42))
    assert program.run() == 42
    assert console.transcript == b"hello\n"


def test_exit_status_is_the_low_byte(build: Builder, program: Program) -> None:
    build(leave(0x1234))
    assert program.run() == 0x34


def test_entry_state(build: Builder, program: Program) -> None:
    """Real mode, big-endian, r3 = device tree, in RAM, as the machine shows it."""
    machine = build(leave(0))
    vcpu = machine.vcpus[0]
    assert vcpu.msr == MSR_SF | MSR_ME
    assert vcpu.pc == 0x100
    tree = machine.ram.read(vcpu.gpr(3), len(machine.fdt))
    assert tree == machine.fdt
    assert tree[:4] == b"\xd0\x0d\xfe\xed"
    assert not vcpu.spr(Spr.LPCR) & LPCR_ILE


@pytest.mark.parametrize("little", [False, True])
def test_elf_is_entered_where_it_is_linked_in_its_own_order(
    build: Builder, program: Program, tmp_path: Path, little: bool
) -> None:
    path = tmp_path / "image.elf"
    status = 7 if not little else int.from_bytes((7).to_bytes(4, "big"), "little")
    path.write_bytes(elf(0x123400, assemble(leave(status), little=little), little))
    machine: VirtmmioMachine = build.start(kernel=str(path))
    assert machine.vcpus[0].pc == 0x123400
    assert bool(machine.vcpus[0].msr & MSR_LE) is little
    assert bool(machine.vcpus[0].spr(Spr.LPCR) & LPCR_ILE) is little
    assert program.run() == 7


def elf(address: int, code: bytes, little: bool) -> bytes:
    """A program of one segment that starts at its beginning (ELFv2)."""
    order = "<" if little else ">"
    ident = b"\x7fELF" + bytes([2, 1 if little else 2, 1]) + bytes(9)
    header = struct.pack(f"{order}HHIQQQIHHHHHH", 2, 21, 1, address, 64, 0, 2, 64, 56, 1, 0, 0, 0)
    segment = struct.pack(f"{order}IIQQQQQQ", 1, 5, 120, address, address, len(code), len(code), 1)
    return ident + header + segment + code


def test_hypercalls_do_not_exist(build: Builder, program: Program) -> None:
    build(asm.li64(3, 0x58), asm.EXIT, asm.li64(10, EXIT), asm.stw(3, 10), SPIN)
    assert program.run() == 0xFE  # H_FUNCTION, -2


def test_system_call_goes_to_its_vector(build: Builder, program: Program) -> None:
    build(asm.SC, leave(1), vectors={SYSTEM_CALL: asm.b(0x3000 - SYSTEM_CALL)})
    assert program.board is not None
    program.board.ram.write(0x3000, assemble(leave(5)))
    assert program.run() == 5


def test_checkstop_is_a_panic(build: Builder, program: Program) -> None:
    """Instructions fetched from a device, with MSR[ME] clear."""
    build(
        asm.li64(9, MSR_SF), asm.mtmsrd(9), asm.li64(10, CONSOLE), asm.mtctr(10), asm.BCTR
    )  # fmt: skip
    assert program.run() is None
    assert program.panic is not None
    assert "checkstop" in program.panic


@pytest.mark.parametrize("size", [15 * MIB, 16 * MIB + 65536, 1 << 40, 0])
def test_impossible_ram(size: int) -> None:
    with pytest.raises(ConfigError, match="virtmmio machine is a multiple of 1 MiB"):
        check_ram_size(size)


def test_unusable_images(build: Builder, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(0x200))
    start = build.start
    for options, text in (
        ({}, "nothing to boot"),
        ({"kernel": str(raw), "bios": str(raw)}, "not both"),
        ({"kernel": str(raw)}, "not an ELF file"),
        ({"kernel": str(raw), "initrd": "x"}, "no initrd"),
        ({"bios": str(tmp_path / "missing")}, "missing"),
    ):
        with pytest.raises(ImageError, match=text):
            start(**options)


def test_machine_reset_starts_from_a_clean_image(
    build: Builder, program: Program, console: MemoryChardev
) -> None:
    """The image counts in its own memory and asks for a reset; after it the count is 0 again."""
    build(put("a"), store(RESET, 0), SPIN)
    started = time.monotonic()
    original = program._reset

    def reset() -> None:
        original()
        if program.resets == 3:
            program.over = True

    program._reset = reset  # type: ignore[method-assign]
    program.run()
    assert console.transcript == b"aaa"
    assert time.monotonic() - started < SECONDS


@pytest.mark.parametrize("status", [0, 42])
def test_command_line(tmp_path: Path, status: int) -> None:
    """The whole program: the console on standard output, the image's status as its own."""
    path = tmp_path / "image.bin"
    path.write_bytes(image([put("hello\n"), leave(status)], {}))
    command = [sys.executable, "-m", "emu", "-M", "virtmmio", "-m", "16", "-nographic"]
    result = subprocess.run(
        [*command, "-bios", str(path), "-device", "virtio-rng-device"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.stdout.replace("\r", "") == "hello\n"
    assert result.returncode == status, result.stderr
