"""Ranges of effective addresses for ``-dfilter``, in QEMU's syntax."""

from __future__ import annotations

import re

from emu.chardev.config import ConfigError
from emu.config_trace import Range

MAX_RANGES = 64

_RANGE = re.compile(r"(0[xX][0-9a-fA-F]+|[0-9]+)(\+|-|\.\.)(0[xX][0-9a-fA-F]+|[0-9]+)")
_LIMIT = 1 << 64


def parse_number(text: str) -> int:
    """A number as in C: hexadecimal after 0x, octal after 0, else decimal; ``ValueError``."""
    if text[:2].lower() == "0x":
        return int(text[2:], 16)
    return int(text, 8 if text.startswith("0") else 10)


def parse_ranges(text: str) -> tuple[Range, ...]:
    """``START+LENGTH``, ``START-LENGTH`` (ending at START) or ``START..END``, comma separated.

    Raises :class:`ConfigError`.
    """
    ranges = tuple(_parse_range(part) for part in text.split(","))
    if len(ranges) > MAX_RANGES:
        raise ConfigError(f"at most {MAX_RANGES} ranges", "log_filter")
    return ranges


def _parse_range(text: str) -> Range:
    match = _RANGE.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            f"bad range '{text}' (START+LENGTH, START-LENGTH or START..END)", "log_filter"
        )
    try:
        start, other = parse_number(match[1]), parse_number(match[3])
    except ValueError:
        raise ConfigError(f"bad number in range '{text}'", "log_filter") from None
    if match[2] == "..":
        first, last = start, other
    elif other == 0:
        raise ConfigError(f"empty range '{text}'", "log_filter")
    elif match[2] == "+":
        first, last = start, start + other - 1
    else:
        first, last = start - other + 1, start
    if not 0 <= first <= last < _LIMIT:
        raise ConfigError(f"range '{text}' does not lie in 64 bits, or ends before it starts")
    return first, last
