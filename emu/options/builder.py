"""Collects what the options say, then makes the `MachineConfig`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from emu.config import ChardevConfig, ConfigError, DeviceConfig, MachineConfig, StdioConfig


class ConfigBuilder:
    """The options so far. `where` is the option being handled, as the user wrote it."""

    def __init__(self, warn: Callable[[str], object]) -> None:
        self.where = ""
        self.machine_options: dict[str, str] = {}
        self.log_items: set[str] = set()
        self.chardevs: dict[str, ChardevConfig] = {}
        self.nographic = False
        self.monitor_given = False
        self._warn = warn
        self._values: dict[str, Any] = {}
        self._origins: dict[str, str] = {}
        self._serials: list[tuple[str, ChardevConfig | str]] = []
        self._serial_given = False
        self._devices: list[DeviceConfig] = []

    def set(self, field: str, value: object) -> None:
        """Set a field of `MachineConfig`; a later option wins."""
        self._values[field] = value
        self._origins[field] = self.where

    def warn(self, message: str) -> None:
        """Tell the user about an option that has no effect."""
        self._warn(f"{self.where}: {message}")

    def add_chardev(self, config: ChardevConfig) -> None:
        """Add a backend under its id."""
        if config.id in self.chardevs:
            raise ConfigError(f"Duplicate ID '{config.id}' for chardev")
        self.chardevs[config.id] = config
        self._origins[f"chardevs[{config.id}]"] = self.where

    def add_serial(self, config: ChardevConfig | str | None) -> None:
        """Add a serial port: a backend, the id of a chardev, or None for "none at all"."""
        self._serial_given = True
        if config is not None:
            self._serials.append((self.where, config))

    def add_device(self, device: DeviceConfig) -> None:
        """Add a device."""
        self._origins[f"devices[{len(self._devices)}]"] = self.where
        self._devices.append(device)

    def build(self) -> MachineConfig:
        """Return the checked configuration; a ConfigError names the option that is wrong."""
        serial = self._build_serials()
        try:
            return MachineConfig(
                machine_options=self.machine_options,
                log_items=frozenset(self.log_items),
                chardevs=self.chardevs,
                serial=serial,
                devices=tuple(self._devices),
                **self._values,
            )
        except ConfigError as error:
            where = self._origins.get(error.field)
            raise ConfigError(f"{where}: {error}" if where else str(error), error.field) from error

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
        if any(device.driver == "spapr-vty" for device in self._devices) and not self.nographic:
            return ()
        return (StdioConfig(id="serial0"),)
