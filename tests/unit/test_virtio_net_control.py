"""The control queue and the receive filter, and what hostile drivers do with both."""

from __future__ import annotations

import random

import pytest

from devices.virtio.constants import Status
from devices.virtio.net_control import ERROR, OK
from devices.virtio.net_filter import ReceiveFilter
from devices.virtio.net_header import checksum, complete_checksum, flow_hash
from devices.virtio.net_options import NetFeature, NetOptions
from emu.memory.endian import GuestEndian
from tests.support.ring_driver import Buffer
from tests.unit.net_tools import (
    GUEST_MAC,
    PEER_MAC,
    FakeBackend,
    NetGuest,
    frame_of,
    internet_checksum,
    make,
    tcp,
)

F = NetFeature
RX, MAC, VLAN, ANNOUNCE, MQ, OFFLOADS = range(6)
ALL = [F.CTRL_VQ, F.CTRL_RX, F.CTRL_RX_EXTRA, F.CTRL_VLAN, F.CTRL_MAC_ADDR, F.GUEST_ANNOUNCE]
BROADCAST = b"\xff" * 6
MULTICAST = bytes.fromhex("01005e000001")
OTHER = bytes.fromhex("525400999999")
orders = pytest.mark.parametrize(
    ("endian", "modern"),
    [
        pytest.param(GuestEndian.BIG, False, id="legacy-be"),
        pytest.param(GuestEndian.LITTLE, False, id="legacy-le"),
        pytest.param(GuestEndian.BIG, True, id="modern"),
    ],
)


def guest_with(
    endian: GuestEndian = GuestEndian.BIG,
    modern: bool = False,
    features: list[NetFeature] | None = None,
    backend: FakeBackend | None = None,
) -> NetGuest:
    """A guest of a device with a control queue."""
    device, host = make(backend=backend or FakeBackend())
    return NetGuest(device, host, endian, modern, ALL if features is None else features)


def passes(guest: NetGuest, destination: bytes, vlan: int | None = None) -> bool:
    """Whether a frame to that address reaches the driver."""
    frame = frame_of(64, destination)
    if vlan is not None:
        frame = frame[:12] + b"\x81\x00" + vlan.to_bytes(2, "big") + frame[12:]
    guest.give(2048)
    backend = guest.device._backend
    assert backend is not None
    backend.deliver([frame])
    guest.host.run()
    return guest.frames() == [frame]


# The filter


def test_everything_passes_until_the_driver_says_otherwise() -> None:
    guest = guest_with()
    assert all(passes(guest, to) for to in (GUEST_MAC, OTHER, MULTICAST, BROADCAST))


def test_modes_follow_the_commands() -> None:
    guest = guest_with()
    off, on = b"\0", b"\1"

    def now() -> list[bool]:
        return [passes(guest, to) for to in (GUEST_MAC, OTHER, MULTICAST, BROADCAST)]

    steps = [
        (0, off, [True, False, False, True]),  # promiscuous
        (1, on, [True, False, True, True]),  # all multicast
        (2, on, [True, True, True, True]),  # all unicast
        (3, on, [True, True, False, True]),  # no multicast
        (4, on, [False, False, False, True]),  # no unicast
        (5, on, [False, False, False, False]),  # no broadcast
        (0, on, [True, True, True, True]),
    ]
    for command, value, expected in steps:
        assert guest.control(RX, command, value) == OK
        assert now() == expected, command
    guest.device.reset()
    guest = NetGuest(guest.device, guest.host)
    assert all(passes(guest, to) for to in (OTHER, MULTICAST, BROADCAST))


@orders
def test_address_tables(endian: GuestEndian, modern: bool) -> None:
    guest = guest_with(endian, modern)
    assert guest.control(RX, 0, b"\0") == OK
    table = guest.pack("I", 2) + OTHER + PEER_MAC + guest.pack("I", 1) + MULTICAST
    assert guest.control(MAC, 0, table) == OK
    assert [passes(guest, to) for to in (OTHER, PEER_MAC, MULTICAST)] == [True] * 3
    assert not passes(guest, OTHER[:5] + b"\0")
    assert not passes(guest, MULTICAST[:5] + b"\0")
    assert guest.control(MAC, 0, guest.pack("II", 0, 0)) == OK
    assert [passes(guest, to) for to in (OTHER, MULTICAST)] == [False] * 2


def test_table_that_overflows_takes_all_of_its_kind() -> None:
    guest = guest_with()
    guest.control(RX, 0, b"\0")
    many = b"".join(OTHER[:5] + bytes((n,)) for n in range(65))
    assert guest.control(MAC, 0, guest.pack("I", 65) + many + guest.pack("I", 0)) == OK
    assert passes(guest, bytes.fromhex("020000000001"))
    assert not passes(guest, MULTICAST)
    table = guest.pack("I", 40) + many[:240] + guest.pack("I", 25) + many[:150]
    assert guest.control(MAC, 0, table) == OK  # 40 fit, 25 more do not
    assert not passes(guest, bytes.fromhex("020000000001"))
    assert passes(guest, MULTICAST)


@orders
def test_address_is_set(endian: GuestEndian, modern: bool) -> None:
    guest = guest_with(endian, modern)
    guest.control(RX, 0, b"\0")
    assert guest.control(MAC, 1, OTHER) == OK
    assert passes(guest, OTHER)
    assert not passes(guest, GUEST_MAC)
    assert guest.device.config_read(0, 6, modern=modern) == OTHER


@orders
def test_vlan_filter(endian: GuestEndian, modern: bool) -> None:
    guest = guest_with(endian, modern)
    guest.control(RX, 0, b"\0")
    assert not passes(guest, GUEST_MAC, vlan=0x123)
    assert guest.control(VLAN, 0, guest.pack("H", 0x123)) == OK
    assert passes(guest, GUEST_MAC, vlan=0x123)
    assert passes(guest, GUEST_MAC, vlan=0xE123)  # priority bits
    assert not passes(guest, GUEST_MAC, vlan=0x124)
    assert guest.control(VLAN, 1, guest.pack("H", 0x123)) == OK
    assert not passes(guest, GUEST_MAC, vlan=0x123)
    assert guest.control(VLAN, 0, guest.pack("H", 4096)) == ERROR


def test_without_vlan_feature_every_vlan_passes() -> None:
    guest = guest_with(features=[F.CTRL_VQ, F.CTRL_RX])
    guest.control(RX, 0, b"\0")
    assert passes(guest, GUEST_MAC, vlan=7)


def test_short_frames_never_pass() -> None:
    assert not any(ReceiveFilter(GUEST_MAC).takes(bytes(size)) for size in range(14))


# Announcements, offloads


def test_announcement_is_asked_for_and_acknowledged() -> None:
    guest = guest_with(modern=True, features=[*ALL, F.STATUS])
    assert guest.control(ANNOUNCE, 0) == ERROR  # nobody asked
    assert guest.device.announce()
    assert guest.interrupts.config == 1
    assert guest.device.config_read(6, 2, modern=True) == b"\3\0"
    assert guest.control(ANNOUNCE, 0) == OK
    assert guest.device.config_read(6, 2, modern=True) == b"\1\0"


def test_announcement_needs_the_feature() -> None:
    guest = guest_with(features=[F.CTRL_VQ])
    assert not guest.device.announce()


@orders
def test_offloads_are_switched(endian: GuestEndian, modern: bool) -> None:
    backend = FakeBackend(headers=True)
    features = [F.CTRL_VQ, F.CTRL_GUEST_OFFLOADS, F.GUEST_CSUM, F.GUEST_TSO4]
    guest = guest_with(endian, modern, features, backend)
    both = F.GUEST_CSUM.mask | F.GUEST_TSO4.mask
    assert backend.offload == {
        "csum": True,
        "tso4": True,
        "tso6": False,
        "ecn": False,
        "ufo": False,
    }
    assert guest.control(OFFLOADS, 0, guest.pack("Q", F.GUEST_CSUM.mask)) == OK
    assert backend.offload["csum"]
    assert not backend.offload["tso4"]
    assert guest.control(OFFLOADS, 0, guest.pack("Q", both | F.GUEST_UFO.mask)) == ERROR
    assert guest.device.guest_offloads == F.GUEST_CSUM.mask


# What hostile or confused drivers do


@pytest.mark.parametrize(
    ("kind", "command", "data"),
    [
        (RX, 0, b""),
        (RX, 6, b"\1"),
        (MAC, 0, b""),
        (MAC, 0, b"\0\0\0\2" + OTHER),
        (MAC, 0, b"\xff\xff\xff\xff" + OTHER * 2),
        (MAC, 0, b"\0\0\0\1" + OTHER),  # second table missing
        (MAC, 0, b"\0\0\0\0\0\0\0\1" + MULTICAST + b"x"),
        (MAC, 0, b"\0\0\0\0\xff\xff\xff\xff"),
        (MAC, 1, OTHER[:5]),
        (MAC, 1, OTHER + b"x"),
        (MAC, 2, OTHER),
        (VLAN, 0, b"\0"),
        (VLAN, 2, b"\0\1"),
        (ANNOUNCE, 1, b""),
        (MQ, 0, b"\0\1"),  # not negotiated
        (OFFLOADS, 0, bytes(8)),
        (6, 0, b""),
        (255, 255, b"x" * 70000),
    ],
)
def test_bad_messages_are_refused_and_change_nothing(kind: int, command: int, data: bytes) -> None:
    guest = guest_with()
    before = repr(guest.device.filter)
    assert guest.control(kind, command, data) == ERROR
    assert repr(guest.device.filter) == before
    assert not guest.device.broken


def test_commands_whose_features_are_not_negotiated_are_refused() -> None:
    guest = guest_with(features=[F.CTRL_VQ])
    for kind, data in ((RX, b"\0"), (MAC, guest.pack("II", 0, 0)), (VLAN, guest.pack("H", 1))):
        assert guest.control(kind, 0, data) == ERROR
    assert guest.control(MAC, 1, OTHER) == ERROR
    guest = guest_with(features=[])
    assert guest.control(RX, 0, b"\0") == ERROR


@pytest.mark.parametrize("modern", [False, True])
@pytest.mark.parametrize(("readable", "writable"), [(1, 1), (0, 1), (3, 0)])
def test_message_without_room_breaks_the_device(modern: bool, readable: int, writable: int) -> None:
    guest = guest_with(modern=modern)
    chain = [guest.buffer(readable, data=bytes(readable))] if readable else []
    chain += [guest.buffer(writable, True)] if writable else []
    guest.add(2, chain)
    assert guest.device.broken
    assert bool(guest.device.status & Status.NEEDS_RESET) == modern


def test_message_in_pieces_of_one_byte() -> None:
    guest = guest_with()
    message = bytes((MAC, 0)) + guest.pack("I", 1) + OTHER + guest.pack("I", 0)
    chain = [guest.buffer(1, data=bytes((byte,))) for byte in message]
    ack = guest.buffer(3, True)
    guest.add(2, [*chain, ack])
    assert guest.host.ram.read(ack.address, 3) == b"\0\xee\xee"
    assert guest.device.filter.unicast == {OTHER}


def test_huge_message_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    guest = guest_with()
    large = guest.buffer(8 << 20, data=bytes((MAC, 0)) + guest.pack("I", 1 << 20))
    ack = guest.buffer(1, True)
    read: list[int] = []
    original = type(guest.host.dma).view

    def view(dma: object, address: int, size: int) -> memoryview:
        read.append(size)
        return original(guest.host.dma, address, size)

    monkeypatch.setattr(type(guest.host.dma), "view", view)
    guest.add(2, [large, ack])
    assert sum(read) < 1000
    assert guest.host.ram.read(ack.address, 1) == b"\0\1"[1:]


def random_chain(guest: NetGuest, rng: random.Random) -> list[Buffer]:
    """Readable buffers, then writable ones."""
    chain = []
    for writable in sorted(rng.random() < 0.5 for _ in range(rng.randint(1, 4))):
        size = rng.choice([1, 2, 9, 10, 12, 14, 60, 2000, 70000])
        data = b"" if writable else rng.randbytes(min(size, 80)).ljust(size, b"\1")
        chain.append(guest.buffer(size, writable, data))
    return chain


@pytest.mark.parametrize("seed", range(8))
def test_random_drivers_never_raise(seed: int) -> None:
    """Random chains on all queues, random frames from the network, random configuration writes."""
    rng = random.Random(seed)
    backend = FakeBackend(headers=seed % 2 == 1, user=seed % 4 == 2)
    backend.answer = lambda frame: [frame] if rng.random() < 0.3 else []
    device, host = make(NetOptions(mq=True, queue_pairs=2), backend)
    for _ in range(30):
        offered = [feature for feature in F if device.device_features & feature.mask]
        modern = rng.random() < 0.5
        features = [feature for feature in offered if modern or feature < 32]
        guest = NetGuest(
            device, host, rng.choice([GuestEndian.BIG, GuestEndian.LITTLE]), modern,
            [feature for feature in features if rng.random() < 0.7], size=16,
        )  # fmt: skip
        for _ in range(40):
            index = rng.randrange(5)
            chain = random_chain(guest, rng)
            head = guest.rings[index].add(chain)
            if head is not None:
                guest._buffers[index][head] = chain
                guest.rings[index].publish()
            device.notify(rng.randrange(7))
            size = rng.choice([10, 24, 70, 1500, 60000])
            backend.deliver([rng.randbytes(10) + bytes(size)])
            device.config_write(rng.randrange(20), rng.randbytes(rng.randint(1, 8)), modern=modern)
            host.run()
            guest.used(index)


# Checksums and flows


def test_checksum_is_rfc_1071s() -> None:
    rng = random.Random(1)
    for size in [*range(70), 1500, 4095, 4096, 4097, 4098, 4099, 4100, 65535]:
        for data in (rng.randbytes(size), bytes(size), b"\xff" * size):
            expected = internet_checksum(data)
            assert checksum(data) % 0xFFFF == expected % 0xFFFF, size
            assert checksum(memoryview(data)) == checksum(data)


def test_checksum_of_zero_is_written_as_ones() -> None:
    assert complete_checksum(b"\0\0\xff\xff", 0, 0) == b"\xff\xff\xff\xff"
    assert complete_checksum(b"\0\0\0", 0, 2) is None


def test_flow_hash_is_the_same_both_ways_and_never_fails() -> None:
    ethernet = frame_of(14, kind=0x0800)
    one = ethernet + tcp("10.0.0.1", "10.0.0.2", (1000, 80), (1, 1), 0x10)
    back = ethernet + tcp("10.0.0.2", "10.0.0.1", (80, 1000), (1, 1), 0x10)
    assert flow_hash(one) == flow_hash(back)
    hashes = {
        flow_hash(ethernet + tcp("10.0.0.1", "10.0.0.2", (port, 80), (1, 1), 0x10))
        for port in range(1000, 1200)
    }
    assert len(hashes) > 100
    for size in range(len(one)):
        assert 0 <= flow_hash(one[:size]) < 256
