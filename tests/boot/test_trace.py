"""Traces and profiles of real guests: bytes, byte order, names and ranges are right."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from emu.config import MachineConfig
from emu.config_trace import SymbolFile, TraceConfig
from emu.log import configure_logging
from emu.machine import Machine
from emu.monitor.hmp import execute
from emu.monitor.registry import COMMANDS
from firmware.boot_image import KERNEL_LOAD_ADDR
from tests.boot.guests import BOOT_SECONDS, READY, Guest
from tests.support.guest_images import base_image, missing_compilers, write_image

pytestmark = [pytest.mark.boot, pytest.mark.timeout(900)]
_INSTRUCTION = re.compile(r"0x([0-9a-f]{16}):  ([0-9a-f]{8})  (\S.*)")
KERNEL = 0xC000000000000000


@pytest.fixture(autouse=True)
def _quiet_log() -> Iterator[None]:
    yield
    configure_logging()


class Block:
    """One IN: of a log."""

    def __init__(self, text: str) -> None:
        lines = text.strip().splitlines()
        self.name = lines[0].removeprefix("IN: ").rpartition("(")[0].strip()
        self.little = lines[0].endswith("(little-endian)")
        matches = [_INSTRUCTION.fullmatch(line) for line in lines[1:]]
        self.instructions = [
            (int(match[1], 16), int(match[2], 16), match[3]) for match in matches if match
        ]

    @property
    def start(self) -> int:
        return self.instructions[0][0]


def blocks_of(text: str) -> list[Block]:
    return [Block(part) for part in text.split("----------------\n")[1:]]


def code_of(path: Path) -> dict[int, bytes]:
    """The loadable segments of an ELF file by virtual address."""
    with path.open("rb") as stream:
        elf = ELFFile(stream)
        return {s["p_vaddr"]: s.data() for s in elf.iter_segments() if s["p_type"] == "PT_LOAD"}


def word_at(segments: dict[int, bytes], address: int, little: bool) -> int:
    for start, data in segments.items():
        if start <= address < start + len(data):
            word = data[address - start : address - start + 4]
            return int.from_bytes(word, "little" if little else "big")
    raise AssertionError(f"{address:#x} is not in the image")


class Run:
    """A machine whose trace goes to ``text``."""

    def __init__(
        self, config: MachineConfig, *items: str, ranges: tuple[tuple[int, int], ...]
    ) -> None:
        self._chunks: list[str] = []
        self.machine = Machine(config)
        self.machine.trace.output = self._chunks.append
        self.machine.trace.set_items(items, ranges)

    def until(self, text: str) -> str:
        """Run until the console has a text; returns the trace."""
        with self.machine as machine:
            machine.start()
            machine.console.wait_for(text, timeout=BOOT_SECONDS)
            machine.trace.set_items(())
        return "".join(self._chunks)


def test_debians_entry_switches_from_big_to_little_endian(le: Guest) -> None:
    """The kernel starts big-endian at 4 MiB and goes on little-endian after rfid."""
    entry = (KERNEL_LOAD_ADDR, KERNEL_LOAD_ADDR + 0x10000)
    text = Run(le.config(), "in_asm", ranges=(entry,)).until("Linux version")
    blocks = blocks_of(text)
    first_little = next(i for i, block in enumerate(blocks) if block.little)
    assert first_little > 0
    assert blocks[first_little - 1].instructions[-1][2] == "rfid"
    assert not any(block.little for block in blocks[:first_little])
    assert all(block.little for block in blocks[first_little:])
    assert blocks[first_little].instructions[0][2].startswith("b 0x40d004 ")
    image = code_of(le.kernel)
    for block in blocks:
        for address, word, _ in block.instructions:
            assert entry[0] <= block.start <= entry[1]
            linked = KERNEL + address - KERNEL_LOAD_ADDR
            assert word == word_at(image, linked, block.little)
    names = {block.name for block in blocks}
    assert {"__start_initialization_multiplatform", "enable_64b_mode", "__mmu_off"} <= names


def test_symbols_of_a_kernel_hold_where_it_is_linked(le: Guest) -> None:
    """dfilter by a function's own address; branches name their targets."""
    run = Run(le.config(), ranges=())
    address = run.machine.trace.symbols.address_of("start_kernel")
    assert address is not None
    symbol = run.machine.trace.symbols.find(address)
    assert symbol is not None
    run.machine.trace.set_items({"in_asm", "exec"}, [(address, symbol.end - 1)])
    text = run.until("Linux version")
    executed = [line for line in text.splitlines() if line.startswith("Trace 0: ")]
    # ELFv2: calls within an image enter behind the two instructions that set up the TOC
    assert executed[0] == f"Trace 0: {address + 8:#018x} <start_kernel+0x8>"
    assert all("<start_kernel" in line for line in executed)
    blocks = blocks_of(text)
    assert all(address <= block.start < symbol.end for block in blocks)
    calls = [
        text for block in blocks for _, _, text in block.instructions if text.startswith("bl ")
    ]
    assert any(re.fullmatch(r"bl 0x[0-9a-f]+ <boot_cpu_init(\+0x[0-9a-f]+)?>", t) for t in calls)


def test_a_big_endian_kernel_is_big_endian_throughout(be: Guest) -> None:
    first = (KERNEL_LOAD_ADDR, KERNEL_LOAD_ADDR + 0xFFFF)
    text = Run(be.config(), "in_asm", "int", ranges=(first,)).until(READY)
    blocks = blocks_of(re.sub(r"^int: .*\n", "", text, flags=re.MULTILINE))
    image = code_of(be.kernel)
    assert len(blocks) > 10
    for block in blocks:
        assert not block.little
        for address, word, _ in block.instructions:
            assert word == word_at(image, KERNEL + address - KERNEL_LOAD_ADDR, False)
    interrupts = [line for line in text.splitlines() if line.startswith("int: ")]
    assert interrupts
    assert all(" (LE" not in line for line in interrupts)


@pytest.mark.skipif(bool(missing_compilers()), reason="needs cross compilers")
def test_an_image_of_both_orders_is_disassembled_in_each(tmp_path: Path) -> None:
    """The same program, compiled for both orders, takes turns; each has its own symbols."""
    bios = write_image(tmp_path / "image.bin", test="hello", order="be,le,be")
    home = base_image().parent
    elves = {False: home / "big.elf", True: home / "little.elf"}
    symbols = tuple(SymbolFile(str(path)) for path in elves.values())
    config = MachineConfig(bios=bios, ram_size=256 << 20, trace=TraceConfig(symbols=symbols))
    payloads = ((0x10000, 0xFFFFF),)
    text = Run(config, "in_asm", ranges=payloads).until("DONE: passed")
    blocks = blocks_of(text)
    assert {block.little for block in blocks} == {False, True}
    images = {little: code_of(path) for little, path in elves.items()}
    for block in blocks:
        assert block.little == (block.start >= 0x80000)
        assert block.name
        for address, word, _ in block.instructions:
            assert word == word_at(images[block.little], address, block.little)
    both = [{b.name.split("+")[0] for b in blocks if b.little is order} for order in (False, True)]
    assert both[0] & both[1]


@pytest.mark.parametrize("name", ["le", "be"])
def test_interrupts_of_a_boot_are_traced(name: str, request: pytest.FixtureRequest) -> None:
    guest: Guest = request.getfixturevalue(name)
    text = Run(guest.config("power9"), "int", ranges=()).until(READY)
    order = "LE" if name == "le" else "BE"
    lines = text.splitlines()
    kinds = {line.split(" (")[0] for line in lines}
    assert {"int: decrementer", "int: data storage"} <= kinds
    calls = [line for line in lines if line.startswith("int: system call")]
    assert calls
    assert all(f"({order} PR IR DR) -> " in line for line in calls[:50])


def test_profile_of_a_boot(le: Guest) -> None:
    with Machine(replace(le.config(), append="console=hvc0")) as machine:
        machine.trace.profile.start(1000)
        machine.start()
        machine.console.wait_for(READY, timeout=BOOT_SECONDS)
        machine.trace.profile.stop()
        stacks = machine.trace.profile.collapsed().splitlines()
    assert any(line.startswith("start_here_common;start_kernel;") for line in stacks)
    assert any(";kthread;" in line for line in stacks)
    assert any("system_call_common;system_call_exception;" in line for line in stacks)
    counted = sum(int(line.rsplit(" ", 1)[1]) for line in stacks)
    unknown = sum(int(line.rsplit(" ", 1)[1]) for line in stacks if line.startswith("[unknown] "))
    assert unknown < counted * 0.1


@pytest.mark.parametrize("cpu", ["power8", "power9"])
def test_a_running_guest_can_be_looked_into(le_small: Guest, cpu: str) -> None:
    from emu.options import parse_command_line

    argv = [*le_small.arguments(cpu=cpu), "-nodefaults", "-device", "virtio-rng-pci,id=r"]
    given = parse_command_line(argv)
    with Machine(replace(given, serial=le_small.config().serial)) as machine:
        machine.start()
        machine.console.wait_for(READY, timeout=BOOT_SECONDS)
        tlb = execute(machine, "info tlb").splitlines()
        assert tlb[0].startswith("radix" if cpu == "power9" else "hash")
        assert any(line.startswith("c000000000000000-c") for line in tlb)
        assert execute(machine, "gva2gpa 0xc000000000000000") == "gpa: 0x0"
        assert execute(machine, "x /4xb 0xc000000000000000") == (
            execute(machine, "xp /4xb 0").replace("0000000000000000:", "c000000000000000:")
        )
        assert "VIRTIO_CONFIG_S_DRIVER_OK" in execute(machine, "info virtio-status r")
        element = COMMANDS["x-query-virtio-queue-element"].handler(
            machine, {"path": "r", "queue": 0, "index": 0}
        )
        assert element["descs"][0]["flags"] == ["write"]
        assert element["avail"]["idx"] >= element["used"]["idx"] > 0
        assert "XIRR=" in execute(machine, "info pic")
