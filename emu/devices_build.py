"""From the configuration to devices on their bus: host sides are opened, devices made, in order.

    devices = build_devices(config, loop, open_chardev, board, pci_bus=bus)   # pseries
    devices = build_devices(config, loop, open_chardev, board)                # virtmmio
    board_slots = MmioSlots(devices.mmio, ...)

Everything here runs on the main thread, before the vCPU's.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from devices.host import DeviceHost
from devices.net.config import open_netdev
from devices.properties import Values, parse_pci_address
from devices.registry import BusKind, Driver
from devices.virtio.console import VirtioSerial
from devices.virtio.console_port import PortConfig
from devices.virtio.constants import AUTO_QUEUES, Feature
from devices.virtio.device import VirtioDevice
from devices.virtio.mmio_slots import MmioDevice
from devices.virtio.net_options import MacPool
from emu.chardev.base import Chardev
from emu.chardev.config import ChardevConfig, ConfigError
from emu.config import MachineConfig, PlannedDevice, RngRandomConfig
from emu.config_devices import MMIO_BUS
from emu.events import EventLoop

if TYPE_CHECKING:
    from devices.block.image import Image
    from devices.net.base import NetBackend
    from devices.virtio.pci import VirtioPciFunction

OpenChardev = Callable[[ChardevConfig], Chardev]

#: Properties that switch a feature of the ring on.
_SWITCHED_ON = {
    "packed": Feature.RING_PACKED,
    "in_order": Feature.IN_ORDER,
    "queue_reset": Feature.RING_RESET,
}
#: Properties that switch a feature off which every device has.
_SWITCHED_OFF = {
    "any_layout": Feature.ANY_LAYOUT,
    "event_idx": Feature.RING_EVENT_IDX,
    "indirect_desc": Feature.RING_INDIRECT_DESC,
    "notify_on_empty": Feature.NOTIFY_ON_EMPTY,
}
#: In the configuration space (PCI 3.0, 6.2.1).
_HEADER_TYPE, _MULTIFUNCTION = 0x0E, 0x80


class _Closable(Protocol):
    def close(self) -> None: ...


class PciSlots(Protocol):
    """The PCI bus, as far as it matters here."""

    def add(self, function: VirtioPciFunction, addr: str | None = None) -> None:
        """Plug a function in at "slot.function", or the next free slot; ConfigError if taken."""


class DeviceSet:
    """The devices of a machine, in the order of the command line.

    `mmio` are those for virtio-mmio slots; PCI functions are on their bus. `by_name` has every
    virtio device under its id or, without one, its driver's name and a number.
    """

    def __init__(self) -> None:
        self.by_name: dict[str, VirtioDevice] = {}
        self.mmio: list[MmioDevice] = []
        self._open: list[_Closable] = []

    def keep(self, opened: _Closable) -> None:
        """Close this, too."""
        self._open.append(opened)

    def flush(self, seconds: float) -> None:
        """Wait until the host has what the guest wrote to consoles, each so long at most."""
        for device in self.by_name.values():
            if isinstance(device, VirtioSerial):
                device.flush(seconds)

    def close(self) -> None:
        """Close devices and host sides, the newest first; no vCPU is running.  Idempotent."""
        while self._open:
            self._open.pop().close()


class _Backends:
    """Host sides by id, opened when a device asks for them (`devices.registry_virtio.Backends`)."""

    def __init__(self, config: MachineConfig, loop: EventLoop, devices: DeviceSet) -> None:
        self._config = config
        self._loop = loop
        self._devices = devices
        self._macs = MacPool()

    def drive(self, name: str, *, share_write: bool) -> Image:
        """The disk image of a -drive or -blockdev; `share_write`: others may write to it too."""
        from devices.block.open import open_drive

        try:
            here = self._config.incoming is None  # else the source has it until it hands over
            image = open_drive(self._config.drives[name], share_write=share_write, claim=here)
        except ConfigError as error:
            raise ConfigError(str(error), f"drives[{name}]") from error
        self._devices.keep(image)
        return image

    def netdev(self, name: str) -> NetBackend:
        """The network of a -netdev."""
        try:
            backend = open_netdev(self._config.netdevs[name], self._loop)
        except ConfigError as error:
            raise ConfigError(str(error), f"netdevs[{name}]") from error
        self._devices.keep(backend)
        return backend

    def entropy_file(self, name: str) -> str | None:
        """The file of an rng-random object; None for rng-builtin."""
        entry = self._config.objects[name]
        return entry.filename if isinstance(entry, RngRandomConfig) else None

    def mac_address(self, wanted: str | None) -> str:
        """An address for a network device: what it wants, or the next free one."""
        return wanted or self._macs.take().hex(":")

    def reserve(self, mac: str) -> None:
        """Give this one to nobody else."""
        self._macs.reserve(bytes.fromhex(mac.replace(":", "").replace("-", "")))


def build_devices(
    config: MachineConfig,
    loop: EventLoop,
    open_chardev: OpenChardev,
    host: DeviceHost,
    pci_bus: PciSlots | None = None,
) -> DeviceSet:
    """Make the virtio devices of a configuration.

    PCI functions are added to `pci_bus`; the others are in `DeviceSet.mmio`. ConfigError, with the
    option in front that is to blame, if a host side cannot be opened or two devices want the same
    place; what was opened is closed then.
    """
    with ExitStack() as stack:
        builder = _Builder(config, loop, open_chardev, host, pci_bus)
        stack.callback(builder.devices.close)
        builder.build()
        stack.pop_all()
    return builder.devices


class _Builder:
    """One run of `build_devices`."""

    def __init__(
        self,
        config: MachineConfig,
        loop: EventLoop,
        open_chardev: OpenChardev,
        host: DeviceHost,
        pci_bus: PciSlots | None,
    ) -> None:
        self.devices = DeviceSet()
        self._config = config
        self._open_chardev = open_chardev
        self._host = host
        self._pci_bus = pci_bus
        self._backends = _Backends(config, loop, self.devices)
        self._serial: dict[str, VirtioSerial] = {}

    def build(self) -> None:
        """Make all devices."""
        planned = [_per_cpu(device, self._config.smp) for device in self._config.planned_devices()]
        for device in planned:
            mac = device.values.get("mac")
            if isinstance(mac, str):
                self._backends.reserve(mac)
        for device in planned:
            try:
                self._add(device)
            except ConfigError as error:
                place = ConfigError(str(error), error.field or device.where)
                raise self._config.explain(place) from error

    def _add(self, planned: PlannedDevice) -> None:
        if planned.driver.bus is BusKind.VIRTIO_SERIAL:
            self._serial[planned.bus].add_port(self._port(planned))
        entry = planned.driver.virtio
        if entry is None:
            return
        device = entry.make(planned.name, self._host, planned.values, self._backends)
        self.devices.keep(device)
        self.devices.by_name[planned.name] = device
        _set_features(device, planned.values)
        if isinstance(device, VirtioSerial):
            self._serial[planned.serial_bus] = device
        if planned.driver.bus is BusKind.PCI:
            self._add_function(planned, device)
        else:
            slot = planned.bus.removeprefix(f"{MMIO_BUS}.")
            legacy = self._config.mmio_legacy
            self.devices.mmio.append(MmioDevice(device, legacy, int(slot) if slot else None))

    def _add_function(self, planned: PlannedDevice, device: VirtioDevice) -> None:
        from devices.virtio.pci import VirtioPciFunction

        if self._pci_bus is None:
            raise ConfigError(f"No 'PCI' bus found for device '{planned.driver.name}'")
        legacy, modern = _interfaces(planned.driver, planned.values)
        vectors = planned.values.get("vectors")
        function = VirtioPciFunction(
            planned.name,
            device,
            legacy=legacy,
            modern=modern,
            vectors=vectors if isinstance(vectors, int) else _default_vectors(planned),
        )
        function.driver = planned.driver.name
        if planned.values.get("multifunction"):
            function.config[_HEADER_TYPE] |= _MULTIFUNCTION
        address = parse_pci_address(str(planned.values.get("addr", "")))
        self._pci_bus.add(function, f"{address[0]:x}.{address[1]}" if address else None)

    def _port(self, planned: PlannedDevice) -> PortConfig:
        """A console or serial port with its chardev, which belongs to the port from now on."""
        name, number = planned.values.get("name"), planned.values.get("nr")
        chardev = planned.values.get("chardev")
        opened = None
        if isinstance(chardev, str):
            try:
                opened = self._open_chardev(self._config.chardevs[chardev])
            except ConfigError as error:
                raise ConfigError(str(error), f"chardevs[{chardev}]") from error
            self.devices.keep(opened)
        return PortConfig(
            nr=number if isinstance(number, int) else None,
            name=name if isinstance(name, str) else "",
            is_console=planned.driver.name == "virtconsole",
            chardev=opened,
        )


def _per_cpu(planned: PlannedDevice, cpus: int) -> PlannedDevice:
    """A disk on the PCI bus has a queue for each CPU unless told otherwise, as in QEMU."""
    entry = planned.driver.virtio
    if entry is None or entry.name != "blk" or planned.driver.bus is not BusKind.PCI:
        return planned
    if planned.values.get("num-queues", AUTO_QUEUES) != AUTO_QUEUES:
        return planned
    return replace(planned, values={**planned.values, "num-queues": cpus})


def _interfaces(driver: Driver, values: Values) -> tuple[bool, bool]:
    """Whether a function has the legacy and the modern interface.

    "auto" is on for both: the bus is conventional PCI, where QEMU's devices are transitional.
    """
    legacy = driver.legacy if driver.legacy is not None else not values.get("disable-legacy")
    modern = driver.modern if driver.modern is not None else not values.get("disable-modern")
    return legacy, modern


def _default_vectors(planned: PlannedDevice) -> int:
    entry = planned.driver.virtio
    return 0 if entry is None else entry.vectors(planned.values)


def _set_features(device: VirtioDevice, values: Values) -> None:
    """Offer the features of the ring that the properties ask for."""
    for name, feature in _SWITCHED_ON.items():
        wanted = values.get(name, name == "queue_reset")
        if wanted:
            device.device_features |= feature.mask
    for name, feature in _SWITCHED_OFF.items():
        if values.get(name) is False:
            device.withheld_features |= feature.mask
