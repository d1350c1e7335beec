"""The registry of devices: names, properties, help, and the options that devices really have."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from devices.net.config import UserNetConfig
from devices.properties import BOOL, ON_OFF_AUTO, SIZE, Property, Value, integer, parse_pci_address
from devices.registry import (
    ALIASES,
    DRIVERS,
    BusKind,
    Driver,
    describe_driver,
    driver_list,
    find_driver,
)
from devices.registry_virtio import VIRTIO_TYPES, options_from
from devices.virtio.balloon import BalloonOptions
from devices.virtio.block_options import BlockOptions
from devices.virtio.console import SerialOptions
from devices.virtio.net_options import NetOptions
from devices.virtio.rng import RngOptions
from emu.chardev.config import ConfigError

PLUGGABLE = [driver for driver in DRIVERS.values() if driver.pluggable]


def test_every_virtio_device_has_four_drivers_and_an_alias() -> None:
    for name in ("blk", "net", "serial", "rng", "balloon"):
        for suffix in ("-pci", "-pci-transitional", "-pci-non-transitional"):
            assert DRIVERS[f"virtio-{name}{suffix}"].bus is BusKind.PCI
        assert DRIVERS[f"virtio-{name}-device"].bus is BusKind.VIRTIO
        assert ALIASES[f"virtio-{name}"] == f"virtio-{name}-pci"


@pytest.mark.parametrize("driver", PLUGGABLE, ids=lambda driver: driver.name)
def test_driver_is_listed_and_has_help(driver: Driver) -> None:
    assert f'name "{driver.name}", bus {driver.bus.value}' in driver_list()
    lines = describe_driver(driver).splitlines()
    assert lines[0] == f"{driver.name} options:"
    assert [line.split("=")[0].strip() for line in lines[1:]] == sorted(driver.properties)


@pytest.mark.parametrize("driver", DRIVERS.values(), ids=lambda driver: driver.name)
def test_each_default_is_a_value_of_its_property(driver: Driver) -> None:
    for entry in driver.properties.values():
        if entry.default is not None or entry.type is ON_OFF_AUTO:
            assert entry.parse(driver.name, entry.show(entry.default)) == entry.default


@pytest.mark.parametrize(
    ("kind", "options"),
    [("blk", BlockOptions), ("net", NetOptions), ("serial", SerialOptions), ("rng", RngOptions),
     ("balloon", BalloonOptions)],
)  # fmt: skip
def test_defaults_are_those_of_the_device(kind: str, options: type[Any]) -> None:
    """What the registry says and what the device does without the property are the same."""
    properties = DRIVERS[f"virtio-{kind}-device"].properties
    given = {key.replace("-", "_"): entry.default for key, entry in properties.items()}
    compared = 0
    for field in dataclasses.fields(options):
        if given.get(field.name) is not None:
            assert given[field.name] == field.default, field.name
            compared += 1
    assert compared >= 2 - (kind == "serial")


@pytest.mark.parametrize(
    ("kind", "options", "others"),
    [
        ("blk", BlockOptions, set()),
        ("net", NetOptions, {"queue_pairs"}),
        ("serial", SerialOptions, {"resize_as_specified"}),
        ("rng", RngOptions, {"filename"}),
        ("balloon", BalloonOptions, set()),
    ],
)
def test_every_option_of_a_device_is_a_property(
    kind: str, options: type[Any], others: set[str]
) -> None:
    properties = DRIVERS[f"virtio-{kind}-pci"].properties
    names = {key.replace("-", "_") for key in properties}
    assert {field.name for field in dataclasses.fields(options)} - names == others


def test_options_take_what_they_have_and_keep_defaults() -> None:
    values: dict[str, Value] = {"max-bytes": 5, "vectors": 2, "period": None}
    assert options_from(RngOptions, values) == RngOptions(max_bytes=5)
    made = options_from(UserNetConfig, {"restrict": True}, id="n")
    assert made == UserNetConfig(id="n", restrict=True)


@pytest.mark.parametrize("entry", VIRTIO_TYPES, ids=lambda entry: entry.name)
def test_default_vectors(entry: Any) -> None:
    expected = {"blk": 2, "net": 4, "serial": 2, "rng": 2, "balloon": 0}
    assert entry.vectors({}) == expected[entry.name]
    assert ("vectors" in DRIVERS[f"virtio-{entry.name}-pci"].properties) is entry.has_vectors


def test_variants_are_fixed() -> None:
    transitional = find_driver("virtio-net-pci-transitional")
    assert (transitional.legacy, transitional.modern) == (True, True)
    modern = find_driver("virtio-net-pci-non-transitional")
    assert (modern.legacy, modern.modern) == (False, True)
    for driver in (transitional, modern):
        with pytest.raises(ConfigError, match="not found"):
            driver.property("disable-legacy")


@pytest.mark.parametrize("name", ["", "foo", "virtio-foo-pci", "VIRTIO-BLK"])
def test_unknown_driver(name: str) -> None:
    with pytest.raises(ConfigError, match=f"'{name}' is not a valid device model name"):
        find_driver(name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", (0, 0)),
        ("5", (5, 0)),
        ("05.1", (5, 1)),
        ("0x1f.0x7", (31, 7)),
        ("1F", (31, 0)),
        ("20", None),
        ("5.8", None),
        ("", None),
        ("-1", None),
        ("5.", None),
    ],
)
def test_pci_address_is_hexadecimal(text: str, expected: tuple[int, int] | None) -> None:
    assert parse_pci_address(text) == expected


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (BOOL, "on", True),
        (BOOL, "false", False),
        (ON_OFF_AUTO, "auto", None),
        (ON_OFF_AUTO, "on", True),
        (SIZE, "4K", 4096),
        (integer(8), "0xff", 255),
        (integer(8), "017", 15),
        (integer(8, signed=True), "-128", -128),
    ],
)
def test_values(kind: Any, text: str, expected: Value) -> None:
    assert Property("p", kind).parse("driver", text) == expected


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((BOOL, text) for text in ("", "1", "On", "auto")),
        *((ON_OFF_AUTO, text) for text in ("", "yes", "AUTO")),
        *((integer(8), text) for text in ("", "256", "-1", "1.5", "0x", "1_0", "٣", "08")),
        *((integer(8, signed=True), text) for text in ("128", "-129", "--1", "+1")),
        *((SIZE, text) for text in ("", "4X", "-1", "16E")),
    ],
)
def test_no_values(kind: Any, text: str) -> None:
    with pytest.raises(ConfigError, match="'p'"):
        Property("p", kind).parse("driver", text)


def test_value_that_is_not_supported() -> None:
    entry = Property("p", BOOL, False, "", (False,))
    assert entry.parse("driver", "off") is False
    with pytest.raises(ConfigError, match="p=on is not supported"):
        entry.parse("driver", "on")
