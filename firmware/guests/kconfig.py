"""Kernel configuration fragments: the options on top of allnoconfig, and checking them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from firmware.guests.errors import GuestError

_SET = re.compile(r"(CONFIG_\w+)=(.*)")
_UNSET = re.compile(r"# (CONFIG_\w+) is not set")


def parse(text: str) -> dict[str, str]:
    """Read a `.config` or fragment: option name to value, `n` for one said to be not set.

    GuestError names a line that is neither an option, a comment nor empty.
    """
    options: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if found := _SET.fullmatch(line.strip()):
            options[found[1]] = found[2]
        elif found := _UNSET.fullmatch(line.strip()):
            options[found[1]] = "n"
        elif line.strip() and not line.startswith("#"):
            raise GuestError(f"kernel configuration line {number} is no option: {line.strip()}")
    return options


def unmet(wanted: Mapping[str, str], actual: Mapping[str, str]) -> list[str]:
    """List the wanted options that differ in the actual configuration, as `NAME=value`."""
    return [f"{name}={value}" for name, value in wanted.items() if actual.get(name, "n") != value]


def check(fragment: str, config: str) -> None:
    """Raise GuestError if an option of the fragment did not survive into the configuration."""
    missing = unmet(parse(fragment), parse(config))
    if missing:
        raise GuestError(f"the kernel's configuration does not take {', '.join(missing)}")
