"""The virtio network device: headers, receive, transmit, queues, configuration space."""

from __future__ import annotations

import struct

import pytest

from devices.virtio.constants import Feature, Status
from devices.virtio.net_header import Gso, HeaderFlag, NetHeader
from devices.virtio.net_options import MacPool, NetFeature, NetOptions, parse_mac
from devices.virtio.net_receive import WAITING_LIMIT
from emu.chardev.config import ConfigError
from emu.memory.endian import GuestEndian
from tests.unit.net_tools import (
    GUEST_MAC,
    FakeBackend,
    NetGuest,
    frame_of,
    internet_checksum,
    ipv4,
    make,
    pseudo,
    tcp,
)

KINDS = [
    pytest.param(GuestEndian.BIG, False, id="legacy-be"),
    pytest.param(GuestEndian.LITTLE, False, id="legacy-le"),
    pytest.param(GuestEndian.BIG, True, id="modern-be"),
    pytest.param(GuestEndian.LITTLE, True, id="modern-le"),
]
both = pytest.mark.parametrize(("endian", "modern"), KINDS)
F = NetFeature


# Header sizes and byte orders


@both
@pytest.mark.parametrize("merge", [False, True])
def test_receive_header_has_the_guests_size_and_order(
    endian: GuestEndian, modern: bool, merge: bool
) -> None:
    backend = FakeBackend(headers=True)
    device, host = make(backend=backend)
    features = [F.GUEST_CSUM, F.GUEST_TSO4, *([F.MRG_RXBUF] if merge else [])]
    guest = NetGuest(device, host, endian, modern, features)
    guest.give(2048)
    frame = frame_of(100)
    host_header = NetHeader(HeaderFlag.NEEDS_CSUM, Gso.TCPV4, 0x0102, 0x0304, 0x0506, 0x0708)
    backend.deliver([host_header.pack("=") + frame])
    host.run()
    (data,) = guest.received()
    size = 12 if modern or merge else 10
    assert len(data) == size + len(frame)
    fields = struct.unpack_from(guest.order + "BBHHHH", data)
    assert fields == (1, 1, 0x0102, 0x0304, 0x0506, 0x0708)
    if size == 12:
        assert data[10:12] == guest.pack("H", 1)
    assert data[size:] == frame


@both
def test_transmit_header_is_read_in_the_guests_order(endian: GuestEndian, modern: bool) -> None:
    backend = FakeBackend(headers=True)
    device, host = make(backend=backend)
    guest = NetGuest(device, host, endian, modern, [F.CSUM, F.HOST_TSO4])
    header = NetHeader(HeaderFlag.NEEDS_CSUM, Gso.TCPV4, 0x36, 1448, 34, 16)
    guest.send(frame_of(3000), header)
    assert backend.sent == [header.pack("=") + frame_of(3000)]
    assert [written for _, written in guest.used(1)] == [0]


@both
@pytest.mark.parametrize("pieces", [1, 2])
def test_transmit_in_any_layout(endian: GuestEndian, modern: bool, pieces: int) -> None:
    backend = FakeBackend()
    device, host = make(backend=backend)
    guest = NetGuest(device, host, endian, modern)
    for size in (14, 60, 1514):
        guest.send(frame_of(size), pieces=pieces)
    assert backend.sent == [frame_of(14), frame_of(60), frame_of(1514)]
    assert guest.interrupts.queues == [1, 1, 1]


def test_reset_by_a_guest_of_the_other_order_changes_the_header() -> None:
    backend = FakeBackend(headers=True)
    device, host = make(backend=backend)
    for endian in (GuestEndian.LITTLE, GuestEndian.BIG, GuestEndian.LITTLE):
        guest = NetGuest(device, host, endian, False, [F.CSUM])
        guest.send(frame_of(64), NetHeader(HeaderFlag.NEEDS_CSUM, 0, 0, 0, 34, 16))
        assert NetHeader.unpack(backend.sent[-1], "=").csum_start == 34


# Receive


@both
def test_mergeable_frame_spans_buffers_and_counts_them(endian: GuestEndian, modern: bool) -> None:
    backend = FakeBackend()
    device, host = make(backend=backend)
    guest = NetGuest(device, host, endian, modern, [F.MRG_RXBUF])
    guest.give(128, 128, 128, 128)
    frame = frame_of(300)
    backend.deliver([frame])
    host.run()
    used = guest.used(0)
    assert [written for _, written in used] == [128, 128, 56]  # 312 bytes
    first = host.ram.read(used[0][0][0].address, 12)
    assert first[10:12] == guest.pack("H", 3)
    assert guest.interrupts.queues == [0]  # one for all of them


def test_batch_is_posted_once_and_interrupts_once() -> None:
    backend = FakeBackend()
    device, host = make(backend=backend)
    guest = NetGuest(device, host)
    guest.give(*[2048] * 20)
    frames = [frame_of(60 + n) for n in range(10)]
    backend.deliver(frames[:4])
    backend.deliver(frames[4:])
    assert len(host.posted) == 1
    host.run()
    assert guest.frames() == frames
    assert guest.interrupts.queues == [0]


def test_answer_during_send_arrives_without_posting() -> None:
    backend = FakeBackend()
    device, host = make(backend=backend)
    backend.answer = lambda frame: [frame_of(80)]
    guest = NetGuest(device, host)
    guest.give(2048)
    guest.send(frame_of(60))
    assert guest.frames() == [frame_of(80)]
    assert not host.posted


def test_frame_larger_than_an_unmergeable_buffer_is_dropped_and_the_buffer_kept() -> None:
    backend = FakeBackend()
    device, host = make(backend=backend)
    guest = NetGuest(device, host)
    guest.give(100, 100)
    backend.deliver([frame_of(500), frame_of(60), frame_of(61)])
    host.run()
    assert guest.frames() == [frame_of(60), frame_of(61)]
    assert not device.broken


def test_frames_wait_for_buffers_and_come_in_order() -> None:
    backend = FakeBackend()
    device, host = make(backend=backend)
    guest = NetGuest(device, host, features=[F.MRG_RXBUF])
    guest.give(64)
    frames = [frame_of(200), frame_of(60), frame_of(61)]
    backend.deliver(frames)
    host.run()
    assert guest.received() == []  # one buffer is taken but not enough
    guest.give(64, 64, 64)
    assert guest.frames() == [frames[0]]
    guest.give(128, 128)
    assert guest.frames() == frames[1:]


def test_driver_is_asked_for_notifications_only_while_frames_wait() -> None:
    backend = FakeBackend()
    device, host = make(backend=backend)
    guest = NetGuest(device, host)
    used_flags = guest.rings[0].areas.device

    def unwanted() -> bool:
        return bool(guest.rings[0].get(used_flags, 2))

    guest.give(2048)
    assert unwanted()
    backend.deliver([frame_of(60), frame_of(61)])
    host.run()
    assert not unwanted()
    guest.give(2048, 2048)
    assert unwanted()
    assert len(guest.frames()) == 2


def test_back_pressure_pauses_the_back_end_and_bounds_what_waits() -> None:
    backend = FakeBackend()
    device, host = make(backend=backend)
    guest = NetGuest(device, host)
    for n in range(40):
        backend.deliver([frame_of(60 + n)] * 100)
        host.run()
    assert backend.paused
    assert len(device._receive_queues[0].waiting) <= WAITING_LIMIT
    received = 0
    while device._receive_queues[0].waiting:
        guest.give(*[2048] * 200)
        received += len(guest.received())
    assert 256 <= received <= WAITING_LIMIT
    assert not backend.paused


def test_a_flood_before_the_vcpu_runs_is_bounded() -> None:
    backend = FakeBackend()
    device, host = make(backend=backend)
    NetGuest(device, host)
    for _ in range(100):
        backend.deliver([frame_of(60)] * 100)
    assert backend.paused
    assert len(device._arrived) <= 2048
    assert len(host.posted) == 1


def test_frames_before_the_driver_is_ready_are_dropped() -> None:
    backend = FakeBackend()
    device, host = make(backend=backend)
    backend.deliver([frame_of(60)])
    host.run()
    guest = NetGuest(device, host)
    guest.give(2048)
    assert guest.received() == []


def test_reset_forgets_waiting_frames_and_taken_buffers() -> None:
    backend = FakeBackend()
    device, host = make(backend=backend)
    guest = NetGuest(device, host, features=[F.MRG_RXBUF])
    guest.give(64)
    backend.deliver([frame_of(500)])
    host.run()
    backend.deliver([frame_of(501)])  # posted, then the reset
    guest = NetGuest(device, host)
    host.run()
    guest.give(2048, 2048)
    backend.deliver([frame_of(70)])
    host.run()
    assert guest.frames() == [frame_of(501), frame_of(70)]


def test_link_down_drops_both_ways_and_tells_the_driver() -> None:
    backend = FakeBackend()
    device, host = make(backend=backend)
    guest = NetGuest(device, host, modern=True, features=[F.STATUS])
    guest.give(2048, 2048)
    device.set_link(False)
    assert guest.interrupts.config == 1
    assert device.config_read(6, 2, modern=True) == b"\0\0"
    backend.deliver([frame_of(60)])
    host.run()
    guest.send(frame_of(60))
    assert (guest.received(), backend.sent, len(guest.used(1))) == ([], [], 1)
    device.set_link(True)
    assert device.config_read(6, 2, modern=True) == b"\1\0"
    backend.deliver([frame_of(60)])
    host.run()
    assert guest.frames() == [frame_of(60)]


def test_user_backends_checksums_are_vouched_for_if_the_guest_asks() -> None:
    for features, flags in (((F.GUEST_CSUM,), HeaderFlag.DATA_VALID), ((), 0)):
        backend = FakeBackend(user=True)
        device, host = make(backend=backend)
        guest = NetGuest(device, host, features=features)
        guest.give(2048)
        backend.deliver([frame_of(60)])
        host.run()
        (data,) = guest.received()
        assert data[0] == flags


def test_unfinished_dhcp_reply_of_the_host_is_finished() -> None:
    backend = FakeBackend(headers=True)
    device, host = make(backend=backend)
    guest = NetGuest(device, host, features=[F.GUEST_CSUM])
    guest.give(2048)
    over = pseudo(17, "10.0.0.1", "10.0.0.2", 12)
    partial = ~internet_checksum(over) & 0xFFFF
    segment = struct.pack(">HHHH", 67, 68, 12, partial) + b"dhcp"
    frame = frame_of(14, kind=0x0800) + ipv4(17, "10.0.0.1", "10.0.0.2", segment)
    backend.deliver([NetHeader(HeaderFlag.NEEDS_CSUM, 0, 0, 0, 34, 6).pack("=") + frame])
    host.run()
    (data,) = guest.received()
    assert data[0] == 0
    assert internet_checksum(over + data[10 + 34 :]) == 0


# Transmit


@both
@pytest.mark.parametrize("size", [0, 1, 100, 1447, 1448, 9000, 40001])
def test_checksum_is_completed(endian: GuestEndian, modern: bool, size: int) -> None:
    backend = FakeBackend()
    device, host = make(backend=backend)
    guest = NetGuest(device, host, endian, modern, [F.CSUM])
    ends = ("10.0.0.1", "10.0.0.2")
    data = bytes(n * 13 & 0xFF for n in range(size))
    ethernet = frame_of(14, kind=0x0800)
    partial = ethernet + tcp(*ends, (1000, 80), (1, 2), 0x10, data, complete=False)
    whole = ethernet + tcp(*ends, (1000, 80), (1, 2), 0x10, data)
    guest.send(partial, NetHeader(HeaderFlag.NEEDS_CSUM, 0, 0, 0, 34, 16))
    assert backend.sent == [whole]


@pytest.mark.parametrize(("start", "offset"), [(34, 65535), (65535, 65535), (63, 0), (64, 0)])
def test_checksum_outside_the_frame_drops_it(start: int, offset: int) -> None:
    backend = FakeBackend()
    device, host = make(backend=backend)
    guest = NetGuest(device, host, features=[F.CSUM])
    guest.send(frame_of(64), NetHeader(HeaderFlag.NEEDS_CSUM, 0, 0, 0, start, offset))
    assert backend.sent == []
    assert len(guest.used(1)) == 1
    assert not device.broken


def test_large_segment_goes_whole_to_a_back_end_that_takes_it() -> None:
    backend = FakeBackend(user=True)
    device, host = make(backend=backend)
    guest = NetGuest(device, host, modern=True, features=[F.CSUM, F.HOST_TSO4])
    ends = ("10.0.2.15", "10.0.2.2")
    data = bytes(60000)
    ethernet = frame_of(14, kind=0x0800)
    header = NetHeader(HeaderFlag.NEEDS_CSUM, Gso.TCPV4, 54, 1448, 34, 16)
    partial = ethernet + tcp(*ends, (1000, 80), (1, 2), 0x10, data, complete=False)
    guest.send(partial, header)
    assert backend.sent == [ethernet + tcp(*ends, (1000, 80), (1, 2), 0x10, data)]


@pytest.mark.parametrize("kind", [Gso.TCPV4, Gso.UDP, Gso.TCPV6, 2, 0x7F])
def test_segmentation_that_was_not_negotiated_is_dropped(kind: int) -> None:
    backend = FakeBackend(user=True)
    device, host = make(backend=backend)
    guest = NetGuest(device, host, features=[F.CSUM])
    guest.send(frame_of(3000), NetHeader(0, kind, 54, 1448))
    assert backend.sent == []
    assert not device.broken


@pytest.mark.parametrize("size", [0, 1, 13, 70000])
def test_frames_no_network_has_are_dropped(size: int) -> None:
    backend = FakeBackend()
    device, host = make(backend=backend)
    guest = NetGuest(device, host, modern=True)
    guest.send(frame_of(size), pieces=1)
    assert backend.sent == []
    assert len(guest.used(1)) == 1


@both
def test_transmit_chain_shorter_than_the_header_breaks_the_device(
    endian: GuestEndian, modern: bool
) -> None:
    backend = FakeBackend()
    device, host = make(backend=backend)
    guest = NetGuest(device, host, endian, modern)
    guest.add(1, [guest.buffer(guest.header_size - 1, data=bytes(guest.header_size - 1))])
    assert device.broken
    assert bool(device.status & Status.NEEDS_RESET) == modern
    backend.deliver([frame_of(60)])
    host.run()
    guest = NetGuest(device, host, endian, modern)  # a reset mends it
    guest.send(frame_of(60))
    assert backend.sent == [frame_of(60)]


@pytest.mark.parametrize("features", [[], [F.MRG_RXBUF]])
def test_receive_buffer_shorter_than_the_header_breaks_the_device(
    features: list[NetFeature],
) -> None:
    backend = FakeBackend()
    device, host = make(backend=backend)
    guest = NetGuest(device, host, features=features)
    guest.give(9)
    backend.deliver([frame_of(60)])
    host.run()
    assert device.broken


def test_receive_queue_with_readable_buffers_breaks_the_device() -> None:
    backend = FakeBackend()
    device, host = make(backend=backend)
    guest = NetGuest(device, host)
    guest.add(0, [guest.buffer(100, data=bytes(100))])
    backend.deliver([frame_of(60)])
    host.run()
    assert device.broken


def test_tiny_mergeable_buffers_never_wedge_the_queue() -> None:
    backend = FakeBackend()
    device, host = make(backend=backend)
    guest = NetGuest(device, host, modern=True, features=[F.MRG_RXBUF], size=4)
    guest.give(16, 16, 16, 16)
    backend.deliver([frame_of(1000), frame_of(40)])
    host.run()
    assert guest.frames() == [frame_of(40)]


def test_without_a_back_end_frames_vanish() -> None:
    device, host = make()
    guest = NetGuest(device, host)
    guest.send(frame_of(60))
    assert len(guest.used(1)) == 1


# Features and configuration space


def test_offers_only_what_is_done() -> None:
    def offered(options: NetOptions, backend: FakeBackend | None) -> set[str]:
        device, _ = make(options, backend)
        return {f.name for f in NetFeature if device.device_features & f.mask}

    plain = {
        "CSUM", "MAC", "MRG_RXBUF", "STATUS", "CTRL_VQ", "CTRL_RX", "CTRL_VLAN",
        "CTRL_RX_EXTRA", "GUEST_ANNOUNCE", "CTRL_MAC_ADDR",
    }  # fmt: skip
    user = {"GUEST_CSUM", "CTRL_GUEST_OFFLOADS", "HOST_TSO4", "HOST_TSO6", "HOST_ECN"}
    tap = {"GUEST_TSO4", "GUEST_TSO6", "GUEST_ECN", "GUEST_UFO", "HOST_UFO"}
    assert offered(NetOptions(), None) == plain
    assert offered(NetOptions(), FakeBackend()) == plain
    assert offered(NetOptions(), FakeBackend(user=True)) == plain | user
    assert offered(NetOptions(), FakeBackend(headers=True)) == plain | user | tap
    assert offered(NetOptions(csum=False), FakeBackend(user=True)) == plain - {"CSUM"} | {
        "GUEST_CSUM",
        "CTRL_GUEST_OFFLOADS",
    }
    assert offered(NetOptions(ctrl_vq=False), None) == {"CSUM", "MAC", "MRG_RXBUF", "STATUS"}
    assert offered(NetOptions(host_mtu=9000, speed=1000), None) == plain | {"MTU", "SPEED_DUPLEX"}


@both
def test_configuration_space_in_the_guests_order(endian: GuestEndian, modern: bool) -> None:
    options = NetOptions(
        mac="52:54:00:00:00:07", mq=True, queue_pairs=3, host_mtu=9000, speed=10000, duplex="full"
    )
    device, host = make(options)
    guest = NetGuest(device, host, endian, modern)
    expected = bytes.fromhex("525400000007") + guest.pack("HHHIB", 1, 3, 9000, 10000, 1)
    assert device.config_read(0, 17, modern=modern) == expected


def test_configuration_space_ends_where_the_features_do() -> None:
    device, _ = make(NetOptions(status=False))
    assert device.config_space(GuestEndian.BIG) == GUEST_MAC
    device, _ = make()
    assert len(device.config_space(GuestEndian.BIG)) == 8


def test_legacy_driver_sets_the_address_byte_by_byte() -> None:
    backend = FakeBackend()
    device, host = make(backend=backend)
    guest = NetGuest(device, host)
    for offset, byte in enumerate(bytes.fromhex("525400000102")):
        device.config_write(offset, bytes((byte,)), modern=False)
    assert device.filter.mac == bytes.fromhex("525400000102")
    device.config_write(4, b"\xaa\xbb\xcc\xdd", modern=False)  # runs into the status
    assert device.filter.mac == bytes.fromhex("52540000aabb")
    NetGuest(device, host)
    assert device.filter.mac == GUEST_MAC  # a reset gives the option's back
    assert guest.frames() == []


@pytest.mark.parametrize(
    ("modern", "features"), [(True, []), (False, [F.CTRL_VQ, F.CTRL_MAC_ADDR])]
)
def test_address_is_read_only_otherwise(modern: bool, features: list[NetFeature]) -> None:
    device, host = make()
    NetGuest(device, host, modern=modern, features=features)
    device.config_write(0, b"\1\2\3\4\5\6", modern=modern)
    assert device.filter.mac == GUEST_MAC


# Several queue pairs


@both
def test_control_queue_is_third_without_multiqueue_and_last_with_it(
    endian: GuestEndian, modern: bool
) -> None:
    options = NetOptions(mq=True, queue_pairs=2)
    device, host = make(options, FakeBackend())
    assert [queue.max_size for queue in device.queues] == [256, 256, 256, 256, 64]
    guest = NetGuest(device, host, endian, modern, [F.CTRL_VQ, F.CTRL_RX])
    assert device.queues[2].size == 64
    assert guest.control(0, 0, b"\0", index=2) == 0
    guest = NetGuest(device, host, endian, modern, [F.CTRL_VQ, F.CTRL_RX, F.MQ])
    assert device.queues[2].size == 256
    assert guest.control(0, 0, b"\0", index=4) == 0
    assert guest.control(4, 0, guest.pack("H", 2), index=4) == 0
    assert device.queue_pairs == 2
    for pairs in (0, 3, 0x8000, 0xFFFF):
        assert guest.control(4, 0, guest.pack("H", pairs), index=4) == 1
    assert device.queue_pairs == 2


def test_flow_comes_back_on_the_pair_it_was_sent_on() -> None:
    backend = FakeBackend()
    device, host = make(NetOptions(mq=True, queue_pairs=2), backend)
    guest = NetGuest(device, host, features=[F.CTRL_VQ, F.MQ])
    guest.control(4, 0, guest.pack("H", 2), index=4)
    guest.give(2048, index=0)
    guest.give(2048, index=2)
    ethernet = frame_of(14, kind=0x0800)
    guest.send(ethernet + tcp("10.0.0.1", "10.0.0.2", (1000, 80), (1, 1), 0x10), index=3)
    reply = ethernet + tcp("10.0.0.2", "10.0.0.1", (80, 1000), (1, 1), 0x10)
    other = ethernet + tcp("10.0.0.2", "10.0.0.1", (81, 1000), (1, 1), 0x10)
    backend.deliver([reply, other])
    host.run()
    assert guest.frames(2) == [reply]
    assert guest.frames(0) == [other]


# Notifications with event indices; options


def test_event_index_saves_notifications() -> None:
    backend = FakeBackend()
    device, host = make(backend=backend)
    guest = NetGuest(device, host, modern=True, features=[Feature.RING_EVENT_IDX])
    for n in range(5):
        guest.send(frame_of(60 + n))
    assert len(backend.sent) == 5
    assert guest.interrupts.queues == [1]  # used_event stays at 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("52:54:00:12:34", "Property 'mac' doesn't take value '52:54:00:12:34'"),
        ("52:54:00:12:34:5g", "Property 'mac' doesn't take value '52:54:00:12:34:5g'"),
        ("52:54-00:12:34:56", "Property 'mac' doesn't take value '52:54-00:12:34:56'"),
    ],
)
def test_bad_address(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        NetOptions(mac=text)
    assert str(caught.value) == message


def test_addresses_are_counted_up() -> None:
    pool = MacPool()
    pool.reserve(parse_mac("52-54-00-12-34-57"))
    taken = [pool.take() for _ in range(3)]
    assert [mac[-1] for mac in taken] == [0x56, 0x58, 0x59]


@pytest.mark.parametrize("size", [0, 128, 300, 2048])
def test_bad_queue_size(size: int) -> None:
    with pytest.raises(ConfigError, match="must be a power of 2 between 256 and 1024"):
        NetOptions(rx_queue_size=size)


def test_bad_duplex() -> None:
    with pytest.raises(ConfigError, match="'duplex' must be 'half' or 'full'"):
        NetOptions(duplex="both")
