"""A machine with a few instructions as its firmware, and gdb's stub on a free port."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from emu.config import MachineConfig, MemoryConfig, SocketConfig
from emu.machine import Machine
from machines.pseries.rtas import rtas_calls
from tests.support import asm
from tests.support.gdb_client import GdbClient

ENTRY = 0x100
SECOND = 0x400  # where tests start a second CPU
ARGUMENTS = 0x2000  # of RTAS
H_RTAS = 0xF000
CODE_OF_SECOND = [asm.addi(6, 6, 1), asm.b(-4)]
COUNT = [asm.addi(5, 5, 1), asm.b(-4)]  # for ever


def rtas(name: str, *inputs: int) -> tuple[list[asm.Code], bytes]:
    """Instructions that call an RTAS service, and its argument buffer."""
    buffer = struct.pack(f">{3 + len(inputs)}I", dict(rtas_calls())[name], len(inputs), 1, *inputs)
    code: list[asm.Code] = [asm.li64(3, H_RTAS), asm.li(4, ARGUMENTS), asm.EXIT]
    return code, buffer


@contextmanager
def gdb_guest(
    folder: Path,
    *code: asm.Code,
    arguments: bytes = b"",
    paused: bool = True,
    smp: int = 1,
    cpu: str = "power8",
    incoming: str | None = None,
) -> Iterator[Machine]:
    """A running machine; the code (COUNT if there is none) begins at ENTRY."""
    image = bytearray(0x3000)
    for where, words in ((ENTRY, code or COUNT), (SECOND, CODE_OF_SECOND)):
        data = asm.assemble(*words)
        image[where : where + len(data)] = data
    image[ARGUMENTS : ARGUMENTS + len(arguments)] = arguments
    path = folder / "guest.bin"
    path.write_bytes(image)
    config = MachineConfig(
        bios=path,
        cpu=cpu,
        smp=smp,
        ram_size=256 << 20,
        start_paused=paused,
        incoming=incoming,
        serial=(MemoryConfig(id="serial0"),),
        gdb=SocketConfig(id="gdb", host="127.0.0.1", port=0, server=True),
    )
    with Machine(config) as machine:
        machine.start()
        yield machine


def address_of(machine: Machine) -> str:
    """Where its stub listens, as the client wants it."""
    from emu.chardev.socket import SocketChardev

    assert machine.gdb is not None
    assert isinstance(machine.gdb.chardev, SocketChardev)
    return machine.gdb.chardev.address


def client_of(machine: Machine) -> GdbClient:
    """A new client."""
    return GdbClient(address_of(machine))
