"""-device, -object and -global: what they make, and their help."""

from __future__ import annotations

import pytest

from emu.__main__ import main
from emu.config import (
    MIB,
    ConfigError,
    DeviceConfig,
    GlobalProperty,
    MachineConfig,
    RngBuiltinConfig,
    RngRandomConfig,
)
from emu.options import parse_command_line

IMAGE = __file__  # any file that can be read
DRIVE = ("-drive", f"file={IMAGE},if=none,id=d")
CHARDEVS = ("-chardev", "null,id=c", "-chardev", "null,id=c2")
MMIO = ("-M", "virtmmio")


def parse(*argv: str) -> MachineConfig:
    return parse_command_line(argv, warn=lambda message: pytest.fail(message))


def device(*argv: str) -> DeviceConfig:
    return parse(*argv).devices[-1]


DEVICES: list[tuple[list[str], DeviceConfig]] = [
    (["-device", "virtio-rng-pci"], DeviceConfig("virtio-rng-pci")),
    (["-device", "driver=virtio-rng"], DeviceConfig("virtio-rng-pci")),
    (
        ["-device", "virtio-rng-pci,id=r,addr=5.0,bus=pci.0,vectors=3"],
        DeviceConfig("virtio-rng-pci", {"addr": "5.0", "bus": "pci.0", "vectors": "3"}, "r"),
    ),
    (
        ["-device", '{"driver":"virtio-rng-pci","id":"r","vectors":3,"packed":true,"addr":"1f"}'],
        DeviceConfig("virtio-rng-pci", {"vectors": "3", "packed": "on", "addr": "1f"}, "r"),
    ),
    (
        [*DRIVE, "-device", "virtio-blk,drive=d,bootindex=1,disable-legacy=on"],
        DeviceConfig(
            "virtio-blk-pci", {"drive": "d", "bootindex": "1", "disable-legacy": "on"}
        ),
    ),
    ([*MMIO, "-device", "virtio-rng-device"], DeviceConfig("virtio-rng-device")),
    (["-device", "virtio-rng-device"], DeviceConfig("virtio-rng-device")),
    (
        [*MMIO, "-device", "virtio-rng-device,bus=virtio-mmio-bus.7"],
        DeviceConfig("virtio-rng-device", {"bus": "virtio-mmio-bus.7"}),
    ),
    (
        ["-device", "spapr-pci-host-bridge,index=0"],
        DeviceConfig("spapr-pci-host-bridge", {"index": "0"}),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("argv", "expected"), DEVICES)
def test_device(argv: list[str], expected: DeviceConfig) -> None:
    assert device(*argv) == expected


@pytest.mark.parametrize(
    ("controllers", "port", "bus"),
    [
        (["virtio-serial-pci"], "virtconsole,chardev=c", "virtio-serial-bus.0"),
        (["virtio-serial-pci,id=s"], "virtconsole,chardev=c", "s.0"),
        (["virtio-serial-pci,id=s", "virtio-serial"], "virtserialport", "virtio-serial-bus.0"),
        (["virtio-serial", "virtio-serial-pci,id=s"], "virtserialport,chardev=c", "s.0"),
        (["virtio-serial,id=s", "virtio-serial,id=t"], "virtserialport,bus=s.0", "s.0"),
    ],
)
def test_port_goes_on_the_newest_serial_bus_or_the_named_one(
    controllers: list[str], port: str, bus: str
) -> None:
    devices = [word for text in (*controllers, port) for word in ("-device", text)]
    planned = parse(*CHARDEVS, *devices).planned_devices()
    assert planned[-1].bus == bus
    assert bus in [entry.serial_bus for entry in planned[:-1]]


def test_names_are_ids_or_made_from_the_driver() -> None:
    argv = ["-device", "virtio-rng-pci"] * 2 + ["-device", "virtio-rng-pci,id=x"]
    names = [planned.name for planned in parse(*argv).planned_devices()]
    assert names == ["virtio-rng-pci.0", "virtio-rng-pci.1", "x"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("virtio-rng-pci.vectors=5", {"vectors": 5}),
        ("virtio-pci.disable-modern=on", {"disable-modern": True}),
        ("virtio-device.packed=on", {"packed": True}),
        ("virtio-rng-device.max-bytes=0x10", {"max-bytes": 16}),
        ("driver=virtio-rng-pci,property=period,value=7", {"period": 7}),
    ],
)
def test_global_applies_to_its_class(text: str, expected: dict[str, object]) -> None:
    planned = parse("-global", text, "-device", "virtio-rng-pci").planned_devices()
    assert planned[0].values == expected


def test_property_of_a_device_wins_over_a_global_and_a_later_global_over_an_earlier() -> None:
    given = ("-global", "virtio-rng-pci.vectors=5", "-global", "virtio-pci.vectors=6")
    argv = (*given, "-device", "virtio-rng-pci", "-device", "virtio-rng-pci,vectors=7")
    planned = parse(*argv).planned_devices()
    assert [entry.values["vectors"] for entry in planned] == [6, 7]


def test_force_legacy_is_a_global_of_the_slots() -> None:
    assert parse(*MMIO).mmio_legacy
    config = parse_command_line(
        [*MMIO, "-global", "virtio-mmio.force-legacy=false"], warn=lambda message: None
    )
    assert not config.mmio_legacy


@pytest.mark.parametrize(
    ("argv", "warning"),
    [
        (["-global", "PIIX4_PM.disable_s3=1"], "PIIX4_PM.disable_s3 has invalid class name"),
        (["-global", "virtio-blk-pci.vectors=1"], "virtio-blk-pci.vectors=1 not used"),
        (["-global", "virtio-mmio.force-legacy=off"], "virtio-mmio.force-legacy=off not used"),
    ],
)
def test_global_without_effect_warns(argv: list[str], warning: str) -> None:
    warnings: list[str] = []
    parse_command_line(argv, warn=warnings.append)
    assert warnings == [f"{' '.join(argv)}: {warning}"]


def test_objects() -> None:
    config = parse(
        *("-object", "rng-random,id=a,filename=/dev/zero", "-object", "rng-random,id=b"),
        *("-object", '{"qom-type":"rng-builtin","id":"c"}'),
        *("-device", "virtio-rng-pci,rng=a", "-device", "virtio-rng-pci,rng=a"),
    )
    assert config.objects == {
        "a": RngRandomConfig(id="a", filename="/dev/zero"),
        "b": RngRandomConfig(id="b", filename="/dev/urandom"),
        "c": RngBuiltinConfig(id="c"),
    }


def test_ram_of_virtmmio_is_counted_in_mib() -> None:
    assert parse("-m", "17", *MMIO).ram_size == 17 * MIB


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["-device", "help"], 'name "virtio-blk-pci", bus PCI, alias "virtio-blk"'),
        (["-device", "?"], 'name "virtio-net-device", bus virtio-bus'),
        (["-device", "virtio-blk-pci,help"], "drive=<str>"),
        (["-device", "virtio-blk,help,drive=3"], "virtio-blk-pci options:"),
        (["-device", "virtio-net-pci,help"], "disable-legacy=<OnOffAuto> - on/off/auto"),
        (["-object", "help"], "rng-random"),
        (["-object", "rng-random,help"], "filename=<string>"),
        (["-object", "rng-builtin,help"], "There are no options for rng-builtin."),
        (["-global", "help"], "property=<str>"),
        (["-M", "help"], "virtmmio"),
        (["-M", "virtmmio,help"], "virtmmio options:"),
    ],
)
def test_help(argv: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert text in out
    assert err == ""


def test_python_configuration_is_checked_as_the_command_line() -> None:
    with pytest.raises(ConfigError, match="'foo' is not a valid device") as caught:
        MachineConfig(devices=(DeviceConfig("virtio-rng"), DeviceConfig("foo")))
    assert caught.value.field == "devices[1]"
    config = MachineConfig(
        devices=(DeviceConfig("virtio-rng"),), globals=(GlobalProperty("a", "b", "c"),)
    )
    assert config.planned_devices()[0].driver.name == "virtio-rng-pci"
