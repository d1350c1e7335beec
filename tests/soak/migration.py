"""`python -m tests.soak.migration [--count N] [--cpu MODEL] [--mode MODE]`: N moves each."""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

from tests.boot.guests import LE
from tests.migration.ping_pong import MODES, ping_pong


def main() -> int:
    """Run the chosen cells; a line each, exit status 1 if any failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.migration", description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--cpu", default="power8,power9")
    parser.add_argument("--mode", default=",".join(MODES))
    options = parser.parse_args()
    failed = 0
    for cpu in options.cpu.split(","):
        for mode in options.mode.split(","):
            with tempfile.TemporaryDirectory() as folder:
                report = ping_pong(Path(folder), LE, cpu, mode, options.count)
            failed += bool(report.fault)
            median = statistics.median(report.downtimes) if report.downtimes else 0
            print(
                f"{'FAIL' if report.fault else 'PASS'} migration le {cpu} {mode}: "
                f"{report.moves} of {options.count} moves, {report.ticks} ticks, "
                f"median downtime {median} ms {report.fault}",
                flush=True,
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
