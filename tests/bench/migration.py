"""Migration between two processes over a unix socket, and restoring a saved guest."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from pathlib import Path

from tests.boot.guests import LE, READY
from tests.support.process import OURS, Emulator

QEMU = ("qemu-system-ppc64", "-accel", "tcg,thread=single", "-M", "pseries,x-vof=on")
PROGRAMS = {"ours": OURS, "qemu": QEMU}
# What keeps a guest busy: it writes 64 MiB again and again.
_BUSY = "while :; do dd if=/dev/zero of=/tmp/x bs=1M count=64 2>/dev/null; done &"

Results = dict[tuple[str, str], dict[str, list[float]]]


def migrations(cpu: str, rounds: int) -> Results:
    """Total time and downtime of a 1 GiB guest, idle and busy; no bandwidth limit."""
    results: Results = defaultdict(lambda: defaultdict(list))
    for load in ("idle", "busy"):
        for _ in range(rounds):
            for emulator in PROGRAMS:
                with tempfile.TemporaryDirectory() as folder:
                    total, downtime = _migrate(Path(folder), emulator, cpu, load)
                results[cpu, f"migration, {load} 1 GiB guest: total"][emulator].append(total)
                results[cpu, f"migration, {load} 1 GiB guest: downtime"][emulator].append(downtime)
    return results


def _options(cpu: str, emulator: str) -> list[str]:
    options = LE.arguments(cpu=cpu)
    return options[2:] if emulator == "qemu" else options  # without -M pseries


def _migrate(folder: Path, emulator: str, cpu: str, load: str) -> tuple[float, float]:
    program, options = PROGRAMS[emulator], _options(cpu, emulator)
    uri = f"unix:{folder}/migration"
    with (
        Emulator(folder, "source", options, program) as source,
        Emulator(folder, "target", [*options, "-incoming", uri], program) as target,
    ):
        source.wait_for(READY, 120.0)
        source.wait_for("# ", 120.0)
        if load == "busy":
            source.send(_BUSY + "\n")
        time.sleep(2.0)
        source.command("migrate-set-parameters", max_bandwidth=1 << 40)
        answer = source.migrate(uri, 300.0)
        if answer["status"] != "completed" or target.status() != "running":
            raise RuntimeError(f"{emulator}: migration failed: {answer}")
        return answer["total-time"] / 1000, answer["downtime"] / 1000
