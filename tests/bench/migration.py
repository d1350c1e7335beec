"""Migration between two processes over a unix socket, and restoring a saved guest."""

from __future__ import annotations

import tempfile
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from tests.boot.guests import LE, READY, Guest
from tests.support.process import OURS, Emulator

QEMU = ("qemu-system-ppc64", "-accel", "tcg,thread=single", "-M", "pseries,x-vof=on")
PROGRAMS = {"ours": OURS, "qemu": QEMU}
_SMALL = replace(LE, ram_size=512 << 20)
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


def restores(cpu: str, rounds: int) -> Results:
    """From a file to a running guest of 512 MiB: in a process that waits, and from its start.

    QEMU reads the file through `cat`; ours also goes back in the same process (loadvm).
    """
    results: Results = defaultdict(lambda: defaultdict(list))
    name = "restore, booted 512 MiB guest: "
    for emulator in PROGRAMS:
        with tempfile.TemporaryDirectory() as text:
            folder = Path(text)
            program, options = PROGRAMS[emulator], _options(cpu, emulator, _SMALL)
            file = folder / "saved"
            with Emulator(folder, "source", options, program) as source:
                source.wait_for(READY, 120.0)
                source.wait_for("# ", 120.0)
                if emulator == "ours":
                    results[cpu, name + "loadvm"][emulator] += _go_back(source, file, rounds)
                source.command("migrate-set-parameters", max_bandwidth=1 << 40)
                answer = source.migrate(_URIS[emulator][0].format(file), 300.0)
                if answer["status"] != "completed":
                    raise RuntimeError(f"{emulator}: not saved: {answer}")
            for number in range(rounds):
                for row, seconds in _restore(folder, emulator, options, file, number):
                    results[cpu, name + row][emulator].append(seconds)
    return results


_URIS = {"ours": ("file:{}", "file:{}"), "qemu": ("exec:cat > {}", "exec:cat {}")}


def _go_back(emulator: Emulator, file: Path, rounds: int) -> list[float]:
    found = []
    for command in ["savevm", *["loadvm"] * rounds]:
        begun = time.perf_counter()
        wrong = emulator.command("human-monitor-command", command_line=f"{command} {file}.vm")
        _await_running(emulator)
        found.append(time.perf_counter() - begun)
        if wrong:
            raise RuntimeError(wrong)
    return found[1:]


def _restore(
    folder: Path, emulator: str, options: list[str], file: Path, number: int
) -> list[tuple[str, float]]:
    program, uri = PROGRAMS[emulator], _URIS[emulator][1].format(file)
    with Emulator(folder, f"waiting{number}", [*options, "-incoming", "defer"], program) as target:
        begun = time.perf_counter()
        target.command("migrate-incoming", uri=uri)
        _await_running(target)
        waiting = time.perf_counter() - begun
    begun = time.perf_counter()
    with Emulator(folder, f"new{number}", [*options, "-incoming", uri], program) as target:
        _await_running(target)
        return [
            ("file to running", waiting),
            ("process start to running", time.perf_counter() - begun),
        ]


def _await_running(emulator: Emulator) -> None:
    while emulator.status() != "running":
        time.sleep(0.002)


def _options(cpu: str, emulator: str, guest: Guest = LE) -> list[str]:
    options = guest.arguments(cpu=cpu)
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
