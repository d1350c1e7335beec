"""Collects what the options say, then makes the `MachineConfig`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from devices.net.config import NetdevConfig
from devices.registry import CLASSES, BusKind
from emu.config import (
    ChardevConfig,
    ConfigError,
    DeviceConfig,
    GlobalProperty,
    MachineConfig,
    MonitorConfig,
    ObjectConfig,
    StdioConfig,
)
from emu.config_trace import TraceConfig
from emu.options.drives import Drives
from emu.options.nics import Nics


class ConfigBuilder:
    """The options so far. `where` is the option being handled, as the user wrote it."""

    def __init__(self, warn: Callable[[str], object]) -> None:
        self.where = ""
        self.machine_options: dict[str, str] = {}
        self.log_items: set[str] = set()
        self.chardevs: dict[str, ChardevConfig] = {}
        self.drives = Drives()
        self.nics = Nics()
        self.nographic = False
        self.monitor_given = False
        self.monitors: list[MonitorConfig] = []
        self.trace = TraceConfig()
        self._warn = warn
        self._values: dict[str, Any] = {}
        self._origins: dict[str, str] = {}
        self._serials: list[tuple[str, ChardevConfig | str]] = []
        self._serial_given = False
        self._last_checks: list[tuple[str, Callable[[], object]]] = []
        self._netdevs: dict[str, NetdevConfig] = {}
        self._objects: dict[str, ObjectConfig] = {}
        self._globals: list[tuple[str, GlobalProperty]] = []
        self._devices: list[tuple[str, DeviceConfig]] = []

    def set(self, field: str, value: object) -> None:
        """Set a field of `MachineConfig`; a later option wins."""
        self._values[field] = value
        self._origins[field] = self.where

    def check_last(self, check: Callable[[], object]) -> None:
        """Call `check`, which may raise ConfigError, once everything else is found right."""
        self._last_checks.append((self.where, check))

    @property
    def machine(self) -> str:
        """The machine, as far as it is known."""
        return str(self._values.get("machine", "pseries"))

    def warn(self, message: str) -> None:
        """Tell the user about an option that has no effect."""
        self._warn(f"{self.where}: {message}")

    def add_chardev(self, config: ChardevConfig) -> None:
        """Add a backend under its id."""
        self._add(self.chardevs, "chardev", config.id, config)

    def add_netdev(self, config: NetdevConfig) -> None:
        """Add a network under its id."""
        self._add(self._netdevs, "netdev", config.id, config)

    def add_object(self, config: ObjectConfig) -> None:
        """Add an object under its id."""
        self._add(self._objects, "object", config.id, config)

    def _add(self, table: dict[str, Any], kind: str, label: str, config: object) -> None:
        if label in table:
            raise ConfigError(f"Duplicate ID '{label}' for {kind}")
        table[label] = config
        self._origins[f"{kind}s[{label}]"] = self.where

    def add_serial(self, config: ChardevConfig | str | None) -> None:
        """Add a serial port: a backend, the id of a chardev, or None for "none at all"."""
        self._serial_given = True
        if config is not None:
            self._serials.append((self.where, config))

    def add_monitor(self, monitor: MonitorConfig) -> None:
        """Add a monitor."""
        self._origins[f"monitors[{len(self.monitors)}]"] = self.where
        self.monitors.append(monitor)

    def add_device(self, device: DeviceConfig) -> None:
        """Add a device."""
        self._devices.append((self.where, device))

    def add_global(self, wanted: GlobalProperty) -> None:
        """Add a property for all devices of a class."""
        self._globals.append((self.where, wanted))

    def build(self) -> MachineConfig:
        """Return the checked configuration; a ConfigError names the option that is wrong."""
        serial = self._build_serials()
        devices = self._build_devices()
        drives = self.drives.finish()
        for label, where in self.drives.origins.items():
            self._origins[f"drives[{label}]"] = where
        self._origins |= {f"devices[{n}]": where for n, (where, _) in enumerate(devices)}
        self._origins |= {f"globals[{n}]": where for n, (where, _) in enumerate(self._globals)}
        try:
            config = MachineConfig(
                machine_options=self.machine_options,
                log_items=frozenset(self.log_items),
                trace=self.trace,
                chardevs=self.chardevs,
                drives=drives,
                netdevs=self._netdevs,
                objects=self._objects,
                globals=tuple(wanted for _, wanted in self._globals),
                serial=serial,
                devices=tuple(device for _, device in devices),
                monitors=tuple(self.monitors),
                origins=self._origins,
                **self._values,
            )
        except ConfigError as error:
            origin = self._origins.get(error.field)
            raise ConfigError(
                f"{origin}: {error}" if origin else str(error), error.field
            ) from error
        for where, check in self._last_checks:
            try:
                check()
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}", error.field) from error
        self._warn_unused(config)
        return config

    def _build_devices(self) -> list[tuple[str, DeviceConfig]]:
        """In QEMU's order: adapters of -nic, -device, and the disks of -drive if=virtio."""
        nics = [(nic.where, nic.device(self.machine)) for nic in self.nics.finish()]
        return [*nics, *self._devices, *self.drives.devices(self.machine)]

    def _warn_unused(self, config: MachineConfig) -> None:
        planned = config.planned_devices()
        used = {name for device in planned for name in device.driver.classes}
        if any(device.driver.bus is BusKind.VIRTIO for device in planned):
            used.add("virtio-mmio")
        for where, wanted in self._globals:
            if wanted.driver not in CLASSES:
                self._warn(f"{where}: {wanted.driver}.{wanted.property} has invalid class name")
            elif wanted.driver not in used:
                self._warn(f"{where}: {wanted} not used")
        bound = {device.values.get("netdev") for device in planned}
        for label in config.netdevs:
            if label not in bound:
                self._warn(f"{self._origins[f'netdevs[{label}]']}: netdev {label} has no peer")

    def _build_serials(self) -> tuple[ChardevConfig, ...]:
        if not self._serial_given:
            return self._default_serial()
        result = []
        for index, (where, wanted) in enumerate(self._serials):
            self._origins[f"serial[{index}]"] = where
            if isinstance(wanted, str):
                if wanted not in self.chardevs:
                    raise ConfigError(f"{where}: there is no chardev '{wanted}'")
                result.append(self.chardevs[wanted])
            else:
                result.append(replace(wanted, id=f"serial{index}"))
        return tuple(result)

    def _default_serial(self) -> tuple[ChardevConfig, ...]:
        if self._values.get("nodefaults"):
            return ()
        if self.nographic and not self.monitor_given:
            return (StdioConfig(id="serial0", mux=True, signal=False),)
        # Where QEMU would open a window, we have the terminal; a console that was asked for by
        # -device replaces it.
        asked = any(device.driver == "spapr-vty" for _, device in self._devices)
        if asked and not self.nographic:
            return ()
        return (StdioConfig(id="serial0"),)
