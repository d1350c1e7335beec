"""Makes the guest images: python -m firmware.guests [--only NAME ...] [--out DIRECTORY]."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from firmware.guests import cache, kernel
from firmware.guests.apt import Apt
from firmware.guests.errors import GuestError
from firmware.guests.report import Report

DEFAULT_OUT = Path("build/guests")
NAMES = ("le", "be", "le-small")
# All the packages wanted are for this architecture or for all.
_ARCHITECTURE = "ppc64el"


@dataclass(frozen=True)
class Guest:
    """A guest's name, what its files are called, their input hash and how to make them."""

    name: str
    outputs: Sequence[str]
    input_hash: Callable[[], str]
    make: Callable[[Path], None]


def guest(name: str, apt: Apt, report: Report, from_source: bool, force: bool) -> Guest:
    """Return the guest of that name."""
    if name == "le":
        from firmware.guests import busybox_guest as big

        return Guest(
            name, big.OUTPUTS, big.input_hash, lambda out: big.make(out, apt, report, force)
        )
    from firmware.guests import small_guest

    small = kernel.BE if name == "be" else kernel.LE
    return Guest(
        name,
        small_guest.OUTPUTS,
        lambda: small_guest.input_hash(small),
        lambda out: small_guest.make(out, small, apt, report, from_source),
    )


def bring_up_to_date(wanted: Guest, out: Path, again: bool) -> bool:
    """Make a guest below `out` unless it is there already; tell whether it was made."""
    directory = out / wanted.name
    stamp = cache.Stamp(directory, wanted.input_hash(), wanted.outputs)
    if stamp.is_current() and not again:
        return False
    wanted.make(directory)
    stamp.write()
    return True


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    p = argparse.ArgumentParser(prog="python -m firmware.guests", description=__doc__)
    p.add_argument("--only", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME",
                   help=f"make only these of {', '.join(NAMES)}")  # fmt: skip
    p.add_argument("--out", type=Path, default=DEFAULT_OUT, help="directory to fill")
    p.add_argument("--from-source", action="store_true",
                   help="build the small kernels from Debian's linux-source")  # fmt: skip
    p.add_argument("--force", action="store_true",
                   help="make everything again, with the newest packages")  # fmt: skip
    return p


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End as Ctrl-C does, so that temporary directories go."""
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the guests asked for; return the exit status."""
    options = parser().parse_args(arguments)
    again = options.force or options.from_source
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with Report() as report:
            apt = Apt(cache.cache_root() / "apt", _ARCHITECTURE)
            for name in options.only:
                wanted = guest(name, apt, report, options.from_source, options.force)
                if bring_up_to_date(wanted, options.out, again):
                    report.step(f"{name}: {options.out / name} is ready")
    except GuestError as error:
        print(f"guests: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"guests: {error.strerror or error}: {error.filename or ''}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("guests: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
