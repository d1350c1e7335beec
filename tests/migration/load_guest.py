"""The bare-metal guest of tests/guest/tests/load.c, and emulator processes it moves between."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

from devices.block.open import open_image
from emu.chardev.config import ConfigError
from tests.support.guest_images import write_disk, write_image
from tests.support.process import Emulator

SECONDS = 120.0
DISK_SECTORS = 3001
_TICK = re.compile(r"^TICK (\d+) ([0-9a-f]+)\r?$", re.MULTILINE)
_WRONG = re.compile(r"^(?:FAIL|EXCEPTION|DONE).*$", re.MULTILINE)


@dataclass(frozen=True)
class LoadGuest:
    """A guest that changes memory and disk all the time and checks both.

    ``order`` is its byte order, ``mmu`` "off", "hash" or "radix"; its disk, image and sockets are
    below ``folder``.
    """

    folder: Path
    order: str = "be"
    mmu: str = "off"
    board: str = "pseries"
    cpu: str = "power8"
    interface: str = "legacy"
    disk: bool = True
    pace: int = 5  # milliseconds

    @property
    def disk_path(self) -> Path:
        """The disk both sides use."""
        return self.folder / "disk.img"

    def options(self) -> list[str]:
        """Options of both sides."""
        image = self.folder / "image.bin"
        if not image.exists():
            parameters = {"order": self.order, "mmu": self.mmu, "interface": self.interface}
            write_image(image, test="load", pace=str(self.pace), **parameters)
            write_disk(self.disk_path, DISK_SECTORS)
        options = ["-M", self.board, "-m", "256", "-bios", str(image)]
        if self.board == "pseries":
            options += ["-cpu", self.cpu]
        if self.disk:
            kind = "pci" if self.board == "pseries" else "device"
            options += ["-drive", f"file={self.disk_path},if=none,format=raw,id=disk0"]
            options += ["-device", f"virtio-blk-{kind},drive=disk0"]
        return options

    def start(self, name: str = "source") -> Emulator:
        """A machine in which the guest has begun to tick."""
        source = Emulator(self.folder, name, self.options())
        source.wait_for("TICK 3 ", SECONDS)
        return source

    def waiting(self, name: str = "target", uri: str | None = None) -> tuple[Emulator, str]:
        """A machine of the same kind that waits for the guest, and where."""
        uri = uri or f"unix:{self.folder}/{name}.migration"
        return Emulator(self.folder, name, [*self.options(), "-incoming", uri]), uri

    def disk_is_locked(self) -> bool:
        """Whether a process has the disk now."""
        try:
            open_image(str(self.disk_path), "raw").close()
        except ConfigError:
            return True
        return False


def ticks(text: str) -> list[int]:
    """Numbers of the whole ticks on a console."""
    return [int(number) for number, _ in _TICK.findall(text.replace("\r", ""))]


def go_on(emulator: Emulator, count: int = 3) -> None:
    """Wait for ticks that come from now on."""
    seen = len(ticks(emulator.text))
    deadline = time.monotonic() + SECONDS
    while len(ticks(emulator.text)) < seen + count + 1:  # the first may have been on its way
        assert time.monotonic() < deadline, f"{emulator.name} stands still: {emulator.text[-300:]}"
        time.sleep(0.01)


def fault_in(*consoles: str) -> str:
    """What is wrong with a guest that has run on these consoles in turn; empty if nothing.

    A tick may be cut in two where the guest moved.
    """
    text = "".join(consoles)
    if wrong := _WRONG.search(text):
        return wrong[0]
    numbers = ticks(text)
    if not numbers:
        return "no tick"
    expected = list(range(1, len(numbers) + 1))
    if numbers != expected:
        at = next(i for i, (a, b) in enumerate(zip(numbers, expected, strict=True)) if a != b)
        return f"tick {expected[at]} is lost or doubled: {numbers[max(at - 2, 0) : at + 3]}"
    return ""


def last_words(emulator: Emulator) -> list[str]:
    """What a process has said on stderr, line by line, but for the compilation's notice."""
    lines = emulator.log.read_text().splitlines()
    return [line for line in lines if "compiling hot paths" not in line]
