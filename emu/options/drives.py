"""Disk images: what -drive and -blockdev have collected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from devices.registry import ALIASES
from emu.config import MACHINES, ConfigError, DeviceConfig, DriveConfig


@dataclass(frozen=True)
class DriveUse:
    """How a -drive is connected: its interface and place there, and its disk's serial number."""

    interface: str
    index: int
    serial: str = ""
    options: Mapping[str, str] | None = None


class Drives:
    """All images by id or node name."""

    def __init__(self) -> None:
        self.origins: dict[str, str] = {}
        self._drives: dict[str, DriveConfig] = {}
        self._nodes: set[str] = set()
        self._uses: dict[str, DriveUse] = {}

    def free_index(self, interface: str) -> int:
        """The first free place of an interface."""
        taken = {use.index for use in self._uses.values() if use.interface == interface}
        return next(index for index in range(len(taken) + 1) if index not in taken)

    def add(self, config: DriveConfig, use: DriveUse, where: str) -> None:
        """Add a -drive; ConfigError if its id or its place is taken."""
        if config.id in self._drives:
            if config.id in self._nodes:
                raise ConfigError(f"Device name '{config.id}' conflicts with an existing node name")
            raise ConfigError(f"Duplicate ID '{config.id}' for drive")
        for other in self._uses.values():
            if (other.interface, other.index) == (use.interface, use.index):
                raise ConfigError(f"drive with bus=0, unit={use.index} (index={use.index}) exists")
        self._drives[config.id] = config
        self._uses[config.id] = use
        self.origins[config.id] = where

    def add_node(self, config: DriveConfig, where: str) -> None:
        """Add a -blockdev; ConfigError if its name is taken."""
        if config.id in self._nodes:
            raise ConfigError(f"Duplicate nodes with node-name='{config.id}'")
        if config.id in self._drives:
            raise ConfigError(f"node-name={config.id} is conflicting with a device id")
        self._drives[config.id] = config
        self._nodes.add(config.id)
        self.origins[config.id] = where

    def node(self, name: str) -> DriveConfig:
        """The image of that name, for a node on top of it."""
        try:
            return self._drives[name]
        except KeyError:
            raise ConfigError(f"Cannot find device='{name}' nor node-name='{name}'") from None

    def finish(self) -> dict[str, DriveConfig]:
        """All images."""
        return self._drives

    def devices(self, machine: str) -> list[tuple[str, DeviceConfig]]:
        """The disks that -drive if=virtio adds, each with the option it is from."""
        driver = ALIASES["virtio-blk"] if MACHINES[machine].pci else "virtio-blk-device"
        return [
            (
                self.origins[name],
                DeviceConfig(driver, {"drive": name, **(use.options or {})}),
            )
            for name, use in self._uses.items()
            if use.interface == "virtio"
        ]
