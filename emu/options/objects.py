"""-object and -global."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from emu.config import (
    ConfigError,
    GlobalProperty,
    ObjectConfig,
    RngBuiltinConfig,
    RngRandomConfig,
)
from emu.options.builder import ConfigBuilder
from emu.options.syntax import check_identifier, parse_keyvals, parse_pairs, wants_help
from emu.options.table import HelpRequested, option

_GROUP = "Devices"

#: Types of objects: their properties with the types that the help shows, and what makes them.
OBJECTS: Mapping[str, tuple[Mapping[str, str], Callable[..., ObjectConfig]]] = {
    "rng-builtin": ({}, RngBuiltinConfig),
    "rng-random": ({"filename": "string"}, RngRandomConfig),
}


@option(
    "object",
    argument="type,id=id[,prop=value...]",
    help="object that a device refers to: rng-random with filename=PATH, or rng-builtin",
    group=_GROUP,
)
def create_object(build: ConfigBuilder, text: str) -> None:
    """-object: a source of random numbers."""
    given = dict(parse_pairs(text, implied="qom-type"))
    kind = given.pop("qom-type", "")
    if kind in ("help", "?"):
        names = "\n".join(f"  {name}" for name in OBJECTS)
        raise HelpRequested(f"List of user creatable objects:\n{names}")
    if kind not in OBJECTS:
        raise ConfigError(f"Parameter 'qom-type' does not accept value '{kind}'")
    properties, make = OBJECTS[kind]
    if "help" in given:
        raise HelpRequested(_describe(kind, properties))
    if "id" not in given:
        raise ConfigError("Parameter 'id' is missing")
    for key in given:
        if key != "id" and key not in properties:
            raise ConfigError(f"Invalid parameter '{key}'")
    check_identifier(given["id"])
    build.add_object(make(**given))


def _describe(kind: str, properties: Mapping[str, str]) -> str:
    if not properties:
        return f"There are no options for {kind}."
    return "\n".join([f"{kind} options:", *(f"  {k}=<{t}>" for k, t in properties.items())])


@option(
    "global",
    argument="driver.prop=value",
    help="a property of all devices of a driver or class, such as virtio-blk-pci.packed=on, "
    "virtio-pci.disable-modern=on, virtio-device.event_idx=off, virtio-mmio.force-legacy=off",
    group=_GROUP,
)
def set_global(build: ConfigBuilder, text: str) -> None:
    """-global: in the short form, or with driver=, property= and value=."""
    if wants_help(text):
        raise HelpRequested("global options:\n  driver=<str>\n  property=<str>\n  value=<str>")
    head, equals, value = text.partition("=")
    driver, dot, name = head.partition(".")
    if dot and equals and "," not in head:
        build.add_global(GlobalProperty(driver, name, value))
        return
    given = parse_keyvals(text, known=("driver", "property", "value"))
    for key in ("driver", "property", "value"):
        if key not in given:
            raise ConfigError(f"Parameter '{key}' is missing")
    build.add_global(GlobalProperty(given["driver"], given["property"], given["value"]))
