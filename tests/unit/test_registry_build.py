"""From a command line to devices on their buses, with their host sides."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from devices.block.open import open_image
from devices.pci.bus import PciBus
from devices.pci.function import PciFunction
from devices.virtio.block import VirtioBlock
from devices.virtio.console import VirtioSerial
from devices.virtio.constants import Feature
from devices.virtio.mmio_slots import assign_slots
from devices.virtio.net import VirtioNet
from devices.virtio.pci import VirtioPciFunction
from devices.virtio.rng import VirtioRng
from emu.chardev.base import Chardev
from emu.chardev.config import ChardevConfig, ConfigError
from emu.chardev.factory import open_chardev
from emu.config import MACHINES, MachineConfig
from emu.devices_build import DeviceSet, build_devices
from emu.options import parse_command_line
from tests.support.virtio import FakeHost

MMIO = ("-M", "virtmmio")


class Bridge:
    """A host bridge that nothing comes out of."""

    def set_intx(self, devfn: int, pin: int, level: bool) -> None:
        pass

    def send_msi(self, function: PciFunction, address: int, data: int) -> None:
        pass


def pci_bus() -> PciBus:
    return PciBus(Bridge())


class Builder:
    """Builds devices as a machine does, and remembers what it opened."""

    def __init__(self) -> None:
        self.host = FakeHost()
        self.host.loop.start()
        self.opened: list[Chardev] = []

    def open(self, config: ChardevConfig) -> Chardev:
        self.opened.append(open_chardev(config, self.host.loop))
        return self.opened[-1]

    def build(self, *argv: str, bus: PciBus | None = None) -> DeviceSet:
        config: MachineConfig = parse_command_line(argv, warn=lambda message: None)
        return build_devices(config, self.host.loop, self.open, self.host, bus)


@pytest.fixture
def builder() -> Iterator[Builder]:
    builder = Builder()
    yield builder
    builder.host.loop.stop()


def test_devices_of_slots_are_in_order_and_closed(builder: Builder) -> None:
    devices = builder.build(
        *(*MMIO, "-device", "virtio-rng-device,id=r", "-device", "virtio-balloon-device"),
        *("-device", "virtio-net-device,bus=virtio-mmio-bus.0"),
    )
    assert [(entry.device.name, entry.legacy, entry.slot) for entry in devices.mmio] == [
        ("r", True, None),
        ("virtio-balloon-device.0", True, None),
        ("virtio-net-device.0", True, 0),
    ]
    slots = assign_slots(devices.mmio, 32)
    assert [slots[slot].device.name for slot in range(2)] == ["virtio-net-device.0", "r"]
    devices.close()
    devices.close()


def test_force_legacy_off_makes_modern_slots(builder: Builder) -> None:
    argv = ("-global", "virtio-mmio.force-legacy=off", "-device", "virtio-rng-device")
    assert not builder.build(*MMIO, *argv).mmio[0].legacy


def test_properties_reach_the_device(builder: Builder) -> None:
    devices = builder.build(
        *(*MMIO, "-object", "rng-random,id=z,filename=/dev/zero"),
        *("-device", "virtio-rng-device,id=a,max-bytes=100,period=5,rng=z,packed=on"),
        *("-device", "virtio-rng-device,id=b,queue_reset=off"),
    )
    first, second = devices.by_name["a"], devices.by_name["b"]
    assert isinstance(first, VirtioRng)
    assert (first.options.max_bytes, first.options.period) == (100, 5)
    assert first.options.filename == "/dev/zero"
    assert first.offered_features(True) & Feature.RING_PACKED.mask
    assert first.offered_features(True) & Feature.RING_RESET.mask
    assert not second.offered_features(True) & Feature.RING_PACKED.mask
    assert not second.offered_features(True) & Feature.RING_RESET.mask
    devices.close()


def test_ports_are_plugged_into_their_controller(builder: Builder) -> None:
    devices = builder.build(
        *(*MMIO, "-chardev", "ringbuf,id=c", "-chardev", "null,id=d"),
        *("-device", "virtio-serial-device,id=s", "-device", "virtio-serial-device,id=t"),
        *("-device", "virtconsole,chardev=c,bus=s.0"),
        *("-device", "virtserialport,chardev=d,nr=5,name=org.x"),
    )
    s, t = devices.by_name["s"], devices.by_name["t"]
    assert isinstance(s, VirtioSerial)
    assert isinstance(t, VirtioSerial)
    assert [(nr, port.config.is_console) for nr, port in s.ports.items()] == [(0, True)]
    assert [(nr, port.name) for nr, port in t.ports.items()] == [(5, b"org.x")]
    assert s.ports[0].config.chardev is builder.opened[0]
    devices.close()
    assert all(chardev.closed for chardev in builder.opened)


def test_each_adapter_has_an_address_of_its_own(builder: Builder) -> None:
    devices = builder.build(
        *(*MMIO, "-device", "virtio-net-device,id=a", "-device", "virtio-net-device,id=b"),
        *("-device", "virtio-net-device,id=c,mac=52:54:00:12:34:56"),
    )
    macs = {}
    for name, device in devices.by_name.items():
        assert isinstance(device, VirtioNet)
        macs[name] = device.config_space(device.endian)[:6].hex(":")
    assert macs == {
        "a": "52:54:00:12:34:57",
        "b": "52:54:00:12:34:58",
        "c": "52:54:00:12:34:56",
    }


ERRORS = [
    (
        ["-object", "rng-random,id=z,filename=/nope", "-device", "virtio-rng-device,rng=z"],
        "-object rng-random,id=z,filename=/nope: ",
    ),
    (
        ["-netdev", "socket,id=n,fd=2000000000", "-device", "virtio-net-device,netdev=n"],
        "-netdev socket,id=n,fd=2000000000: ",
    ),
    (
        ["-device", "virtio-serial-device", *("-device", "virtserialport,nr=1") * 2],
        "-device virtserialport,nr=1: a port already exists at id 1",
    ),
    (
        ["-device", "virtio-rng-device,period=0"],
        "-device virtio-rng-device,period=0: 'period' parameter expects a positive integer",
    ),
    (
        ["-device", "virtio-net-device,rx_queue_size=3"],
        "-device virtio-net-device,rx_queue_size=3: Invalid rx_queue_size (= 3), must be",
    ),
    (
        ["-device", "virtio-serial-device,max_ports=0"],
        "-device virtio-serial-device,max_ports=0: maximum number of serial ports not specified",
    ),
]


@pytest.mark.parametrize(("argv", "message"), ERRORS)
def test_mistake_names_its_option_and_closes_what_is_open(
    builder: Builder, argv: list[str], message: str
) -> None:
    before = (
        *(*MMIO, "-chardev", "null,id=c", "-device", "virtio-serial-device,id=s"),
        *("-device", "virtconsole,chardev=c"),
    )
    with pytest.raises(ConfigError) as caught:
        builder.build(*before, *argv)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert [chardev.closed for chardev in builder.opened] == [True]


@pytest.mark.parametrize(
    ("text", "ids", "vectors"),
    [
        ("virtio-rng-pci", (0x1005, 0), 2),
        ("virtio-rng-pci-transitional", (0x1005, 0), 2),
        ("virtio-rng-pci,disable-modern=on", (0x1005, 0), 2),
        ("virtio-rng-pci,disable-legacy=on,vectors=5", (0x1044, 1), 5),
        ("virtio-rng-pci-non-transitional,vectors=0", (0x1044, 1), 0),
        ("virtio-balloon-pci", (0x1002, 0), 0),
        ("virtio-net-pci", (0x1000, 0), 4),
    ],
)
def test_functions_on_the_pci_bus(
    builder: Builder, text: str, ids: tuple[int, int], vectors: int
) -> None:
    bus = pci_bus()
    devices = builder.build("-device", f"{text},addr=0x1f.1,multifunction=on", bus=bus)
    function = bus.functions[31 << 3 | 1]
    assert isinstance(function, VirtioPciFunction)
    assert (function.config_read(2, 2), function.config_read(8, 1)) == ids
    assert function.config_read(14, 1) & 0x80
    assert function.vectors == vectors
    devices.close()


def test_functions_without_address_take_the_next_free_slot(builder: Builder) -> None:
    bus = pci_bus()
    argv = ("-device", "virtio-rng-pci,addr=1", *("-device", "virtio-rng-pci") * 2)
    builder.build(*argv, "-nic", "user,id=n", bus=bus).close()
    assert [(devfn >> 3, bus.functions[devfn].name) for devfn in sorted(bus.functions)] == [
        (0, "virtio-net-pci.0"),
        (1, "virtio-rng-pci.0"),
        (2, "virtio-rng-pci.1"),
        (3, "virtio-rng-pci.2"),
    ]


def test_slot_that_is_taken(builder: Builder) -> None:
    with pytest.raises(ConfigError) as caught:
        builder.build(*("-device", "virtio-rng-pci,addr=7") * 2, bus=pci_bus())
    assert str(caught.value) == (
        "-device virtio-rng-pci,addr=7: PCI: slot 7 function 0 not available for "
        "virtio-rng-pci, in use by virtio-rng-pci.0"
    )


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1 << 20))
    return path


def test_disk_has_the_properties_of_drive_and_device(builder: Builder, image: Path) -> None:
    devices = builder.build(
        *("-drive", f"file={image},if=none,id=d,format=raw,readonly=on,cache=writethrough"),
        *("-device", "virtio-blk-pci,drive=d,id=b,serial=abc,num-queues=2,queue-size=128"),
        bus=(bus := pci_bus()),
    )
    disk = devices.by_name["b"]
    assert isinstance(disk, VirtioBlock)
    assert disk.image.read_only
    assert not disk.image.write_back
    assert (disk.options.serial, disk.options.queues, disk.options.queue_size) == ("abc", 2, 128)
    function = bus.functions[0]
    assert isinstance(function, VirtioPciFunction)
    assert function.vectors == 3
    devices.close()


@pytest.mark.parametrize(
    ("given", "queues"), [("", 4), (",num-queues=65535", 4), (",num-queues=1", 1)]
)
def test_disk_has_a_queue_for_each_cpu(
    builder: Builder, image: Path, given: str, queues: int
) -> None:
    drive = ["-drive", f"file={image},if=none,id=d,format=raw"]
    device = ["-device", f"virtio-blk-pci,drive=d,id=b{given}"]
    devices = builder.build("-smp", "4", *drive, *device, bus=(bus := pci_bus()))
    assert len(devices.by_name["b"].queues) == queues
    function = bus.functions[0]
    assert isinstance(function, VirtioPciFunction)
    assert function.vectors == queues + 1
    devices.close()


@pytest.mark.parametrize("interface", ["none,id=d", "virtio"])
def test_image_that_is_in_use_blames_its_drive(
    builder: Builder, image: Path, interface: str
) -> None:
    holder = open_image(os.fspath(image))
    drive = f"file={image},format=raw,if={interface}"
    argv = ["-device", "virtio-blk-pci,drive=d"] if "none" in interface else []
    try:
        with pytest.raises(ConfigError) as caught:
            builder.build("-drive", drive, *argv, bus=pci_bus())
    finally:
        holder.close()
    assert str(caught.value).startswith(f"-drive {drive}: ")
    assert "lock" in str(caught.value)


def test_slots_of_the_configuration_are_those_of_the_board() -> None:
    from machines.pseries.virtio_mmio import SLOT_COUNT

    assert MACHINES["pseries"].slots == SLOT_COUNT
