"""QEMU's option syntax: comma-separated keys and values, or JSON; booleans, numbers, sizes."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable

from devices.properties import parse_bool, parse_number, parse_size
from emu.config import ConfigError

__all__ = [
    "check_identifier",
    "is_json",
    "join_keyvals",
    "json_text",
    "parse_bool",
    "parse_json",
    "parse_keyvals",
    "parse_number",
    "parse_pairs",
    "parse_size",
    "wants_help",
]

_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")


def parse_keyvals(
    text: str, implied: str | None = None, known: Collection[str] | None = None
) -> dict[str, str]:
    """Split "key=value,key=value" as QEMU does; later values of a key win.

    A comma in a value is written twice. A first part without "=" is the value of `implied`; any
    other stands for key=on, or "nokey" for key=off if `known` has "key". ConfigError for a key
    that is not in `known` (None: every key is fine).
    """
    return dict(_pairs(text, implied, known))


def parse_pairs(
    text: str, implied: str | None = None, known: Collection[str] | None = None
) -> list[tuple[str, str]]:
    """The parts of the argument in order, where a key may be there several times.

    As `parse_keyvals`, or a JSON object: nested keys are joined with dots, and the members of a
    list become parts of their own.
    """
    if is_json(text):
        return [(key, json_text(value)) for key, value in parse_json(text)]
    return list(_pairs(text, implied, known))


def _pairs(
    text: str, implied: str | None, known: Collection[str] | None
) -> Iterable[tuple[str, str]]:
    for index, (key, value) in enumerate(_parts(text, implied is not None)):
        if value is None and index == 0 and implied is not None:
            key, value = implied, key
        elif value is None:
            key, value = _flag(key, known or ())
        if known is not None and key not in known:
            raise ConfigError(f"Invalid parameter '{key}'")
        yield key, value


def is_json(text: str) -> bool:
    """Whether an argument is written in JSON."""
    return text.startswith("{")


def parse_json(text: str) -> list[tuple[str, object]]:
    """Keys and values of a JSON object, flattened as in `parse_pairs`; ConfigError if it is bad."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"JSON parse error, {error}") from error
    members = list(_flatten("", tree))
    for key, value in members:
        _check_encodable(key)
        if isinstance(value, str):
            _check_encodable(value)
    return members


def _check_encodable(text: str) -> None:
    """ConfigError for what only an escape of JSON can write, and no file name or C string holds."""
    try:
        if b"\0" not in os.fsencode(text):
            return
    except UnicodeError:
        pass
    raise ConfigError("JSON parse error, a string has characters that cannot be encoded")


def _flatten(prefix: str, value: object) -> Iterable[tuple[str, object]]:
    if isinstance(value, dict):
        for key, member in value.items():
            # QEMU writes a list of strings as [{"str": "..."}].
            yield from _flatten(prefix if key == "str" and prefix else f"{prefix}.{key}", member)
    elif isinstance(value, list):
        for member in value:
            yield from _flatten(prefix, member)
    else:
        yield prefix.removeprefix("."), value


def json_text(value: object) -> str:
    """Write a JSON value as the other syntax does."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return "" if value is None else str(value)


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


def check_identifier(value: str) -> str:
    """Return `value` if it can be an id: a letter, then letters, digits, '-', '.', '_'."""
    if _IDENTIFIER.fullmatch(value):
        return value
    raise ConfigError("Parameter 'id' expects an identifier")


def wants_help(text: str) -> bool:
    """Whether one part of the argument is "help" or "?"."""
    return any(value is None and key in ("help", "?") for key, value in _parts(text, False))
