"""QEMU's firmware SLOF as a client: a big-endian driver of virtio-blk, legacy and modern.

It probes the disk, loads a program from it and boots Linux, asking for
ibm,client-architecture-support on the way.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from emu.config import MemoryConfig
from emu.machine import Machine
from emu.options import parse_command_line
from machines.pseries.papr import HcallNumber
from tests.boot.guests import READY, Guest, trouble_in
from tests.boot.virtio_guest import INTERFACES, block_options
from tests.support.asm import EXIT, assemble, b, li, li64

SLOF = Path("/usr/share/qemu/slof.bin")
SECONDS = 120.0
MIB = 1 << 20
SECTOR = 512
WELCOME = "Welcome to Open Firmware"
NOT_BOOTABLE = "E3404: Not a bootable device!"
PROMPT = "0 > "
GREETING = b"FROM-DISK!"

pytestmark = [
    pytest.mark.boot,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not SLOF.exists(), reason=f"no {SLOF} (qemu-system-data)"),
]


def slof(options: Sequence[str], cpu: str = "power8") -> Machine:
    """A machine with the firmware, started; its console is in memory."""
    arguments = ["-M", "pseries", "-cpu", cpu, "-m", "512", "-nodefaults", "-serial", "null"]
    config = parse_command_line([*arguments, "-bios", str(SLOF), *options])
    machine = Machine(replace(config, serial=(MemoryConfig(id="serial0"),)))
    machine.start()
    return machine


def program() -> bytes:
    """A 32-bit big-endian ELF file that greets on the first terminal and stays."""
    text = GREETING.ljust(16, b"\0")
    first, second = struct.unpack(">2Q", text)
    code = assemble(
        li(3, HcallNumber.H_PUT_TERM_CHAR),
        li(4, 0),
        li(5, len(GREETING)),
        li64(6, first),
        li64(7, second),
        EXIT,
        b(0),
    )
    base, offset = 0x2000000, 0x1000
    ident = b"\x7fELF" + bytes([1, 2, 1]) + bytes(9)
    header = struct.pack(">HHIIIIIHHHHHH", 2, 20, 1, base, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    load = struct.pack(">8I", 1, offset, base, base, len(code), len(code), 5, offset)
    return (ident + header + load).ljust(offset, b"\0") + code


def bootable_disk(path: Path) -> None:
    """An MBR and a PReP boot partition (type 0x41) with the program."""
    first, count = 2048, 2048
    entry = struct.pack("<B3sB3sII", 0x80, bytes(3), 0x41, bytes(3), first, count)
    image = bytearray(4 * MIB)
    image[446:462] = entry
    image[510:512] = b"\x55\xaa"
    content = program()
    image[first * SECTOR : first * SECTOR + len(content)] = content
    path.write_bytes(image)


@pytest.mark.parametrize("interface", INTERFACES)
def test_slof_lists_the_disk_and_boots_from_it(interface: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    bootable_disk(disk)
    device = "1042" if interface == "modern" else "1001"
    with slof(block_options(disk, INTERFACES[interface])) as machine:
        console = machine.console
        console.wait_for(f"(D) : 1af4 {device}    virtio [ block ]", timeout=SECONDS)
        console.wait_for(WELCOME, timeout=SECONDS)
        console.wait_for(GREETING.decode(), timeout=SECONDS)
        assert NOT_BOOTABLE not in console.text


def test_slof_says_that_an_empty_disk_does_not_boot_and_shows_its_prompt(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    with disk.open("wb") as file:
        file.truncate(4 * MIB)
    with slof(block_options(disk)) as machine:
        console = machine.console
        console.wait_for(NOT_BOOTABLE, timeout=SECONDS)
        console.wait_for(PROMPT, timeout=SECONDS)
        console.send("3 4 + .\r")
        console.wait_for("7 ", timeout=SECONDS)
        console.send("dev /pci ls\r")
        console.wait_for("scsi@0", timeout=SECONDS)


@pytest.mark.parametrize("cpu", ["power8", "power9"])
@pytest.mark.parametrize("name", ["be", "le_small"])
def test_slof_boots_linux_which_then_drives_the_disk(
    name: str, cpu: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    guest: Guest = request.getfixturevalue(name)
    disk = tmp_path / "disk.img"
    bootable_disk(disk)
    kernel = ["-kernel", str(guest.kernel), "-initrd", str(guest.initrd)]
    append = ["-append", "console=hvc0 autotest=poweroff"]
    with slof([*kernel, *append, *block_options(disk)], cpu) as machine:
        console = machine.console
        console.wait_for("Detected RAM kernel", timeout=SECONDS)
        console.wait_for("ibm,client-architecture-support... done", timeout=SECONDS)
        console.wait_for(f"{cpu.upper()} (architected)", timeout=SECONDS)
        console.wait_for("[vda] 8192 512-byte logical blocks", timeout=SECONDS)
        console.wait_for(READY, timeout=SECONDS)
        assert machine.wait(SECONDS) == 0
        assert trouble_in(console.text) == []
