"""User-mode network: a guest made of frames talks to libslirp and to sockets of this host."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from devices.net import slirp
from devices.net.config import UserNetConfig
from devices.net.user import UserBackend
from devices.virtio.net_header import Gso, HeaderFlag, NetHeader
from devices.virtio.net_options import NetFeature
from emu.chardev.config import ConfigError
from emu.events import EventLoop
from tests.unit.net_tools import (
    GUEST_MAC,
    Inbox,
    NetGuest,
    address,
    icmp_echo,
    internet_checksum,
    make,
    pseudo,
    tcp,
    udp,
)

try:
    slirp.Library()
except ConfigError as error:
    pytest.skip(str(error), allow_module_level=True)

GUEST, GATEWAY = "10.0.2.15", "10.0.2.2"
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


class UserGuest:
    """A back end, and what a guest does with it by hand."""

    def __init__(self, backend: UserBackend) -> None:
        self.backend = backend
        self.inbox = Inbox()
        backend.set_receiver(self.inbox)
        self.gateway_mac = b"\xff" * 6

    def send(self, packet: bytes, kind: int = 0x0800) -> None:
        """Send a packet to the gateway."""
        self.backend.send([self.gateway_mac + GUEST_MAC + kind.to_bytes(2, "big") + packet])

    def arp(self, command: int, target: str, target_mac: bytes = bytes(6)) -> None:
        """An ARP request (1) or reply (2)."""
        start = struct.pack(">HHBBH", 1, 0x0800, 6, 4, command)
        self.send(start + GUEST_MAC + address(GUEST) + target_mac + address(target), 0x0806)

    def resolve(self) -> None:
        """Find the gateway; the answer is there at once."""
        self.arp(1, GATEWAY)
        reply = self.inbox.frames.get_nowait()
        assert reply[12:14] == b"\x08\x06"
        assert reply[20:22] == b"\0\2"
        assert reply[28:32] == address(GATEWAY)
        self.gateway_mac = reply[22:28]

    def take(self, protocol: int) -> tuple[bytes, bytes]:
        """The next packet of a protocol: its IPv4 header and payload, checksums verified."""

        def wanted(frame: bytes) -> bool:
            if frame[12:14] == b"\x08\x06" and frame[20:22] == b"\0\1":
                self.arp(2, GATEWAY, frame[22:28])  # who is 10.0.2.15?
                self.gateway_mac = frame[22:28]
            return frame[12:14] == b"\x08\x00" and frame[23] == protocol

        packet = self.inbox.take(wanted)[14:]
        length = int.from_bytes(packet[2:4], "big")
        header, payload = packet[:20], packet[20:length]
        assert internet_checksum(header) == 0
        if protocol != 1:
            ends = socket.inet_ntoa(header[12:16]), socket.inet_ntoa(header[16:20])
            assert internet_checksum(pseudo(protocol, *ends, len(payload)) + payload) == 0
        return header, payload


class Connection:
    """A TCP connection of the guest, without retransmission."""

    def __init__(self, guest: UserGuest, local: int, remote: int) -> None:
        self.guest, self.ports = guest, (local, remote)
        self.sequence, self.next = 1000, 0

    def send(self, flags: int, data: bytes = b"") -> None:
        """Send a segment."""
        packet = tcp(GUEST, GATEWAY, self.ports, (self.sequence, self.next), flags, data)
        self.guest.send(packet)
        self.sequence += len(data) + bool(flags & (SYN | FIN))

    def take(self) -> tuple[int, bytes]:
        """The next segment: flags and data; what is in order is acknowledged."""
        while True:
            segment = self.guest.take(6)[1]
            remote, local, sequence, _, offset, flags = struct.unpack_from(">HHIIBB", segment)
            if (local, remote) != self.ports:
                continue
            data = segment[offset >> 4 << 2 :]
            if flags & SYN:
                self.next = sequence
            if sequence != self.next:
                continue  # seen before
            self.next += len(data) + bool(flags & (SYN | FIN))
            if data or flags & (SYN | FIN):
                if not (flags & SYN and not flags & ACK):
                    self.send(ACK)
                return flags, data

    def connect(self) -> None:
        """The three-way handshake."""
        self.send(SYN)
        flags, _ = self.take()
        assert flags & (SYN | ACK) == SYN | ACK

    def read(self, size: int) -> bytes:
        """That many bytes."""
        data = b""
        while len(data) < size:
            data += self.take()[1]
        return data


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    """An event loop."""
    one = EventLoop()
    one.start()
    yield one
    one.stop()


@contextlib.contextmanager
def user(loop: EventLoop, **values: object) -> Iterator[UserGuest]:
    """A guest in a network."""
    backend = UserBackend(UserNetConfig(id="net0", **values), loop)  # type: ignore[arg-type]
    try:
        yield UserGuest(backend)
    finally:
        backend.close()


def read_all(peer: socket.socket, size: int) -> bytes:
    """That many bytes of a host's socket."""
    data = b""
    while len(data) < size:
        piece = peer.recv(65536)
        assert piece
        data += piece
    return data


def test_arp_and_ping_are_answered_before_send_returns(loop: EventLoop) -> None:
    with user(loop) as guest:
        guest.resolve()
        for number in range(100):
            guest.send(icmp_echo(GUEST, GATEWAY, number, b"ping" * 10))
            reply = guest.inbox.frames.get_nowait()
            assert reply[34:36] == b"\0\0"
            assert reply[38:] == struct.pack(">HH", 77, number) + b"ping" * 10


def test_dhcp_tells_the_options(loop: EventLoop) -> None:
    values = {"net": "192.168.5.0/24", "hostname": "guest7", "domainname": "example.org"}
    with user(loop, **values, dnssearch=("a.example", "b.example"), bootfile="kernel") as guest:
        body = struct.pack(">BBBBIHH", 1, 1, 6, 0, 0x1234, 0, 0) + bytes(16) + GUEST_MAC
        body = body.ljust(236, b"\0") + bytes.fromhex("63825363350101ff")
        guest.send(udp("0.0.0.0", "255.255.255.255", (68, 67), body))
        offer = guest.inbox.frames.get_nowait()[14 + 20 + 8 :]
        assert offer[16:20] == address("192.168.5.15")
        assert offer[108:114] == b"kernel"
        options = dict(parse_dhcp(offer[240:]))
        assert options[53] == b"\2"
        assert options[1] == address("255.255.255.0")
        assert options[3] == address("192.168.5.2")
        assert options[6] == address("192.168.5.3")
        assert options[12] == b"guest7"
        assert options[15] == b"example.org"
        assert b"\1a\7example" in options[119]


def parse_dhcp(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Options of a DHCP message."""
    at = 0
    while at + 1 < len(data) and data[at] != 255:
        if data[at]:
            yield data[at], data[at + 2 : at + 2 + data[at + 1]]
            at += 1 + data[at + 1]
        at += 1


def test_udp_to_a_socket_of_the_host_and_back(loop: EventLoop) -> None:
    with user(loop) as guest, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.settimeout(10)
        server.bind(("127.0.0.1", 0))
        guest.resolve()
        for number in range(20):
            data = b"%d" % number
            guest.send(udp(GUEST, GATEWAY, (1234, server.getsockname()[1]), data))
            received, peer = server.recvfrom(100)
            assert received == data
            server.sendto(data * 2, peer)
            header, payload = guest.take(17)
            assert header[12:16] == address(GATEWAY)
            assert payload[8:] == data * 2


def test_tcp_to_a_socket_of_the_host_with_large_segments(loop: EventLoop) -> None:
    with user(loop) as guest, socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        guest.resolve()
        connection = Connection(guest, 2000, server.getsockname()[1])
        connection.connect()
        peer = server.accept()[0]
        peer.settimeout(10)
        sent = bytes(n * 31 & 0xFF for n in range(30000))
        connection.send(ACK | PSH, sent)  # one segment, 20 times the MTU
        assert read_all(peer, len(sent)) == sent
        peer.sendall(sent)
        assert connection.read(len(sent)) == sent
        peer.close()
        assert connection.take()[0] & FIN


def test_many_connections_at_once(loop: EventLoop) -> None:
    def echo(peer: socket.socket) -> None:
        with peer:
            peer.sendall(read_all(peer, 5))

    with user(loop) as guest, socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        guest.resolve()
        for number in range(20):
            connection = Connection(guest, 3000 + number, server.getsockname()[1])
            connection.connect()
            threading.Thread(target=echo, args=(server.accept()[0],), daemon=True).start()
            connection.send(ACK | PSH, b"hello")
            assert connection.read(5) == b"hello"


def test_port_of_the_host_leads_to_the_guest(loop: EventLoop) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    rules = (f"tcp:127.0.0.1:{port}-:22", f"udp:127.0.0.1:{port}-:53")
    with user(loop, hostfwd=rules) as guest, socket.socket() as client:
        client.settimeout(10)
        client.connect(("127.0.0.1", port))
        segment = guest.take(6)[1]
        source, destination, sequence = struct.unpack_from(">HHI", segment)
        assert destination == 22
        connection = Connection(guest, 22, source)
        connection.next = sequence + 1
        connection.send(SYN | ACK)
        client.sendall(b"from the host")
        assert connection.read(13) == b"from the host"
        connection.send(ACK | PSH, b"from the guest")
        assert read_all(client, 14) == b"from the guest"
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"query", ("127.0.0.1", port))
            payload = guest.take(17)[1]
            assert payload[2:4] == b"\0\x35"
            assert payload[8:] == b"query"


def test_forwarding_rule_that_cannot_be_set_up(loop: EventLoop) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        rule = f"tcp:127.0.0.1:{server.getsockname()[1]}-:22"
        with pytest.raises(ConfigError) as caught:
            UserBackend(UserNetConfig(id="n", hostfwd=(rule,)), loop)
    assert str(caught.value) == f"Could not set up host forwarding rule '{rule}'"


def test_restricted_guest_does_not_reach_the_host(loop: EventLoop) -> None:
    with user(loop, restrict=True) as guest, socket.create_server(("127.0.0.1", 0)) as server:
        guest.resolve()
        connection = Connection(guest, 2000, server.getsockname()[1])
        connection.send(SYN)
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()


def test_tftp_serves_files(loop: EventLoop, tmp_path: Path) -> None:
    (tmp_path / "kernel").write_bytes(b"vmlinux")
    with user(loop, tftp=str(tmp_path)) as guest:
        guest.resolve()
        guest.send(udp(GUEST, GATEWAY, (4000, 69), b"\0\1kernel\0octet\0"))
        assert guest.take(17)[1][8:] == b"\0\3\0\1vmlinux"


def test_paused_network_leaves_data_in_the_sockets(loop: EventLoop) -> None:
    with user(loop) as guest, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.settimeout(10)
        server.bind(("127.0.0.1", 0))
        guest.resolve()
        guest.send(udp(GUEST, GATEWAY, (1234, server.getsockname()[1]), b"hello"))
        _, peer = server.recvfrom(100)
        guest.backend.pause()
        threading.Event().wait(0.05)  # the thread hears of it
        server.sendto(b"later", peer)
        threading.Event().wait(0.1)
        assert guest.inbox.empty()
        guest.backend.resume()
        assert guest.take(17)[1][8:] == b"later"


def test_garbage_does_no_harm(loop: EventLoop) -> None:
    with user(loop) as guest:
        guest.resolve()
        good = guest.gateway_mac + GUEST_MAC + b"\x08\x00"
        good += tcp(GUEST, GATEWAY, (1, 2), (3, 4), ACK, b"x" * 100)
        frames = [good[:size] for size in range(len(good))]
        frames += [good[:at] + b"\xff" + good[at + 1 :] for at in range(14, len(good))]
        guest.backend.send([*frames, bytes(70000), bytes(100000)])
        guest.send(icmp_echo(GUEST, GATEWAY, 1, b"alive"))
        guest.inbox.take(lambda frame: frame.endswith(b"alive"))


def test_link_down_and_close(loop: EventLoop) -> None:
    with user(loop) as guest:
        guest.resolve()
        guest.backend.set_link(False)
        guest.send(icmp_echo(GUEST, GATEWAY, 1, b"x"))
        assert guest.inbox.empty()
        guest.backend.set_link(True)
        guest.backend.close()
        guest.send(icmp_echo(GUEST, GATEWAY, 1, b"x"))
        assert guest.inbox.empty()


def test_missing_library_is_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        slirp.Library("libslirp-none.so")
    expected = "network backend 'user' needs libslirp.so.0 (Debian package libslirp0)"
    assert str(caught.value) == expected


def test_device_and_user_network_together(loop: EventLoop) -> None:
    """A ping through the rings, and a large segment whose checksum the device completes."""
    backend = UserBackend(UserNetConfig(id="net0"), loop)
    device, host = make(backend=backend)
    driver = NetGuest(device, host, features=[NetFeature.CSUM, NetFeature.HOST_TSO4])
    driver.give(*[2048] * 50)
    ethernet = b"\x52\x55\x0a\x00\x02\x02" + GUEST_MAC + b"\x08\x00"
    driver.send(ethernet + icmp_echo(GUEST, GATEWAY, 1, b"ring"))
    replies = driver.frames()  # first the question who we are
    assert [frame[12:14] for frame in replies] == [b"\x08\x06"]
    start = struct.pack(">HHBBH", 1, 0x0800, 6, 4, 2) + GUEST_MAC + address(GUEST)
    reply = replies[0][22:28] + GUEST_MAC + b"\x08\x06" + start + replies[0][22:32]
    driver.send(reply)
    assert driver.frames()[-1].endswith(b"ring")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)
        ports = 5000, server.getsockname()[1]
        driver.send(ethernet + tcp(GUEST, GATEWAY, ports, (1, 0), SYN))
        peer = server.accept()[0]
        answer = b""
        while not answer:
            host.run()
            answer = next((f for f in driver.frames() if f[23] == 6), b"")
        sequence = 2, int.from_bytes(answer[38:42], "big") + 1
        driver.send(ethernet + tcp(GUEST, GATEWAY, ports, sequence, ACK))
        data = bytes(range(256)) * 200
        part = tcp(GUEST, GATEWAY, ports, sequence, ACK | PSH, data, complete=False)
        header = NetHeader(HeaderFlag.NEEDS_CSUM, Gso.TCPV4, 54, 1448, 34, 16)
        driver.send(ethernet + part, header)
        assert read_all(peer, len(data)) == data
    device.close()


def test_names_of_any_bytes(loop: EventLoop, tmp_path: Path) -> None:
    folder = tmp_path / "\udcff"
    folder.mkdir()
    names = {"hostname": "\udcfe", "domainname": "\udcfe", "bootfile": "\udcfe"}
    with user(loop, tftp=str(folder), dnssearch=("\udcfe",), **names) as guest:
        guest.resolve()


def test_tftp_needs_a_directory(loop: EventLoop, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(ConfigError, match="TFTP: not a directory"):
        UserBackend(UserNetConfig(id="n", tftp=str(gone)), loop)
