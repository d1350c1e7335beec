"""Network adapters in their short form, until the machine is known and they become devices."""

from __future__ import annotations

from dataclasses import dataclass, replace

from devices.registry import ALIASES, DRIVERS, BusKind
from emu.config import MACHINES, ConfigError, DeviceConfig

#: What -nic model= may be.
NIC_MODELS = tuple(
    sorted(
        driver.name
        for driver in DRIVERS.values()
        if driver.virtio is not None and driver.virtio.name == "net"
    )
)


@dataclass(frozen=True)
class Nic:
    """An adapter: the option it is from, its model and address if given, and its netdev."""

    where: str
    model: str | None
    mac: str | None
    netdev: str | None

    def device(self, machine: str) -> DeviceConfig:
        """The device it stands for on that machine."""
        on_mmio = not MACHINES[machine].pci
        name = self.model or "virtio"
        if name in ("virtio", "virtio-net"):
            name = "virtio-net-device" if on_mmio else ALIASES["virtio-net"]
        bus = BusKind.VIRTIO if on_mmio else BusKind.PCI
        if name not in NIC_MODELS or DRIVERS[name].bus is not bus:
            raise ConfigError(f"{self.where}: Unsupported NIC model: {self.model}")
        properties = {"netdev": self.netdev, "mac": self.mac}
        return DeviceConfig(name, {key: value for key, value in properties.items() if value})


class Nics:
    """The adapters so far."""

    def __init__(self) -> None:
        self._nics: list[Nic] = []
        self._halves: list[Nic] = []
        self._networks: list[tuple[str, str]] = []  # option, netdev
        self._names = 0

    def next_name(self) -> str:
        """An id for a network without one, as QEMU makes it."""
        name = f"__org.qemu.nic{self._names}"
        self._names += 1
        return name

    def add(self, nic: Nic) -> None:
        """Add a -nic."""
        self._nics.append(nic)

    def add_half(self, nic: Nic) -> None:
        """Add a -net nic; without a netdev it waits for its network."""
        if nic.netdev:
            self._nics.append(nic)
        else:
            self._halves.append(nic)

    def add_network(self, where: str, netdev: str) -> None:
        """Add a -net with a network."""
        self._networks.append((where, netdev))

    def finish(self) -> list[Nic]:
        """All adapters, once the options are read; ConfigError if halves do not match.

        QEMU would connect them all to a hub, which we have not.
        """
        if len(self._halves) > 1 or len(self._networks) > 1:
            where = (self._halves[1:] and self._halves[1].where) or self._networks[1][0]
            raise ConfigError(
                f"{where}: only one -net nic and one network are supported; "
                "use -nic, or -netdev and -device, for more"
            )
        if self._networks and not self._halves:
            raise ConfigError(f"{self._networks[0][0]}: there is no -net nic for this network")
        if not self._halves:
            return self._nics
        network = self._networks[0][1] if self._networks else None
        return [*self._nics, replace(self._halves[0], netdev=network)]
