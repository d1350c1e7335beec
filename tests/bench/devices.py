"""Rows of virtio devices: the small kernels' own clocks, same image in the page cache."""

from __future__ import annotations

import os
import re
import tempfile
from collections import defaultdict
from pathlib import Path

from tests.bench.emulators import command, kernel_options, run

DISK_SIZE = 256 << 20
ROWS = "disk_read,disk_write,disk_random,net_ping"
MODES = {"legacy": "disable-modern=on", "modern": "disable-legacy=on"}
_ROW = re.compile(r"BENCH name=(\S+) seconds=([0-9.]+)")

Results = dict[tuple[str, str], dict[str, list[float]]]


def device_rows(cpu: str, rounds: int, guests: tuple[str, ...] = ("le-small", "be")) -> Results:
    """Sequential 1 MiB reads and writes (256 MiB), random 4 KiB reads (20,000), pings (5,000)."""
    results: Results = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk.img"
        disk.write_bytes(os.urandom(1 << 20) * (DISK_SIZE >> 20))
        for guest in guests:
            for mode, property_ in MODES.items():
                for _ in range(rounds):
                    for emulator in ("ours", "qemu"):
                        _measure(results, cpu, emulator, guest, mode, property_, disk)
    return results


def _measure(
    results: Results,
    cpu: str,
    emulator: str,
    guest: str,
    mode: str,
    property_: str,
    disk: Path,
) -> None:
    options = kernel_options(guest, f"console=hvc0 autotest=bench bench={ROWS}")
    options += ["-drive", f"file={disk},if=none,id=d,format=raw"]
    options += ["-device", f"virtio-blk-pci,drive=d,{property_}"]
    options += ["-netdev", "user,id=n", "-device", f"virtio-net-pci,netdev=n,{property_}"]
    disk.read_bytes()  # into the page cache
    done = run(command(emulator, cpu, "512M", options), "BENCH-DONE", 600)
    for line in done.lines:
        if match := _ROW.search(line):
            name = f"{match[1]}, {guest}, {mode}"
            results[cpu, name][emulator].append(float(match[2]))
