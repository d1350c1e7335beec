"""Each virtio device's part of a state stream, as an independent reader sees it.

The byte order is in a subsection, no other byte depends on it, and what is loaded is looked at
only when all of it is there.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from devices.virtio import records
from devices.virtio.balloon import STATS, BalloonOptions, VirtioBalloon
from devices.virtio.block import VirtioBlock
from devices.virtio.block_options import BlockFeature, BlockOptions
from devices.virtio.console import CONTROL_RECEIVE, CONTROL_TRANSMIT, SerialOptions, VirtioSerial
from devices.virtio.console_control import Event
from devices.virtio.console_port import PortConfig
from devices.virtio.constants import Feature, Status
from devices.virtio.device import VirtioDevice
from devices.virtio.net import VirtioNet
from devices.virtio.net_options import NetFeature, NetOptions
from devices.virtio.rng import RngOptions, VirtioRng
from devices.virtio.state import device_description
from emu.chardev import MemoryChardev
from emu.memory.endian import GuestEndian
from emu.migration.stream import MigrationError, StreamReader, StreamWriter
from tests.support.block import MemoryImage
from tests.support.stream_reader import Bytes, Structure, read_structure
from tests.support.virtio import KIND_NAMES, KINDS, FakeHost, FakeTransport, MockDriver
from tests.unit.net_tools import FakeBackend, frame_of

Kind = tuple[GuestEndian, int]
Make = Callable[[FakeHost], VirtioDevice]
BIG, LITTLE = GuestEndian.BIG, GuestEndian.LITTLE
MULTIPORT, STATS_VQ = 1 << 1, 1 << 1
BYTE_ORDER = b"\x05\x14virtio/device_endian"
IN, OUT = 0, 1


def serial(host: FakeHost, ports: tuple[int, ...] = (0, 1, 3)) -> VirtioSerial:
    device = VirtioSerial("serial", host, SerialOptions(max_ports=5))
    for nr in ports:
        chardev = MemoryChardev(f"port{nr}")
        device.add_port(PortConfig(nr=nr, is_console=nr == 0, chardev=chardev))
    return device


DEVICES: dict[str, Make] = {
    "block": lambda host: VirtioBlock("disk", host, BlockOptions(), MemoryImage(1 << 20)),
    "net": lambda host: VirtioNet("net", host, NetOptions(), FakeBackend()),
    "console": serial,
    "rng": lambda host: VirtioRng("rng", host, RngOptions()),
    "balloon": lambda host: VirtioBalloon("balloon", host, BalloonOptions()),
}
every_device = pytest.mark.parametrize("make", DEVICES.values(), ids=DEVICES.keys())
every_kind = pytest.mark.parametrize("kind", KINDS, ids=KIND_NAMES)


class Memory:
    """A channel of one direction."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = io.BytesIO(data)

    def write(self, data: Any) -> None:
        self.data.write(data)

    def read(self, size: int) -> bytes:
        return self.data.read(size)

    def read_into(self, views: Any) -> int:
        raise AssertionError("there are no pages here")


@dataclass
class Saved:
    """A device's state: its bytes, and what they say."""

    data: bytes
    state: Structure

    @property
    def subsections(self) -> set[str]:
        return set(self.state.subsections)


def save(device: VirtioDevice) -> Saved:
    description = device_description(device)
    channel = Memory()
    writer = StreamWriter(channel)
    description.save(writer, device)
    writer.flush()
    data = channel.data.getvalue()
    take = Bytes(data)
    state = read_structure(take, description.describe(device))
    assert take.at == len(data), "the description ends before the stream does"
    return Saved(data, state)


def load(data: bytes, make: Make, ram: bytes | None = None) -> VirtioDevice:
    """A device of another machine with this state, checked; ``ram`` is what comes with it."""
    device = fresh(make)
    description = device_description(device)
    description.load(StreamReader(Memory(data)), device, description.version)
    if ram is not None:
        device.host.dma.write(0, ram)  # only now: nothing may look at it before
    device.check_loaded()
    return device


def fresh(make: Make) -> VirtioDevice:
    device = make(FakeHost())
    device.transport = FakeTransport()
    device.reset()
    device.freeze()
    return device


def ram_of(device: VirtioDevice) -> bytes:
    return bytes(device.host.dma.view(0, device.host.dma.size))


def driven(make: Make, kind: Kind, features: int = 0) -> MockDriver:
    """A device whose driver is ready."""
    driver = MockDriver(make(FakeHost()), kind[0], kind[1] | features)
    driver.setup()
    return driver


@pytest.fixture(autouse=True)
def closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every device is closed, with its threads."""
    made: list[VirtioDevice] = []
    init = VirtioDevice.__init__

    def remember(self: VirtioDevice, *arguments: Any) -> None:
        init(self, *arguments)
        made.append(self)

    monkeypatch.setattr(VirtioDevice, "__init__", remember)
    yield
    for device in made:
        device.close()


# Byte order


@every_device
@every_kind
def test_byte_order_is_sent_exactly_when_it_is_not_the_platforms(make: Make, kind: Kind) -> None:
    saved = save(driven(make, kind).device)
    if kind[0] is LITTLE:
        order = saved.state.subsections["virtio/device_endian"]
        assert order["device_endian"] == LITTLE.value
    assert ("virtio/device_endian" in saved.subsections) == (kind[0] is LITTLE)
    assert ("virtio/64bit_features" in saved.subsections) == bool(kind[1])


@every_device
def test_no_other_byte_depends_on_the_byte_order(make: Make) -> None:
    """Configuration space, ports and messages included."""
    big, little = (save(driven(make, (order, 0)).device).data for order in (BIG, LITTLE))
    value = struct.pack(">IB", 1, LITTLE.value)
    assert little == big.replace(
        b"\x05\x11virtio/virtqueues", BYTE_ORDER + value + b"\x05\x11virtio/virtqueues"
    )


@every_device
@every_kind
def test_byte_order_comes_back(make: Make, kind: Kind) -> None:
    source = driven(make, kind)
    device = load(save(source.device).data, make, ram_of(source.device))
    assert (device.latched_endian, device.endian) == (kind[0], source.endian)
    assert save(device).data == save(source.device).data
    for queue in device.queues:
        flags = int(queue.record["flags"])
        assert bool(flags & records.BIG_ENDIAN) == (source.endian is BIG)


@every_device
def test_state_of_a_version_without_the_subsection_is_big_endian(make: Make) -> None:
    """Whatever the device had latched before."""
    data = save(driven(make, (BIG, 0)).device).data
    assert BYTE_ORDER not in data
    target = driven(make, (LITTLE, 0)).device
    description = device_description(target)
    description.load(StreamReader(Memory(data)), target, description.version)
    assert target.latched_endian is BIG


@every_device
def test_impossible_byte_order_is_refused(make: Make) -> None:
    data = save(driven(make, (LITTLE, 0)).device).data
    at = data.index(BYTE_ORDER) + len(BYTE_ORDER) + 4
    for value in (0, 3, 255):
        with pytest.raises(MigrationError, match=r"device_endian|byte order"):
            load(data[:at] + bytes((value,)) + data[at + 1 :], make)


@every_device
def test_configuration_space_is_big_endian(make: Make) -> None:
    device = driven(make, (LITTLE, 0)).device
    assert save(device).state["config"] == device.config_space(BIG)


# Sizes and names


@every_device
@every_kind
def test_every_field_has_its_name_and_size(make: Make, kind: Kind) -> None:
    """The reader checks sizes against the description; here are the names."""
    driver = driven(make, kind)
    state = save(driver.device).state
    assert state["num_queues"] == len(driver.device.queues) == len(state["queues"])
    assert state["status"] == driver.device.status
    assert state["guest_features"] == driver.device.features & 0xFFFFFFFF
    for index, queue in enumerate(driver.device.queues):
        areas = state.subsections["virtio/virtqueues"]
        assert state[f"queues.{index}.num"] == queue.size
        assert state[f"queues.{index}.desc"] == driver.rings[index].desc
        assert areas[f"queues.{index}.avail"] == driver.rings[index].avail
        assert areas[f"queues.{index}.used"] == driver.rings[index].used


@every_device
def test_other_number_of_queues_is_told(make: Make) -> None:
    data = save(driven(make, KINDS[0]).device).data
    broken = struct.pack(">I", 77) + data[4:]
    with pytest.raises(MigrationError, match="num_queues: 77 at the source"):
        load(broken, make)


@every_device
def test_truncated_state_is_refused_at_every_byte(make: Make) -> None:
    data = save(driven(make, KINDS[1]).device).data
    target = make(FakeHost())
    description = device_description(target)
    for size in range(len(data) - 1):
        with pytest.raises(MigrationError):
            description.load(StreamReader(Memory(data[:size])), target, description.version)


@every_device
@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (b"virtio/rings\0\0\0\x01", b"virtio/rings\0\0\0\x02", "virtio/rings: version 2"),
        (b"virtio/rings", b"virtio/xings", "unknown subsection 'virtio/xings'"),
        (b"\x05\x0cvirtio/rings", b"\x7e\x0cvirtio/rings", "'virtio/rings' is missing"),
    ],
)
def test_bad_subsection_is_named(make: Make, old: bytes, new: bytes, why: str) -> None:
    data = save(driven(make, KINDS[0]).device).data
    assert old in data
    with pytest.raises(MigrationError, match=why):
        load(data.replace(old, new), make)


@every_device
@pytest.mark.parametrize("version", [0, 1, 3])
def test_other_version_is_named(make: Make, version: int) -> None:
    device = driven(make, KINDS[0]).device
    data, target = save(device).data, make(FakeHost())
    with pytest.raises(MigrationError, match=f"virtio: version {version} is not supported"):
        device_description(target).load(StreamReader(Memory(data)), target, version)


@every_device
def test_features_that_are_not_offered_here_are_named(make: Make) -> None:
    source = driven(make, KINDS[0]).device
    source.features |= 1 << 30
    with pytest.raises(MigrationError, match="features 0x40000000 are not offered"):
        load(save(source).data, make)


# Rings


def ring_record(source: VirtioDevice, **values: int) -> bytes:
    """The source's state with these values in the first queue's record."""
    for name, value in values.items():
        source.queues[0].record[name] = value
    return save(source).data


@every_device
@every_kind
@pytest.mark.parametrize(
    "values",
    [{"last_avail": 1}, {"used_idx": 1}, {"inuse": 1}, {"last_avail": 5, "inuse": 5}],
    ids=str,
)
def test_queue_whose_indices_disagree_is_refused(
    make: Make, kind: Kind, values: dict[str, int]
) -> None:
    """No request travels: what is taken is returned."""
    source = driven(make, kind).device
    with pytest.raises(MigrationError, match=r"queue 0: \d+ requests in flight"):
        load(ring_record(source, **values), make, ram_of(source))


@every_device
@pytest.mark.parametrize("size", [0, 32768])
def test_queue_of_impossible_size_is_refused(make: Make, size: int) -> None:
    source = driven(make, KINDS[0]).device
    with pytest.raises(MigrationError, match=f"queue 0 has {size} entries"):
        load(ring_record(source, size=size), make, ram_of(source))


@every_kind
@pytest.mark.parametrize("index", [1, 0x100, 0x7FFF])
def test_indices_are_read_in_the_byte_order_that_has_been_loaded(kind: Kind, index: int) -> None:
    """1 and 0x100 are each other in the other order, and a jump is what breaks a device."""
    make = DEVICES["rng"]
    source = driven(make, kind)
    ring = source.rings[0]
    for address in (ring.avail, ring.used):
        source.device.host.dma.write(address + 2, source.pack("H", index))
    record = source.device.queues[0].record
    record["last_avail"] = record["used_idx"] = index
    device = load(save(source.device).data, make, ram_of(source.device))
    device.resume()
    assert not device.broken
    assert int(device.queues[0].record["last_avail"]) == index


@every_kind
def test_ring_that_the_guest_has_spoilt_breaks_the_device_when_it_resumes(kind: Kind) -> None:
    """More is available than the queue holds: no reason to refuse the guest."""
    make = DEVICES["rng"]
    source = driven(make, kind)
    jump = source.pack("H", source.rings[0].size + 1)
    source.device.host.dma.write(source.rings[0].avail + 2, jump)
    device = load(save(source.device).data, make, ram_of(source.device))
    assert not device.broken
    transport = device.transport
    assert isinstance(transport, FakeTransport)
    assert not transport.queue_interrupts
    assert not transport.config_interrupts
    device.resume()
    assert device.broken
    assert bool(device.status & Status.NEEDS_RESET) == bool(kind[1])


@every_device
@every_kind
def test_broken_device_stays_broken(make: Make, kind: Kind) -> None:
    source = driven(make, kind).device
    assert "virtio/broken" not in save(source).subsections
    source.fail("test")
    saved = save(source)
    assert "virtio/broken" in saved.subsections
    device = load(saved.data, make, ram_of(source))
    device.resume()
    assert device.broken


@every_kind
def test_packed_ring_keeps_positions_and_wrap_counters(kind: Kind) -> None:
    if not kind[1]:
        pytest.skip("only modern drivers have packed rings")

    def make(host: FakeHost) -> VirtioDevice:
        device = VirtioRng("rng", host, RngOptions())
        device.device_features |= Feature.RING_PACKED.mask
        return device

    source = driven(make, kind, Feature.RING_PACKED.mask).device
    values = {"last_avail": 3, "used_idx": 3, "avail_wrap": 0, "used_wrap": 0}
    device = load(ring_record(source, **values), make, ram_of(source))
    assert {name: int(device.queues[0].record[name]) for name in values} == values
    with pytest.raises(MigrationError, match="requests in flight"):  # a whole ring
        load(ring_record(source, used_wrap=1), make, ram_of(source))


# Requests, and what the host has for the guest


def moved(source: MockDriver, make: Make) -> MockDriver:
    """Another machine with the guest; the driver goes on there."""
    device = source.device
    device.freeze()
    target = load(save(device).data, make, ram_of(device))
    assert isinstance(target.host, FakeHost)
    assert isinstance(target.transport, FakeTransport)
    source.device, source.host = target, target.host
    source.transport = target.transport
    for ring, queue in zip(source.rings, target.queues, strict=True):
        ring.queue = queue
    return source


@every_kind
def test_requests_at_the_host_are_completed_first(kind: Kind) -> None:
    image = MemoryImage(1 << 20)
    driver = driven(lambda host: VirtioBlock("disk", host, BlockOptions(), image), kind)
    image.gate.clear()
    header = driver.pack("IIQ", OUT, 0, 1)
    token = driver.submit(0, [header, b"x" * 512], [1])
    while not image.arrived:
        pass
    image.gate.set()
    moved(driver, DEVICES["block"])
    assert driver.used(0) == [(token, 1, b"\0")]
    assert image.data[512:1024] == b"x" * 512


@every_kind
def test_buffers_that_wait_are_found_again_by_their_heads(kind: Kind) -> None:
    """A device without entropy, a balloon that keeps a buffer: no address travels, no element."""
    make = DEVICES["balloon"]
    driver = driven(make, kind, STATS_VQ)
    tags = b"".join(driver.pack("HQ", tag, tag + 7) for tag in range(3))
    token = driver.submit(STATS, [tags])
    assert driver.used(STATS) == []
    assert int(driver.device.queues[STATS].record["inuse"]) == 1
    moved(driver, make)
    assert int(driver.device.queues[STATS].record["inuse"]) == 0
    driver.device.resume()
    assert isinstance(driver.device, VirtioBalloon)
    assert driver.device.stats["stat-swap-in"] == 7
    driver.device.request_stats()
    driver.host.run_posted()
    assert [used[0] for used in driver.used(STATS)] == [token]


@every_kind
def test_receive_buffers_that_were_taken_go_back(kind: Kind) -> None:
    """A frame that needs more buffers than there are takes what there is, and waits."""
    make = DEVICES["net"]
    driver = driven(make, kind, NetFeature.MRG_RXBUF.mask)
    token = driver.submit(0, (), [100])
    backend = driver.device._backend  # type: ignore[attr-defined]
    backend.deliver([frame_of(300)])
    driver.host.run_posted()
    assert int(driver.device.queues[0].record["inuse"]) == 1
    moved(driver, make)
    driver.device.resume()
    driver.device._backend.deliver([frame_of(60)])  # type: ignore[attr-defined]
    driver.host.run_posted()
    ((found, length, data),) = driver.used(0)
    assert (found, length) == (token, 72)
    assert data[12:72] == frame_of(60)


@every_device
@every_kind
def test_guest_memory_stays_as_it_is_from_freezing_to_resuming(make: Make, kind: Kind) -> None:
    """It has been sent: whatever the host does now must wait."""
    features = {serial: MULTIPORT, DEVICES["balloon"]: STATS_VQ}
    driver = driven(make, kind, features.get(make, 0))
    for index in range(len(driver.rings)):
        driver.submit(index, (), [64], notify=False)
    device = driver.device
    device.freeze()
    before = ram_of(device)
    driver.host.written.clear()
    interfere(device)
    for index in range(len(device.queues)):
        device.notify(index)
    driver.host.run_posted()
    assert driver.host.written == []
    assert ram_of(device) == before
    device.resume()
    driver.host.run_posted()
    assert not device.frozen


def interfere(device: VirtioDevice) -> None:
    """What hosts do at any moment."""
    if isinstance(device, VirtioNet):
        device._backend.deliver([frame_of(60), frame_of(61)])  # type: ignore[union-attr]
    if isinstance(device, VirtioSerial):
        for port in device.ports.values():
            chardev = port.config.chardev
            assert isinstance(chardev, MemoryChardev)
            chardev.send(b"input")
            device.set_host_connected(port.nr, False)
        device.resize(80, 25)
    if isinstance(device, VirtioBalloon):
        device.set_target(1 << 20)
        device.request_stats()
    if isinstance(device, VirtioRng):
        device._new_period()


@every_kind
def test_frames_that_come_while_it_is_frozen_are_there_afterwards(kind: Kind) -> None:
    driver = driven(DEVICES["net"], kind)
    driver.submit(0, (), [200])
    driver.device.freeze()
    driver.device._backend.deliver([frame_of(60)])  # type: ignore[attr-defined]
    driver.host.run_posted()
    assert driver.used(0) == []
    driver.device.resume()
    ((_, _, data),) = driver.used(0)
    assert frame_of(60) in data


def test_each_enabled_queue_gets_one_interrupt_when_the_guest_resumes() -> None:
    """A notification may have been lost on the way."""
    make = DEVICES["rng"]
    driver = moved(driven(make, KINDS[0]), make)
    assert driver.transport.queue_interrupts == []
    driver.device.resume()
    assert driver.transport.queue_interrupts == [0]


# Devices of their own


@every_kind
def test_disk_keeps_its_write_cache(kind: Kind) -> None:
    make = DEVICES["block"]
    features = BlockFeature.FLUSH.mask | BlockFeature.CONFIG_WCE.mask
    for on in (False, True):
        source = driven(make, kind, features).device
        assert isinstance(source, VirtioBlock)
        source.write_cache = on
        saved = save(source)
        assert saved.state["device.write_cache"] is on
        device = load(saved.data, make)
        assert isinstance(device, VirtioBlock)
        assert device.write_cache is on


@every_kind
def test_network_card_keeps_filters_and_offloads(kind: Kind) -> None:
    make = DEVICES["net"]
    wanted = (NetFeature.CTRL_VQ, NetFeature.CTRL_RX, NetFeature.CTRL_VLAN)
    source = driven(make, kind, sum(feature.mask for feature in wanted)).device
    assert isinstance(source, VirtioNet)
    source.filter.promisc = True
    source.filter.vlans = {5, 4095}
    source.filter.unicast = frozenset({b"\x52\x54\0\0\0\1"})
    state = save(source).state
    assert state["device.mac"] == source.filter.mac
    assert state["device.filter"] & 1
    assert state["device.vlans"] == (1 << 5 | 1 << 4095).to_bytes(512, "little")
    device = load(save(source).data, make)
    assert isinstance(device, VirtioNet)
    assert vars(device.filter) == vars(source.filter)


@every_kind
@pytest.mark.parametrize("multi", [False, True])
def test_several_queue_pairs(kind: Kind, multi: bool) -> None:
    """The third queue is a larger one when the driver uses them."""

    def make(host: FakeHost) -> VirtioDevice:
        return VirtioNet("net", host, NetOptions(mq=True, queue_pairs=2), FakeBackend())

    features = NetFeature.CTRL_VQ.mask | (NetFeature.MQ.mask if multi else 0)
    source = driven(make, kind, features).device
    assert isinstance(source, VirtioNet)
    source.queue_pairs = 2 if multi else 1
    device = load(save(source).data, make, ram_of(source))
    assert isinstance(device, VirtioNet)
    assert [queue.size for queue in device.queues] == [queue.size for queue in source.queues]
    assert device.queue_pairs == source.queue_pairs


@every_kind
def test_balloon_keeps_its_size(kind: Kind) -> None:
    make = DEVICES["balloon"]
    source = driven(make, kind).device
    assert isinstance(source, VirtioBalloon)
    source.num_pages, source.actual_pages = 100, 60
    saved = save(source)
    assert (saved.state["device.num_pages"], saved.state["device.actual"]) == (100, 60)
    assert saved.state["config"][:8] == struct.pack("<II", 100, 60)  # for every driver
    device = load(saved.data, make)
    assert isinstance(device, VirtioBalloon)
    assert device.actual == source.actual


def console(kind: Kind) -> MockDriver:
    """A console whose driver has all ports, and port 3 open."""
    driver = driven(DEVICES["console"], kind, MULTIPORT)
    for _ in range(12):
        driver.submit(CONTROL_RECEIVE, (), [64])
    control(driver, 0, Event.DEVICE_READY)
    for nr in (0, 1, 3):
        control(driver, nr, Event.PORT_READY)
    control(driver, 3, Event.PORT_OPEN)
    return driver


def control(driver: MockDriver, port: int, event: Event) -> None:
    driver.submit(CONTROL_TRANSMIT, [driver.pack("IHH", port, event, 1)])


def ports_of(saved: Saved) -> dict[int, tuple[Any, ...]]:
    """nr: (ready, guest and host connected, offset, input)."""
    take = Bytes(saved.state["device.ports"])
    found = {}
    while take.at < take.end:
        nr = take.number(4)
        flags = tuple(take.number(1) for _ in range(3))
        offset, size = take.number(4), take.number(4)
        found[nr] = (*flags, offset, take.take(size))
    return found


@every_kind
def test_console_keeps_its_ports_and_their_input(kind: Kind) -> None:
    driver = console(kind)
    assert isinstance(driver.device, VirtioSerial)
    chardev = driver.device.ports[3].config.chardev
    assert isinstance(chardev, MemoryChardev)
    chardev.send(b"typed")
    saved = save(driver.device)
    assert ports_of(saved) == {
        0: (1, 0, 1, 0, b""),
        1: (1, 0, int(driver.device.ports[1].host_connected), 0, b""),
        3: (1, 1, int(driver.device.ports[3].host_connected), 0, b"typed"),
    }
    device = load(saved.data, DEVICES["console"], ram_of(driver.device))
    assert ports_of(save(device)) == ports_of(saved)


@pytest.mark.parametrize(
    ("ports", "why"),
    [
        ((0, 1), "there is no port 3 here"),
        ((0, 1, 2, 3), "the source has no port 2"),
        ((0, 2, 3), "there is no port 1 here"),
    ],
)
def test_other_ports_are_named(ports: tuple[int, ...], why: str) -> None:
    data = save(console(KINDS[1]).device).data
    with pytest.raises(MigrationError, match=why):
        load(data, lambda host: serial(host, ports))


def test_doubled_port_is_refused() -> None:
    driver = console(KINDS[0])
    port = struct.pack(">IBBBII", 0, 1, 0, 1, 0, 0)
    saved = save(driver.device)
    ports = saved.state["device.ports"]
    old = struct.pack(">I", len(ports)) + ports
    assert old in saved.data
    new = struct.pack(">I", len(ports) + len(port)) + ports + port
    with pytest.raises(MigrationError, match="port 0 comes twice"):
        load(saved.data.replace(old, new), DEVICES["console"])


def test_console_with_another_number_of_ports_is_refused() -> None:
    """The number of queues says so."""
    data = save(console(KINDS[0]).device).data
    with pytest.raises(MigrationError, match="num_queues: 12 at the source, 6 at this machine"):
        load(data, lambda host: VirtioSerial("serial", host, SerialOptions(max_ports=2)))


@every_kind
def test_output_that_did_not_fit_is_not_doubled(kind: Kind) -> None:
    """The part that is out stays known; the buffer goes back to the queue."""
    driver = console(kind)
    assert isinstance(driver.device, VirtioSerial)
    port = driver.device.ports[3]
    port.output = Narrow()  # type: ignore[assignment]
    queue = 2 + 2 * 3 + 1
    token = driver.submit(queue, [b"0123456789"])
    assert driver.used(queue) == []
    assert bytes(port.output.taken) == b"0123"  # type: ignore[union-attr]
    moved(driver, DEVICES["console"])
    assert isinstance(driver.device, VirtioSerial)
    port = driver.device.ports[3]
    driver.device.resume()
    assert port.output is not None
    port.output.flush(20)
    assert [used[0] for used in driver.used(queue)] == [token]
    assert isinstance(port.config.chardev, MemoryChardev)
    assert port.config.chardev.text == "456789"


class Narrow:
    """A host that takes four bytes."""

    def __init__(self) -> None:
        self.taken = bytearray()

    def space(self) -> int:
        return 4 - len(self.taken)

    def put(self, data: bytes | memoryview) -> None:
        self.taken += data

    def close(self) -> None:
        """Nothing to close."""
