"""Starting the two emulators alike and timing them from the outside."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

GUESTS = Path("build/guests")


class BenchError(Exception):
    """A run did not end as it should; the message has the console's tail."""


@dataclass
class Run:
    """One finished run of an emulator.

    ``seconds`` runs from process start to the awaited line, ``lines`` are the console's,
    ``peak`` is the process's peak resident memory and ``guest`` what of it was guest RAM when
    the line came; both in bytes.
    """

    seconds: float
    lines: list[str] = field(default_factory=list)
    peak: int = 0
    guest: int = 0


def command(emulator: str, cpu: str, memory: str, options: list[str], cpus: int = 1) -> list[str]:
    """The command line of ``ours`` or ``qemu`` for the same machine.

    With several CPUs, QEMU may use a thread for each, as it does by default.
    """
    common = ["-cpu", cpu, "-m", memory, "-smp", str(cpus)]
    common += ["-nodefaults", "-display", "none", "-serial", "stdio"]
    if emulator == "ours":
        return [sys.executable, "-m", "emu", "-M", "pseries", *common, *options]
    machine = "pseries" if "-bios" in options else "pseries,x-vof=on"
    accel = ["-accel", "tcg,thread=single" if cpus == 1 else "tcg"]
    return ["qemu-system-ppc64", "-M", machine, *accel, *common, *options]


def kernel_options(guest: str, append: str) -> list[str]:
    """Options that boot one of the guests of ``make guests``."""
    folder = GUESTS / guest
    return [
        "-kernel",
        str(folder / "vmlinux"),
        "-initrd",
        str(folder / "initramfs.cpio.gz"),
        "-append",
        append,
    ]


def run(argv: list[str], until: str, timeout: float) -> Run:
    """Run to the line that matches ``until``, then to the end of the process (or end it)."""
    start = time.monotonic()
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.stdout is not None
    output = bytearray()
    pattern = re.compile(until.encode())
    result: Run | None = None
    descriptor = process.stdout.fileno()
    try:
        while time.monotonic() - start < timeout:
            if not select.select([descriptor], [], [], 1.0)[0]:
                continue
            data = os.read(descriptor, 65536)
            output += data
            if result is None and pattern.search(output):
                result = Run(time.monotonic() - start, guest=_guest_memory(process.pid))
            if not data:
                break
    finally:
        # Not Popen's methods: they would reap the process, and its usage with it.
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0
    text = output.decode("utf-8", "replace")
    if result is None:
        raise BenchError(f"{argv[0]}: no {until!r} within {timeout:g} s:\n{text[-2000:]}")
    result.lines = text.splitlines()
    result.peak = usage.ru_maxrss * 1024
    return result


def _guest_memory(pid: int) -> int:
    """Resident bytes of the process's largest mapping: guest RAM."""
    largest = resident = size = 0
    try:
        for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
            if line.startswith("Size:"):
                size = int(line.split()[1])
            elif line.startswith("Rss:") and size > largest:
                largest, resident = size, int(line.split()[1])
    except OSError:
        return 0
    return resident * 1024
