"""A loaded guest migrates to and fro between processes; nothing of it may be lost or doubled."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

from tests.boot.guests import BOOT_SECONDS, READY, Guest, trouble_in
from tests.support.process import Emulator

MODES = {"legacy": ",disable-modern=on", "transitional": "", "modern": ",disable-legacy=on"}
_DISK_SIZE = 16 << 20
_SMALL_DISK = 1 << 20
_TICK = re.compile(r"tick (\d+) (\S+) (\d+)\.(\d\d)\b")
# The shells' loop: read the disk past the page cache, tell its checksum and the uptime.
_LE_LOOP = (
    "n=0; while :; do n=$((n+1)); s=$(dd if=/dev/vda bs=64k iflag=direct 2>/dev/null | md5sum);"
    " read u v < /proc/uptime; echo tick $n ${s%% *} $u; done"
)
# The small guests' shell has no loops: so many rounds are typed at once, a line each.
_SMALL_ROUNDS = 20
_SMALL_ROUND = (
    "sha256 /dev/vda; write /tmp/a 300000 {n}; verify /tmp/a 300000 {n}; cat /proc/uptime;"
    " rm /tmp/a; echo 3 > /proc/sys/vm/drop_caches; echo tick {n}"
)
_SMALL_TICK = re.compile(
    r"^(?:guest# )?([0-9a-f]{64})  /dev/vda\nwrote 300000\nverified 300000\n"
    r"(\d+)\.(\d\d) \S+\ntick (\d+)$",
    re.MULTILINE,
)


@dataclass
class Report:
    """What a run found; ``fault`` is empty if all was well."""

    moves: int = 0
    ticks: int = 0
    fault: str = ""
    downtimes: tuple[int, ...] = ()


def ping_pong(folder: Path, guest: Guest, cpu: str, mode: str, moves: int, cpus: int = 1) -> Report:
    """Migrate a busybox guest under disk, CPU and console load ``moves`` times."""
    small = guest.name != "le"
    disk = folder / "disk.img"
    disk.write_bytes(os.urandom(_SMALL_DISK if small else _DISK_SIZE))
    arguments = [*guest.arguments(cpu=cpu), "-smp", str(cpus), *_devices(disk, MODES[mode])]
    report = Report()
    here = Emulator(folder, "host0", arguments)
    text = ""
    try:
        here.wait_for(READY, BOOT_SECONDS)
        here.wait_for("# ", BOOT_SECONDS)
        here.send("stty -echo\n" if small else _LE_LOOP + "\n")
        here.wait_for("# " if small else r"tick 1 ", BOOT_SECONDS)
        for move in range(1, moves + 1):
            there = _move(folder, here, arguments, move, report, small)
            text += here.text
            here.close()
            here = there
            if report.fault:
                break
            if not small:
                here.wait_for(r"tick \d+ \S+ \d+\.\d\d\r", 120.0)
            elif f"tick {move * _SMALL_ROUNDS}\r" not in text:
                here.wait_for(f"tick {move * _SMALL_ROUNDS}\r", 120.0)
            report.moves = move
        text += here.text
    finally:
        here.close()
    report.fault = report.fault or _check(text, report, small)
    return report


def _type_rounds(emulator: Emulator, move: int) -> None:
    """Have a small guest work for a while, and wait until it has begun."""
    first = (move - 1) * _SMALL_ROUNDS + 1
    rounds = [_SMALL_ROUND.format(n=n) for n in range(first, first + _SMALL_ROUNDS)]
    emulator.send("".join(f"{line}\n" for line in rounds))
    emulator.wait_for(f"tick {first + 1}\r", 120.0)


def _devices(disk: Path, mode: str) -> list[str]:
    options = ["-drive", f"file={disk},if=none,id=d,format=raw"]
    options += ["-device", f"virtio-blk-pci,drive=d{mode}"]
    options += ["-netdev", "user,id=n", "-device", f"virtio-net-pci,netdev=n{mode}"]
    for kind in ("rng", "balloon", "serial"):
        options += ["-device", f"virtio-{kind}-pci{mode}"]
    return options


def _move(
    folder: Path, source: Emulator, arguments: list[str], move: int, report: Report, small: bool
) -> Emulator:
    uri = f"unix:{folder}/migration{move}"
    target = Emulator(folder, f"host{move}", [*arguments, "-incoming", uri])
    source.command("migrate-set-parameters", max_bandwidth=0)
    if small:
        _type_rounds(source, move)
    answer = source.migrate(uri, 120.0)
    if answer["status"] != "completed":
        report.fault = f"move {move}: {answer['status']}: {answer.get('error-desc')}"
    else:
        report.downtimes += (answer["downtime"],)
    time.sleep(0.2)  # the console's last bytes of the source
    return target


def _check(text: str, report: Report, small: bool) -> str:
    """Ticks are whole, in order, with one checksum and a growing uptime; no kernel warning."""
    if small:
        found = _SMALL_TICK.findall(text.replace("\r", ""))
        ticks = [(number, digest, whole, part) for digest, whole, part, number in found]
    else:
        ticks = _TICK.findall(text)
    report.ticks = len(ticks)
    numbers = [int(tick[0]) for tick in ticks]
    if numbers != list(range(1, len(numbers) + 1)):
        wrong = next(i for i, number in enumerate(numbers, 1) if number != i)
        return f"tick {wrong} is lost or doubled: {numbers[max(wrong - 3, 0) : wrong + 3]}"
    if not numbers:
        return "no tick"
    if len({tick[1] for tick in ticks}) != 1:
        return f"checksums differ: { {tick[1] for tick in ticks} }"
    uptimes = [100 * int(tick[2]) + int(tick[3]) for tick in ticks]
    if uptimes != sorted(uptimes):
        return "uptime went back"
    trouble = trouble_in(text)
    return trouble[0] if trouble else ""
