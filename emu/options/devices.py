"""-device: drivers by name, with the properties each has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from emu.config import ConfigError, DeviceConfig
from emu.options.builder import ConfigBuilder
from emu.options.syntax import (
    check_identifier,
    parse_bool,
    parse_keyvals,
    parse_number,
    parse_size,
    wants_help,
)
from emu.options.table import HelpRequested, option


@dataclass(frozen=True)
class Property:
    """A device property: its type ("str", "bool", "size" or "uint32") and what it is."""

    type: str
    help: str


@dataclass(frozen=True)
class Driver:
    """A device that -device knows."""

    description: str
    properties: Mapping[str, Property]


_drivers: dict[str, Driver] = {
    "spapr-vty": Driver(
        "virtual terminal",
        MappingProxyType(
            {
                "chardev": Property("str", "ID of a chardev to use as a backend"),
                "reg": Property("uint32", "unit address (default: the next free from 0x71000000)"),
            }
        ),
    )
}

_CHECKS: Mapping[str, Callable[[str, str], object]] = {
    "str": lambda name, value: value,
    "bool": parse_bool,
    "size": parse_size,
    "uint32": parse_number,
}


def register_driver(name: str, driver: Driver) -> None:
    """Make -device accept another driver."""
    _drivers[name] = driver


@option(
    "device",
    argument="driver[,prop=value...]",
    help="add a device ('-device help' for a list, '-device driver,help' for its properties)",
    group="Devices",
)
def device(build: ConfigBuilder, text: str) -> None:
    """-device: check name and property types; the machine does the rest."""
    given = parse_keyvals(text, implied="driver")
    name = given.pop("driver", "")
    if name in ("help", "?"):
        raise HelpRequested(_driver_list())
    if name not in _drivers:
        raise ConfigError(f"'{name}' is not a valid device model name")
    if wants_help(text):
        raise HelpRequested(_describe(name))
    label = check_identifier(given.pop("id")) if "id" in given else ""
    for key, value in given.items():
        _check_property(name, key, value)
    build.add_device(DeviceConfig(name, MappingProxyType(given), label))


def _check_property(driver: str, key: str, value: str) -> None:
    entry = _drivers[driver].properties.get(key)
    if entry is None:
        raise ConfigError(f"Property '{driver}.{key}' not found")
    number = _CHECKS[entry.type](f"{driver}.{key}", value)
    if entry.type == "uint32" and isinstance(number, int) and number >= 1 << 32:
        raise ConfigError(f"Parameter '{driver}.{key}' expects uint32_t")


def _driver_list() -> str:
    lines = (f"  {name:20} {driver.description}" for name, driver in sorted(_drivers.items()))
    return "Devices:\n" + "\n".join(lines)


def _describe(name: str) -> str:
    lines = (
        f"  {f'{key}=<{entry.type}>':24} {entry.help}"
        for key, entry in _drivers[name].properties.items()
    )
    return f"{name} options:\n" + "\n".join(lines)
