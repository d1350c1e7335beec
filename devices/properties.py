"""Typed properties of devices: what each accepts, its default, and how the help shows it.

Texts are QEMU's: booleans are on/off, numbers decimal, 0x or octal, sizes take K, M, G, T, P, E.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass
from decimal import Decimal

from emu.chardev.config import ConfigError

#: A parsed property; None: not given, or "auto".
Value = bool | int | str | None
#: Parsed properties by QEMU's names.
Values = Mapping[str, Value]

_TRUE = ("on", "yes", "true", "y")
_FALSE = ("off", "no", "false", "n")
_SIZE = re.compile(r"(?:(0x[0-9a-f]+)|([0-9]+(?:\.[0-9]+)?)([bkmgtpe]?))", re.IGNORECASE)
_UNITS = {"b": 1, **{unit: 1 << (10 * (n + 1)) for n, unit in enumerate("kmgtpe")}}
_NUMBER = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|[0-9]+)")
_MAC = re.compile(r"[0-9a-fA-F]{2}([:-])[0-9a-fA-F]{2}(?:\1[0-9a-fA-F]{2}){4}")
_PCI_ADDRESS = re.compile(r"(?:0x)?([0-9a-f]{1,2})(?:\.(?:0x)?([0-7]))?", re.IGNORECASE)


def parse_bool(name: str, value: str) -> bool:
    """Return the boolean that `value` of the parameter `name` means."""
    if value in _TRUE:
        return True
    if value in _FALSE:
        return False
    raise ConfigError(f"Parameter '{name}' expects 'on' or 'off'")


def _number(value: str) -> int | None:
    if not _NUMBER.fullmatch(value):
        return None
    try:
        return int(value, 8) if re.fullmatch("-?0[0-9]+", value) else int(value, 0)
    except ValueError:
        return None


def parse_number(name: str, value: str) -> int:
    """Return the value of a parameter that is a non-negative number (decimal, 0x or 0 octal)."""
    number = _number(value)
    if number is None or number < 0:
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


def parse_pci_address(text: str) -> tuple[int, int] | None:
    """Slot and function of "5", "05.1" or "0x5.0x1" (hexadecimal); None if it is no address."""
    match = _PCI_ADDRESS.fullmatch(text)
    if match is None or int(match[1], 16) >= 32:
        return None
    return int(match[1], 16), int(match[2] or "0", 8)


@dataclass(frozen=True)
class PropertyType:
    """A type of property.

    `name` is QEMU's, for the help. `parse` gets the driver's and the property's name and the
    text; ConfigError if it is none. `json` are the JSON types it is written in.
    """

    name: str
    parse: Callable[[str, str, str], Value]
    json: tuple[type, ...] = (str,)

    def check_json(self, name: str, value: object) -> None:
        """ConfigError if a JSON value is not of this type."""
        if type(value) in self.json:
            return
        if self.json == (bool,):
            raise ConfigError(f"Invalid parameter type for '{name}', expected: boolean")
        if self.json == (int,):
            raise ConfigError(f"Parameter '{name}' expects {self.name}")
        raise ConfigError(f"Invalid parameter type for '{name}', expected: string")


def integer(bits: int, *, signed: bool = False) -> PropertyType:
    """The type of C's (u)intN_t."""
    name = f"{'int' if signed else 'uint'}{bits}"
    low, high = (-(1 << bits - 1), 1 << bits - 1) if signed else (0, 1 << bits)

    def parse(driver: str, key: str, text: str) -> Value:
        number = _number(text)
        if number is None:
            raise ConfigError(f"Parameter '{key}' expects integer")
        if not low <= number < high:
            raise ConfigError(f"Parameter '{key}' expects {name}_t")
        return number

    return PropertyType(name, parse, (int,))


def choice(name: str, *words: str) -> PropertyType:
    """One of a few words."""

    def parse(driver: str, key: str, text: str) -> Value:
        if text not in words:
            raise ConfigError(f"Parameter '{key}' does not accept value '{text}'")
        return text

    return PropertyType(name, parse)


def _parse_on_off_auto(driver: str, key: str, text: str) -> Value:
    if text not in ("on", "off", "auto"):
        raise ConfigError(f"Parameter '{key}' does not accept value '{text}'")
    return None if text == "auto" else text == "on"


def _matching(accepts: Callable[[str], object]) -> Callable[[str, str, str], Value]:
    def parse(driver: str, key: str, text: str) -> Value:
        if not accepts(text):
            raise ConfigError(f"Property '{driver}.{key}' doesn't take value '{text}'")
        return text

    return parse


BOOL = PropertyType("bool", lambda driver, key, text: parse_bool(key, text), (bool,))
ON_OFF_AUTO = PropertyType("OnOffAuto", _parse_on_off_auto)
STRING = PropertyType("str", lambda driver, key, text: text)
SIZE = PropertyType("size", lambda driver, key, text: parse_size(key, text), (int,))
UINT16, UINT32, UINT64 = integer(16), integer(32), integer(64)
INT32 = integer(32, signed=True)
MAC_ADDRESS = PropertyType("str", _matching(_MAC.fullmatch))
PCI_ADDRESS = PropertyType("int32", _matching(parse_pci_address), (str,))
ERROR_POLICY = choice("BlockdevOnError", "report", "ignore", "enospc", "stop", "auto")
RNG_LINK = PropertyType("link<rng-backend>", lambda driver, key, text: text)


@dataclass(frozen=True)
class Property:
    """A property of a device.

    `supported`, if there is one, are the only values this emulator can live up to.
    """

    name: str
    type: PropertyType
    default: Value = None
    help: str = ""
    supported: Container[object] | None = None

    def parse(self, driver: str, text: str) -> Value:
        """Return the value that `text` means; ConfigError in QEMU's words."""
        value = self.type.parse(driver, self.name, text)
        if self.supported is not None and value not in self.supported:
            raise ConfigError(f"{self.name}={text} is not supported")
        return value

    def describe(self) -> str:
        """One line of `-device DRIVER,help`."""
        notes = [self.help] if self.help else []
        if self.default is not None or self.type is ON_OFF_AUTO:
            notes.append(f"(default: {self.show(self.default)})")
        left = f"  {self.name}=<{self.type.name}>"
        return f"{left:<24} - {' '.join(notes)}" if notes else left

    def show(self, value: Value) -> str:
        """Write a value so that :meth:`parse` reads it."""
        if self.type is ON_OFF_AUTO and value is None:
            return "auto"
        return ("on" if value else "off") if isinstance(value, bool) else str(value)


def property_table(*groups: tuple[Property, ...]) -> dict[str, Property]:
    """Properties by name; of two with the same name the later one counts."""
    return {entry.name: entry for group in groups for entry in group}
