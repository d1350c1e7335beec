"""The devices that can be asked for by name: one table, for the options, the checks, the help.

A new virtio device is one file in `devices/virtio/` and one entry in `VIRTIO_TYPES`; what is on
another bus is one entry in `_OTHERS`. This module imports no device: that would compile code, and
mistakes on the command line are told before.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from devices.properties import (
    BOOL,
    ON_OFF_AUTO,
    PCI_ADDRESS,
    STRING,
    UINT32,
    Property,
    property_table,
)
from devices.registry_virtio import MAX_VECTORS, VIRTIO_TYPES, VirtioType
from emu.chardev.config import ConfigError


class BusKind(enum.Enum):
    """What a device plugs into, as QEMU calls it."""

    PCI = "PCI"
    VIRTIO = "virtio-bus"
    VIRTIO_SERIAL = "virtio-serial-bus"
    VIO = "spapr-vio-bus"
    SYSTEM = "System"


@dataclass(frozen=True)
class Driver:
    """One name for `-device`.

    `classes` are the names whose `-global` properties apply, the general ones first. `legacy` and
    `modern` are a virtio PCI variant's fixed interfaces; None leaves them to the properties.
    """

    name: str
    bus: BusKind
    category: str
    properties: Mapping[str, Property]
    description: str = ""
    alias: str = ""
    classes: tuple[str, ...] = ()
    virtio: VirtioType | None = None
    legacy: bool | None = None
    modern: bool | None = None
    pluggable: bool = field(default=True)

    def property(self, key: str) -> Property:
        """The property with that name; ConfigError if there is none."""
        try:
            return self.properties[key]
        except KeyError:
            raise ConfigError(f"Property '{self.name}.{key}' not found") from None


_VIRTIO = (
    Property("any_layout", BOOL, True, "on/off"),
    Property("event_idx", BOOL, True, "on/off"),
    Property("in_order", BOOL, False, "on/off"),
    Property("indirect_desc", BOOL, True, "on/off"),
    Property("iommu_platform", BOOL, False, "on/off", (False,)),
    Property("notify_on_empty", BOOL, True, "on/off"),
    Property("packed", BOOL, False, "on/off"),
    Property("queue_reset", BOOL, True, "on/off"),
    Property("use-disabled-flag", BOOL, True, "no effect"),
    Property("use-started", BOOL, True, "no effect"),
)
_PCI = (
    Property("addr", PCI_ADDRESS, None, "Slot and optional function number, example: 06.0 or 06"),
    Property("multifunction", BOOL, False, "on/off"),
    Property("rombar", UINT32, 1, "no effect: there are no ROMs"),
    Property("romfile", STRING, None, "no effect: there are no ROMs"),
)
_VIRTIO_PCI = (
    Property("ats", BOOL, False, "on/off", (False,)),
    Property("ioeventfd", BOOL, True, "no effect"),
    Property("modern-pio-notify", BOOL, False, "on/off", (False,)),
    Property("page-per-vq", BOOL, False, "on/off", (False,)),
    Property(
        "vectors",
        UINT32,
        None,
        f"MSI-X vectors, at most {MAX_VECTORS}; 0: INTx only",
        range(MAX_VECTORS + 1),
    ),
)
_INTERFACES = (
    Property("disable-legacy", ON_OFF_AUTO, None, "on/off/auto"),
    Property("disable-modern", ON_OFF_AUTO, None, "on/off/auto"),
)
#: Of every virtio-mmio slot; set with -global.
_VIRTIO_MMIO = (
    Property("force-legacy", BOOL, True, "on/off"),
    Property("ioeventfd", BOOL, True, "no effect"),
)
_CHARDEV = Property("chardev", STRING, None, "ID of a chardev to use as a backend")
_SERIAL_PORT = (
    _CHARDEV,
    Property("name", STRING),
    Property("nr", UINT32, None, "number of the port (default: the first free one)"),
)


def _virtio_drivers(entry: VirtioType) -> list[Driver]:
    """The virtio-mmio device and the three PCI functions of a virtio device."""
    name = f"virtio-{entry.name}"
    device = Driver(
        f"{name}-device",
        BusKind.VIRTIO,
        entry.category,
        property_table(_VIRTIO, entry.properties),
        description=f"{entry.description} (virtio-mmio)",
        classes=("virtio-device", f"{name}-device"),
        virtio=entry,
    )
    result = [device]
    for suffix, legacy, modern in (
        ("", None, None),
        ("-transitional", True, True),
        ("-non-transitional", False, True),
    ):
        interfaces = () if suffix else _INTERFACES
        pci = property_table(_VIRTIO, _PCI, _VIRTIO_PCI, interfaces, entry.properties)
        if not entry.has_vectors:
            del pci["vectors"]
        full = f"{name}-pci{suffix}"
        result.append(
            Driver(
                full,
                BusKind.PCI,
                entry.category,
                pci,
                description=entry.description,
                alias="" if suffix else name,
                classes=("pci-device", "virtio-device", f"{name}-device", "virtio-pci", full),
                virtio=entry,
                legacy=legacy,
                modern=modern,
            )
        )
    return result


_OTHERS = (
    Driver(
        "virtconsole",
        BusKind.VIRTIO_SERIAL,
        "Input devices",
        property_table(_SERIAL_PORT),
        description="console port of virtio-serial",
        classes=("virtio-serial-port", "virtserialport", "virtconsole"),
    ),
    Driver(
        "virtserialport",
        BusKind.VIRTIO_SERIAL,
        "Input devices",
        property_table(_SERIAL_PORT),
        description="port of virtio-serial",
        classes=("virtio-serial-port", "virtserialport"),
    ),
    Driver(
        "spapr-vty",
        BusKind.VIO,
        "Input devices",
        property_table(
            (
                _CHARDEV,
                Property(
                    "reg", UINT32, None, "unit address (default: the next free from 0x71000000)"
                ),
            )
        ),
        description="virtual terminal",
        classes=("vio-spapr-device", "spapr-vty"),
    ),
    Driver(
        "spapr-nvram",
        BusKind.VIO,
        "Storage devices",
        {},
        description="NVRAM, which the machine has anyway",
        pluggable=False,
    ),
    Driver(
        "spapr-pci-host-bridge",
        BusKind.SYSTEM,
        "Controller/Bridge/Hub devices",
        property_table((Property("index", UINT32, None, "0: the bridge the machine has anyway"),)),
        description="PCI host bridge",
        classes=("spapr-pci-host-bridge",),
    ),
    Driver(
        "virtio-mmio",
        BusKind.SYSTEM,
        "Controller/Bridge/Hub devices",
        property_table(_VIRTIO_MMIO),
        description="the slots of machine virtmmio; properties with -global",
        classes=("virtio-mmio",),
        pluggable=False,
    ),
)

DRIVERS: Mapping[str, Driver] = {
    driver.name: driver
    for group in (*map(_virtio_drivers, VIRTIO_TYPES), _OTHERS)
    for driver in group
}
ALIASES: Mapping[str, str] = {
    driver.alias: driver.name for driver in DRIVERS.values() if driver.alias
}
#: Every name that -global knows.
CLASSES = frozenset(name for driver in DRIVERS.values() for name in driver.classes)


def find_driver(name: str) -> Driver:
    """The driver with that name or alias; ConfigError in QEMU's words."""
    driver = DRIVERS.get(ALIASES.get(name, name))
    if driver is None:
        raise ConfigError(f"'{name}' is not a valid device model name")
    if not driver.pluggable:
        raise ConfigError("Parameter 'driver' expects a pluggable device type")
    return driver


def driver_list() -> str:
    """The text of `-device help`, by category as QEMU's."""
    lines: list[str] = []
    for category in sorted({driver.category for driver in DRIVERS.values() if driver.pluggable}):
        lines += ["", f"{category}:"]
        lines += [
            _list_entry(driver)
            for driver in sorted(DRIVERS.values(), key=lambda driver: driver.name)
            if driver.category == category and driver.pluggable
        ]
    return "\n".join(lines[1:])


def _list_entry(driver: Driver) -> str:
    alias = f', alias "{driver.alias}"' if driver.alias else ""
    description = f', desc "{driver.description}"' if driver.description else ""
    return f'name "{driver.name}", bus {driver.bus.value}{alias}{description}'


def describe_driver(driver: Driver) -> str:
    """The text of `-device DRIVER,help`."""
    lines = [entry.describe() for _, entry in sorted(driver.properties.items())]
    return "\n".join([f"{driver.name} options:", *lines])
