"""QEMU's option syntax: comma-separated keys and values, booleans, sizes."""

from __future__ import annotations

import re
from collections.abc import Collection
from decimal import Decimal

from emu.config import ConfigError

_SIZE = re.compile(r"(?:(0x[0-9a-f]+)|([0-9]+(?:\.[0-9]+)?)([bkmgtpe]?))", re.IGNORECASE)
_UNITS = {"b": 1, **{unit: 1 << (10 * (n + 1)) for n, unit in enumerate("kmgtpe")}}
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")

_TRUE = ("on", "yes", "true", "y")
_FALSE = ("off", "no", "false", "n")


def parse_keyvals(
    text: str, implied: str | None = None, known: Collection[str] | None = None
) -> dict[str, str]:
    """Split "key=value,key=value" as QEMU does; later values of a key win.

    A comma in a value is written twice. A first part without "=" is the value of `implied`; any
    other stands for key=on, or "nokey" for key=off if `known` has "key". ConfigError for a key
    that is not in `known` (None: every key is fine).
    """
    result: dict[str, str] = {}
    for index, (key, value) in enumerate(_parts(text, implied is not None)):
        if value is None and index == 0 and implied is not None:
            key, value = implied, key
        elif value is None:
            key, value = _flag(key, known or ())
        if known is not None and key not in known:
            raise ConfigError(f"Invalid parameter '{key}'")
        result[key] = value
    return result


def _parts(text: str, implied: bool) -> list[tuple[str, str | None]]:
    """Split into (key, value), or (word, None) for a part without "="."""
    parts: list[tuple[str, str | None]] = []
    position = 0
    while position < len(text):
        head = re.compile(r"[^=,]*").match(text, position)
        assert head is not None
        if text[head.end() : head.end() + 1] == "=":
            value, position = _value(text, head.end() + 1)
            parts.append((head.group(), value))
        elif not parts and implied:
            value, position = _value(text, position)
            parts.append((value, None))
        else:
            parts.append((head.group(), None))
            position = head.end() + 1
    return parts


def _value(text: str, position: int) -> tuple[str, int]:
    """Return the value at `position`, ",," made ",", and where the next part begins."""
    match = re.compile(r"(?:[^,]|,,)*").match(text, position)
    assert match is not None
    return match.group().replace(",,", ","), match.end() + 1


def _flag(word: str, known: Collection[str]) -> tuple[str, str]:
    if word not in known and word.startswith("no") and word[2:] in known:
        return word[2:], "off"
    return word, "on"


def join_keyvals(pairs: dict[str, str]) -> str:
    """Write keys and values so that `parse_keyvals` reads them back."""
    return ",".join(f"{key}={value.replace(',', ',,')}" for key, value in pairs.items())


def parse_bool(name: str, value: str) -> bool:
    """Return the boolean that `value` of the parameter `name` means."""
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise ConfigError(f"Parameter '{name}' expects 'on' or 'off'")


def parse_number(name: str, value: str) -> int:
    """Return the value of a parameter that is a non-negative number (decimal, 0x or 0 octal)."""
    try:
        number = int(value, 8) if re.fullmatch("0[0-7]+", value) else int(value, 0)
    except ValueError:
        number = -1
    if number < 0 or not value[:1].isdigit():
        raise ConfigError(f"Parameter '{name}' expects a number")
    return number


def parse_size(name: str, value: str, unit: int = 1) -> int:
    """Return a size in bytes; without a suffix, `value` counts in `unit` bytes."""
    match = _SIZE.fullmatch(value)
    if match:
        hexadecimal, decimal, suffix = match.groups()
        if hexadecimal:
            size = int(hexadecimal, 16) * unit
        else:
            size = int(Decimal(decimal) * (_UNITS[suffix.lower()] if suffix else unit))
        if size < 1 << 64:
            return size
    raise ConfigError(
        f"Parameter '{name}' expects a non-negative number below 2^64 (suffixes: K, M, G, T, P, E)"
    )


def check_identifier(value: str) -> str:
    """Return `value` if it can be an id: a letter, then letters, digits, '-', '.', '_'."""
    if _IDENTIFIER.fullmatch(value):
        return value
    raise ConfigError("Parameter 'id' expects an identifier")


def wants_help(text: str) -> bool:
    """Whether one part of the argument is "help" or "?"."""
    return any(value is None and key in ("help", "?") for key, value in _parts(text, False))
