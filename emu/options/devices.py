"""-device: drivers by name, with the properties each has."""

from __future__ import annotations

from types import MappingProxyType

from devices.registry import describe_driver, driver_list, find_driver
from emu.config import ConfigError, DeviceConfig
from emu.options.builder import ConfigBuilder
from emu.options.syntax import (
    check_identifier,
    is_json,
    json_text,
    parse_json,
    parse_keyvals,
    wants_help,
)
from emu.options.table import HelpRequested, option


@option(
    "device",
    argument="driver[,id=id][,bus=bus][,addr=slot[.function]][,prop=value...]",
    help="add a device ('-device help' for a list, '-device driver,help' for its properties); "
    "also in JSON. Unlike QEMU, no device is added by default",
    group="Devices",
)
def device(build: ConfigBuilder, text: str) -> None:
    """-device: check name and property types; the configuration checks the rest."""
    if is_json(text):
        given = _from_json(text)
    else:
        given = parse_keyvals(text, implied="driver")
        if given.get("driver") in ("help", "?"):
            raise HelpRequested(driver_list())
    if "driver" not in given:
        raise ConfigError("Parameter 'driver' is missing")
    driver = find_driver(given.pop("driver"))
    if not is_json(text) and wants_help(text):
        raise HelpRequested(describe_driver(driver))
    label = check_identifier(given.pop("id")) if "id" in given else ""
    for key, value in given.items():
        if key != "bus":
            driver.property(key).parse(driver.name, value)
    build.add_device(DeviceConfig(driver.name, MappingProxyType(given), label))


def _from_json(text: str) -> dict[str, str]:
    """Properties of a JSON object as written in the other syntax, after a check of their types."""
    members = dict(parse_json(text))
    name = members.get("driver")
    if not isinstance(name, str):
        raise ConfigError("Parameter 'driver' is missing")
    driver = find_driver(name)
    for key, value in members.items():
        if key not in ("driver", "id", "bus"):
            driver.property(key).type.check_json(key, value)
        elif not isinstance(value, str):
            raise ConfigError(f"Invalid parameter type for '{key}', expected: string")
    return {key: json_text(value) for key, value in members.items()}
