"""A virtmmio machine on the test's own thread, and images of a few instructions for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from emu.chardev.memory import MemoryChardev
from emu.events import EventLoop
from machines.virtmmio import layout
from machines.virtmmio.machine import VirtmmioMachine, VirtmmioOptions
from tests.support import asm
from tests.support.asm import Code, assemble

MIB = 1 << 20
SECONDS = 30.0
CONSOLE, EXIT, RESET = layout.BOARD_BASE, layout.BOARD_BASE + 8, layout.BOARD_BASE + 12
INTC = layout.BOARD_BASE + layout.INTC_OFFSET
CONTROL = layout.BOARD_BASE + layout.CONTROL_OFFSET
EXTERNAL, SYSTEM_CALL = 0x500, 0xC00
SPIN = asm.b(0)


class Program:
    """What surrounds the machine: posted work, and the run loop on the test's thread."""

    def __init__(self) -> None:
        self.loop = EventLoop()
        self.posted: list[Callable[[], None]] = []
        self.status: int | None = None
        self.panic: str | None = None
        self.resets = 0
        self.board: VirtmmioMachine | None = None
        self.over = False

    def request_exit(self, status: int) -> None:
        self.status, self.over = status, True

    def request_shutdown(self) -> None:
        self.over = True

    def request_reset(self) -> None:
        self.resets += 1
        self.post(self._reset)

    def _reset(self) -> None:
        assert self.board is not None
        self.board.reset()

    def guest_panicked(self, message: str) -> None:
        self.panic, self.over = message, True

    def unknown_hypercall(self, number: int) -> None:
        raise AssertionError(number)

    def is_ending(self) -> bool:
        return self.over

    def post(self, work: Callable[[], None]) -> None:
        self.posted.append(work)
        if self.board is not None:
            self.board.vcpus[0].kick()

    def run(self) -> int | None:
        """Until the image ends; its exit status."""
        assert self.board is not None
        board = self.board
        board.partition.start_clock()
        deadline = threading.Timer(SECONDS, lambda: self.post(self.request_shutdown))
        deadline.start()
        try:
            while not self.over:
                if self.posted:
                    self.posted.pop(0)()
                else:
                    board.run(board.vcpus[0])
        finally:
            deadline.cancel()
            board.flush_consoles(5)
        return self.status


Build = Callable[..., VirtmmioMachine]


class Builder:
    """Makes machines; :meth:`close` closes the last one."""

    def __init__(self, program: Program, console: MemoryChardev, directory: Path) -> None:
        self._program, self._console, self._directory = program, console, directory

    def __call__(
        self, *code: Code, vectors: dict[int, Code] | None = None, **more: object
    ) -> VirtmmioMachine:
        """A machine with a raw image: big-endian code, and more of it at vectors."""
        path = self._directory / "image.bin"
        path.write_bytes(image(code, vectors or {}))
        return self.start(bios=str(path), **more)

    def start(self, **options: object) -> VirtmmioMachine:
        """A machine with these options."""
        settings = {"ram_size": 16 * MIB, "console": self._console} | options
        machine = VirtmmioMachine(VirtmmioOptions(**settings), self._program)  # type: ignore[arg-type]
        self._program.board = machine
        return machine

    def close(self) -> None:
        """Close the machine."""
        if self._program.board is not None:
            self._program.board.close()


def image(code: Code, vectors: dict[int, Code]) -> bytes:
    """A raw image: a branch at 0x100 to the code at 0x2000."""
    data = bytearray(0x2000)
    data[0x100:0x104] = assemble(asm.b(0x1F00))
    for vector, handler in vectors.items():
        words = assemble(handler)
        data[vector : vector + len(words)] = words
    return bytes(data) + assemble(code)


def store(address: int, value: int, width: Literal[1, 4] = 4) -> Code:
    """Store a constant; uses r10 and r11."""
    write = asm.stb if width == 1 else asm.stw
    return [asm.li64(10, address), asm.li64(11, value), write(11, 10)]


def put(text: str) -> Code:
    """Print on the console."""
    return [asm.li64(10, CONSOLE), [[asm.li(11, byte), asm.stb(11, 10)] for byte in text.encode()]]


def leave(status: int) -> Code:
    """End with a status; in either byte order the word on the bus is big-endian."""
    return [store(EXIT, status), SPIN]
