"""Measure ppc64emu and QEMU's TCG side by side, in turns, in one run.

Every figure is the median over the rounds; a ratio is QEMU's median over ours, so more is
better for us, except where a row says otherwise.  Writes a Markdown table to standard output.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from tests.bench.devices import device_rows
from tests.bench.emulators import BenchError, Run, command, kernel_options, run
from tests.bench.migration import migrations, restores

READY = r"GUEST-READY"
BENCH_ROW = re.compile(r"BENCH name=(\S+) seconds=([0-9.]+)")
EMULATORS = ("ours", "qemu")
# li r3,0x58 (H_PUT_TERM_CHAR); r4 = unit 0; r5 = 2; r6 = "X\n"; sc 1; then stay
_FIRST_INSTRUCTION = "38600058 38800000 38a00002 3cc0580a 78c607c6 38e00000 44000022 48000000"

Results = dict[tuple[str, str], dict[str, list[float]]]


def first_instruction(rounds: int) -> Results:
    """Seconds from process start to output of the first guest instructions, warm."""
    results: Results = defaultdict(lambda: defaultdict(list))
    code = bytes.fromhex(_FIRST_INSTRUCTION.replace(" ", ""))
    with tempfile.NamedTemporaryFile(suffix=".bin") as image:
        image.write(bytes(0x100) + code)
        image.flush()
        for _ in range(rounds):
            for emulator in EMULATORS:
                argv = command(emulator, "power8", "512M", ["-bios", image.name])
                seconds = _until_line(argv)
                results["power8", "process start to first instruction"][emulator].append(seconds)
    return results


def _until_line(argv: list[str]) -> float:
    import time

    start = time.monotonic()
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout is not None
    line = process.stdout.readline()
    seconds = time.monotonic() - start
    process.kill()
    process.wait()
    if not line.startswith(b"X"):
        raise BenchError(f"{argv[0]}: the first instruction's output did not come")
    return seconds


def boots(cpu: str, rounds: int) -> Results:
    """Process start to the ready line, and memory, for Debian's kernel."""
    results: Results = defaultdict(lambda: defaultdict(list))
    for _ in range(rounds):
        for emulator in EMULATORS:
            options = kernel_options("le", "console=hvc0 autotest=poweroff")
            done = run(command(emulator, cpu, "1G", options), READY, 300)
            results[cpu, "process start to ready line"][emulator].append(done.seconds)
            if emulator == "ours":
                above = (done.peak - done.guest) / (1 << 20)
                results[cpu, "peak memory beyond the guest's (MiB)"][emulator].append(above)
    return results


def smp_boots(cpu: str, rounds: int) -> Results:
    """Process start to the ready line with four CPUs."""
    results: Results = defaultdict(lambda: defaultdict(list))
    for _ in range(rounds):
        for emulator in EMULATORS:
            options = kernel_options("le", "console=hvc0 autotest=poweroff")
            done = run(command(emulator, cpu, "1G", options, cpus=4), READY, 300)
            results[cpu, "process start to ready line, 4 CPUs"][emulator].append(done.seconds)
    return results


def guest_rows(cpu: str, rounds: int, rows: str) -> Results:
    """The guest's own bench script, by its own clock."""
    results: Results = defaultdict(lambda: defaultdict(list))
    append = "console=hvc0 autotest=bench" + (f" bench={rows}" if rows else "")
    for _ in range(rounds):
        for emulator in EMULATORS:
            options = kernel_options("le", append)
            done: Run = run(command(emulator, cpu, "1G", options), "BENCH-DONE", 1800)
            for line in done.lines:
                if match := BENCH_ROW.search(line):
                    results[cpu, match[1]][emulator].append(float(match[2]))
    return results


def table(results: Results) -> str:
    """Markdown rows: medians and their ratio."""
    lines = ["| CPU | what | ppc64emu | QEMU TCG | QEMU / ppc64emu |", "|---|---|---|---|---|"]
    for (cpu, what), figures in results.items():
        ours = statistics.median(figures["ours"])
        if not figures["qemu"]:
            lines.append(f"| {cpu} | {what} | {ours:.0f} | | |")
            continue
        theirs = statistics.median(figures["qemu"])
        ratio = theirs / ours if ours else float("inf")
        lines.append(f"| {cpu} | {what} | {ours:.3g} s | {theirs:.3g} s | {ratio:.2f} |")
    return "\n".join(lines)


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def main() -> int:
    """Run the chosen benchmarks and print the table."""
    parser = argparse.ArgumentParser(prog="tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cpu", default="power8,power9")
    parser.add_argument(
        "--only", default="start,boot,smp,rows,devices,migration", help="start, boot, rows, ..."
    )
    parser.add_argument("--rows", default="", help="guest rows, comma separated; all by default")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    arguments = parser.parse_args()
    chosen = set(arguments.only.split(","))
    results: Results = {}
    try:
        if "start" in chosen:
            results.update(first_instruction(max(arguments.rounds, 5)))
        for cpu in arguments.cpu.split(","):
            if "boot" in chosen:
                results.update(boots(cpu, arguments.rounds))
            if "smp" in chosen:
                results.update(smp_boots(cpu, arguments.rounds))
            if "devices" in chosen:
                results.update(device_rows(cpu, arguments.rounds))
            if "migration" in chosen:
                results.update(migrations(cpu, arguments.rounds))
                results.update(restores(cpu, arguments.rounds))
            if "rows" in chosen:
                results.update(guest_rows(cpu, arguments.rounds, arguments.rows))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    text = f"Commit {_commit()}, {arguments.rounds} rounds, medians.\n\n{table(results)}\n"
    print(text)
    if arguments.output:
        arguments.output.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
