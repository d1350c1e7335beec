"""Long runs: `python -m tests.soak stress|boots|virtio|migration|migration-faults|all`.

`stress` runs the checked load of Debian's guest, `boots` boots every guest again and again,
`virtio` moves much data through the devices of guests of both byte orders, `migration` moves
guests of both to and fro under load, `migration-faults` breaks migrations everywhere.
One summary line per item; exit status 1 if any failed.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from emu.chardev.memory import ConsoleError
from tests.boot.guests import BE, BOOT_SECONDS, LE, READY, Guest, boot, trouble_in
from tests.boot.virtio_guest import INTERFACES
from tests.soak.migration import faults, migration
from tests.soak.result import Result
from tests.soak.virtio import virtio

CPUS = ("power8", "power9")
#: Seconds a round of the load may go on after its time is over.
_GRACE_SECONDS = 900.0
_DONE = re.compile(r"STRESS-DONE rounds=(\d+)")


def main(arguments: Iterable[str] | None = None) -> int:
    """Run what the arguments say; the exit status."""
    options = _parse(arguments)
    cpus = [options.cpu] if options.cpu else list(CPUS)
    failed = 0
    for result in _items(options, cpus):
        print(result, flush=True)
        failed += not result.passed
    return 1 if failed else 0


def _parse(arguments: Iterable[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    what = ("stress", "boots", "virtio", "migration", "migration-faults", "all")
    parser.add_argument("what", choices=what)
    parser.add_argument("--seconds", type=int, default=600, help="length of the load (600)")
    parser.add_argument(
        "--count",
        type=int,
        help="boots of each guest and CPU (20), moves (100), broken migrations (500)",
    )
    parser.add_argument("--mib", type=int, default=1024, help="data on the virtio disk (1024)")
    parser.add_argument("--interface", choices=INTERFACES, help="only these virtio devices")
    parser.add_argument("--guest", choices=("le", "be"), help="only this guest (virtio, migration)")
    parser.add_argument("--cpu", choices=CPUS, help="only this CPU model")
    parser.add_argument("--smp", type=int, default=1, help="CPUs of the guest (stress) (1)")
    return parser.parse_args(None if arguments is None else list(arguments))


def _items(options: argparse.Namespace, cpus: list[str]) -> Iterator[Result]:
    what = options.what
    if what in ("boots", "all"):
        for guest in (LE, BE):
            for cpu in cpus:
                name = f"boots {guest.name} {cpu}"
                yield _guarded(name, boots, guest, cpu, options.count or 20)
    if what in ("virtio", "all"):
        for guest in (LE, BE):
            for interface in [options.interface] if options.interface else INTERFACES:
                for cpu in cpus if options.guest in (None, guest.name) else []:
                    item = partial(virtio, interface=interface)
                    name = f"virtio {guest.name} {interface} {cpu}"
                    yield _guarded(name, item, guest, cpu, options.mib)
    if what in ("migration", "all"):
        for guest in (LE, BE):
            for cpu in cpus if options.guest in (None, guest.name) else []:
                move = partial(migration, mode=options.interface or "")
                name = f"migration {guest.name} {cpu}"
                yield _guarded(name, move, guest, cpu, options.count or 100)
    if what in ("migration-faults", "all"):
        yield faults(options.count or 500)
    if what in ("stress", "all"):
        for cpu in cpus:
            item = partial(stress, cpus=options.smp)
            yield _guarded(f"stress le {cpu}", item, LE, cpu, options.seconds)


def _guarded(
    name: str, item: Callable[[Guest, str, int], Result], guest: Guest, cpu: str, size: int
) -> Result:
    if guest.missing:
        return Result(name, False, guest.missing)
    return item(guest, cpu, size)


def stress(guest: Guest, cpu: str, seconds: int, cpus: int = 1) -> Result:
    """Run the guest's checked load; it must end in STRESS-DONE with no mismatch."""
    name = f"stress {guest.name} {cpu} smp {cpus}"
    append = f"autotest=stress stress_seconds={seconds}"
    with boot(guest, cpu, append, cpus=cpus) as machine:
        try:
            machine.console.wait_for(READY, timeout=BOOT_SECONDS)
            match = machine.console.wait_for(_DONE, timeout=seconds + _GRACE_SECONDS)
            status = machine.wait(BOOT_SECONDS)
        except (ConsoleError, TimeoutError) as error:
            return Result(name, False, _fault(machine.console.text, str(error)))
        text = machine.console.text
        bad = trouble_in(text) or _failures(text)
        if bad or status:
            return Result(name, False, _fault(text, f"exit status {status}"))
        return Result(name, True, f"{match[1].decode()} rounds in {seconds} s")


def boots(guest: Guest, cpu: str, count: int) -> Result:
    """Boot to the ready line and power off, `count` times."""
    name = f"boots {guest.name} {cpu}"
    good, seconds = 0, []
    for number in range(1, count + 1):
        started = time.monotonic()
        why = _boot_once(guest, cpu)
        seconds.append(time.monotonic() - started)
        if why:
            print(f"{name}: boot {number}: {why}", file=sys.stderr, flush=True)
        else:
            good += 1
    spread = f"{min(seconds):.1f} to {max(seconds):.1f} s" if seconds else "none"
    return Result(name, good == count, f"{good} of {count}, {spread}")


def _boot_once(guest: Guest, cpu: str) -> str:
    """Why a boot failed; empty if it did not."""
    with boot(guest, cpu, "autotest=poweroff") as machine:
        try:
            machine.console.wait_for(READY, timeout=BOOT_SECONDS)
            status = machine.wait(BOOT_SECONDS)
        except (ConsoleError, TimeoutError) as error:
            return _fault(machine.console.text, str(error))
        text = machine.console.text
        return _fault(text, f"exit status {status}") if status or trouble_in(text) else ""


def _failures(text: str) -> list[str]:
    return [line for line in text.splitlines() if "STRESS-FAIL" in line]


def _fault(text: str, otherwise: str) -> str:
    """The first lines that tell of a fault, or what else is known."""
    lines = _failures(text) + trouble_in(text)
    return " | ".join(line.strip() for line in lines[:3]) or otherwise


if __name__ == "__main__":
    sys.exit(main())
