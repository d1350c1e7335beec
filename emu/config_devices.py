"""Devices and what they refer to, as plain data; and the plan, which checks them all together.

Mistakes are told in QEMU's words. `ConfigError.field` is the device's place in the configuration
("devices[2]"), for the option it came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from devices.block.config import DriveConfig
from devices.net.config import NetdevConfig
from devices.properties import Values
from devices.registry import BusKind, Driver, find_driver
from emu.chardev.config import ChardevConfig, ConfigError
from emu.config_machine import MachineType

PCI_BUS = "pci.0"
MMIO_BUS = "virtio-mmio-bus"
_SERIAL_BUS = "virtio-serial-bus"


@dataclass(frozen=True)
class DeviceConfig:
    """A device asked for by name: `driver`, optional `id`, and properties as written.

    `properties` may have `bus` besides those of the driver.
    """

    driver: str
    properties: Mapping[str, str] = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True)
class GlobalProperty:
    """A property for all devices of a class (`-global driver.property=value`)."""

    driver: str
    property: str
    value: str

    def __str__(self) -> str:
        return f"{self.driver}.{self.property}={self.value}"


@dataclass(frozen=True, kw_only=True)
class ObjectConfig:
    """What every object has (`-object`); the subclasses are the types."""

    id: str


@dataclass(frozen=True, kw_only=True)
class RngRandomConfig(ObjectConfig):
    """Random numbers from a file or device of the host (`rng-random`)."""

    filename: str = "/dev/urandom"


@dataclass(frozen=True, kw_only=True)
class RngBuiltinConfig(ObjectConfig):
    """Random numbers of the host's own generator (`rng-builtin`)."""


@dataclass(frozen=True)
class PlannedDevice:
    """A device that was found to be possible.

    `where` is its place in the configuration, `name` its id or one of its own, `values` the
    properties given for it (also by -global), `bus` the name of its bus; "": any free one.
    `serial_bus` is the bus that it provides for console and serial ports.
    """

    where: str
    driver: Driver
    name: str
    id: str
    values: Values
    bus: str
    serial_bus: str = ""


@dataclass(frozen=True)
class Backdrop:
    """Everything that devices are checked against; `serial` also has the monitors' chardevs."""

    machine: str
    machine_type: MachineType
    serial: Sequence[ChardevConfig] = ()
    chardevs: Mapping[str, ChardevConfig] = field(default_factory=dict)
    drives: Mapping[str, DriveConfig] = field(default_factory=dict)
    netdevs: Mapping[str, NetdevConfig] = field(default_factory=dict)
    objects: Mapping[str, ObjectConfig] = field(default_factory=dict)
    globals: Sequence[GlobalProperty] = ()


def plan_devices(devices: Sequence[DeviceConfig], backdrop: Backdrop) -> tuple[PlannedDevice, ...]:
    """Check the devices in their order and find a bus for each; ConfigError for what is wrong."""
    planner = _Planner(backdrop)
    for index, device in enumerate(devices):
        where = f"devices[{index}]"
        try:
            planner.add(device, where)
        except ConfigError as error:
            raise ConfigError(str(error), where) from error
    return tuple(planner.planned)


class _Planner:
    """The devices so far, and what they use up."""

    def __init__(self, backdrop: Backdrop) -> None:
        self.planned: list[PlannedDevice] = []
        self._backdrop = backdrop
        self._ids: set[str] = set()
        self._used: set[tuple[str, str]] = set()  # property ("drive") and id
        self._boot_indexes: set[object] = set()
        self._serial_buses: list[str] = []
        self._used |= {
            ("chardev", label)
            for label, chardev in backdrop.chardevs.items()
            if any(chardev is used for used in backdrop.serial)
        }
        self._counts: dict[str, int] = {}

    def add(self, device: DeviceConfig, where: str) -> None:
        """Check one device."""
        driver = find_driver(device.driver)
        if device.id in self._ids and device.id:
            raise ConfigError(f"Duplicate ID '{device.id}' for device")
        values = self._values(driver, device)
        bus = self._find_bus(driver, device.properties.get("bus"))
        self._check_links(driver, values)
        self._check_rest(driver, values)
        number = self._counts.get(driver.name, 0)
        name = device.id or f"{driver.name}.{number}"
        self._ids.add(device.id)
        self._counts[driver.name] = number + 1
        serial_bus = self._new_serial_bus(driver, device.id)
        self.planned.append(PlannedDevice(where, driver, name, device.id, values, bus, serial_bus))

    def _new_serial_bus(self, driver: Driver, label: str) -> str:
        """The bus a virtio-serial device provides, named as QEMU names it."""
        if driver.virtio is None or driver.virtio.name != "serial":
            return ""
        unnamed = sum(bus.startswith(f"{_SERIAL_BUS}.") for bus in self._serial_buses)
        self._serial_buses.append(f"{label}.0" if label else f"{_SERIAL_BUS}.{unnamed}")
        return self._serial_buses[-1]

    def _values(self, driver: Driver, device: DeviceConfig) -> Values:
        values = {}
        for wanted in self._backdrop.globals:
            if wanted.driver in driver.classes:
                try:
                    entry = driver.property(wanted.property)
                    values[wanted.property] = entry.parse(driver.name, wanted.value)
                except ConfigError as error:
                    raise ConfigError(f"can't apply global {wanted}: {error}") from error
        for key, text in device.properties.items():
            if key != "bus":
                values[key] = driver.property(key).parse(driver.name, text)
        return values

    def _buses(self) -> dict[str, BusKind]:
        slots = self._backdrop.machine_type.slots
        buses = {f"{MMIO_BUS}.{slot}": BusKind.VIRTIO for slot in range(slots)}
        if self._backdrop.machine_type.pci:
            buses |= {PCI_BUS: BusKind.PCI, "spapr-vio": BusKind.VIO}
            buses["main-system-bus"] = BusKind.SYSTEM
        return buses | dict.fromkeys(self._serial_buses, BusKind.VIRTIO_SERIAL)

    def _find_bus(self, driver: Driver, wanted: str | None) -> str:
        """The bus asked for, or the newest of the right kind."""
        buses = self._buses()
        if wanted is None:
            fitting = [name for name, kind in buses.items() if kind is driver.bus]
            on_slots = sum(planned.driver.bus is BusKind.VIRTIO for planned in self.planned)
            if not fitting or (driver.bus is BusKind.VIRTIO and on_slots == len(fitting)):
                raise ConfigError(f"No '{driver.bus.value}' bus found for device '{driver.name}'")
            return "" if driver.bus is BusKind.VIRTIO else fitting[-1]
        if wanted not in buses:
            raise ConfigError(f"Bus '{wanted}' not found")
        kind = buses[wanted]
        if kind is not driver.bus:
            raise ConfigError(f"Device '{driver.name}' can't go on {kind.value} bus")
        if kind is BusKind.VIRTIO and any(planned.bus == wanted for planned in self.planned):
            raise ConfigError(f"Bus '{wanted}' is full")
        return wanted

    def _check_links(self, driver: Driver, values: Values) -> None:
        owner = driver.name if driver.virtio is None else f"virtio-{driver.virtio.name}-device"
        drive = values.get("drive")
        if "drive" in driver.properties and not drive:
            raise ConfigError("drive property not set")
        if driver.name == "spapr-vty" and not values.get("chardev"):
            raise ConfigError("spapr-vty needs a chardev property")
        for key, known, used in (
            ("drive", self._backdrop.drives, "Drive '{value}' is already in use by another device"),
            (
                "netdev",
                self._backdrop.netdevs,
                "Property '{owner}.netdev' can't take value '{value}', it's in use",
            ),
            (
                "chardev",
                self._backdrop.chardevs,
                "Property '{owner}.chardev' can't take value '{value}': Device '{value}' is in use",
            ),
        ):
            value = values.get(key)
            if not isinstance(value, str):
                continue
            if value not in known:
                raise ConfigError(f"Property '{owner}.{key}' can't find value '{value}'")
            if (key, value) in self._used:
                raise ConfigError(used.format(owner=owner, value=value))
            self._used.add((key, value))
        rng = values.get("rng")
        if rng and rng not in self._backdrop.objects:
            raise ConfigError(f"Device '{rng}' not found")

    def _check_rest(self, driver: Driver, values: Values) -> None:
        boot_index = values.get("bootindex")
        if isinstance(boot_index, int) and boot_index >= 0:
            if boot_index in self._boot_indexes:
                raise ConfigError(f"The bootindex {boot_index} has already been used")
            self._boot_indexes.add(boot_index)
        if values.get("disable-legacy") and values.get("disable-modern"):
            raise ConfigError(
                "device cannot work as neither modern nor legacy mode is enabled "
                "(set either disable-modern or disable-legacy to off)"
            )
        if driver.name == "spapr-pci-host-bridge":
            _check_host_bridge(values)
        entry = driver.virtio
        others = [planned for planned in self.planned if planned.driver.virtio is entry]
        if entry is not None and entry.only_one and others:
            raise ConfigError(f"Only one {entry.name} device is supported")


def _check_host_bridge(values: Values) -> None:
    index = values.get("index")
    if index is None:
        raise ConfigError('"index" for PAPR PHB is mandatory')
    if index != 0:
        raise ConfigError("only PHB 0 is supported, which the machine has anyway")
