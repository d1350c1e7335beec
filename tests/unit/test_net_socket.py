"""Socket and tap back ends: frames between two of them, peers that go, come and misbehave."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from devices.net import tap
from devices.net.base import MAX_FRAME, NetBackend
from devices.net.config import (
    DgramNetConfig,
    NetdevConfig,
    SocketAddress,
    SocketNetConfig,
    StreamNetConfig,
    TapConfig,
    open_netdev,
)
from devices.net.dgram import DatagramBackend
from devices.net.stream import FrameDecoder, StreamBackend
from emu.chardev.config import ConfigError
from emu.events import EventLoop
from tests.unit.net_tools import Inbox, frame_of


class Net:
    """An event loop, and back ends that are closed at the end."""

    def __init__(self) -> None:
        self.loop = EventLoop()
        self.loop.start()
        self.backends: list[NetBackend] = []

    def open(self, config: NetdevConfig) -> tuple[NetBackend, Inbox]:
        """Open a back end with an inbox."""
        return self.keep(open_netdev(config, self.loop))

    def keep(self, backend: NetBackend) -> tuple[NetBackend, Inbox]:
        """Give a back end an inbox."""
        self.backends.append(backend)
        inbox = Inbox()
        backend.set_receiver(inbox)
        return backend, inbox


@pytest.fixture
def net() -> Iterator[Net]:
    """Everything is closed afterwards."""
    one = Net()
    yield one
    for backend in one.backends:
        backend.close()
    one.loop.stop()


def unix(path: Path) -> SocketAddress:
    """A unix socket's address."""
    return SocketAddress(type="unix", path=str(path))


def wait_for(condition: Callable[[], object]) -> None:
    """Wait at most ten seconds."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def free_port(kind: socket.SocketKind = socket.SOCK_DGRAM) -> int:
    """A port of 127.0.0.1 that nobody uses."""
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def exchange(one: NetBackend, inbox: Inbox, other: NetBackend, other_inbox: Inbox) -> None:
    """Frames in both directions, in order, nothing else."""
    frames = [frame_of(size) for size in (60, 61, 1514, 65000, 14)]
    one.send(frames)
    assert [other_inbox.take() for _ in frames] == frames
    other.send(frames[::-1])
    assert [inbox.take() for _ in frames] == frames[::-1]
    assert inbox.empty()
    assert other_inbox.empty()


def pair(net: Net) -> tuple[StreamBackend, Inbox, StreamBackend, Inbox]:
    """Two connected stream back ends."""
    left, right = socket.socketpair()
    one, inbox = net.keep(StreamBackend("one", net.loop, connected=left))
    other, other_inbox = net.keep(StreamBackend("other", net.loop, connected=right))
    return cast(StreamBackend, one), inbox, cast(StreamBackend, other), other_inbox


# Frames from one to the other


def test_tcp_listen_and_connect(net: Net) -> None:
    server, inbox = net.open(SocketNetConfig(id="a", listen="127.0.0.1:0"))
    assert isinstance(server, StreamBackend)
    port = cast(tuple[str, int], server.local_address)[1]
    client, client_inbox = net.open(SocketNetConfig(id="b", connect=f"127.0.0.1:{port}"))
    wait_for(lambda: server.peer_connected)
    exchange(client, client_inbox, server, inbox)


def test_unix_stream_and_its_name(net: Net, tmp_path: Path) -> None:
    address = unix(tmp_path / "s")
    server, inbox = net.open(StreamNetConfig(id="a", addr=address, server=True))
    client, client_inbox = net.open(StreamNetConfig(id="b", addr=address))
    wait_for(lambda: cast(StreamBackend, server).peer_connected)
    exchange(client, client_inbox, server, inbox)
    server.close()
    assert not (tmp_path / "s").exists()


def test_unix_datagrams(net: Net, tmp_path: Path) -> None:
    a, b = unix(tmp_path / "a"), unix(tmp_path / "b")
    one, inbox = net.open(DgramNetConfig(id="a", local=a, remote=b))
    one.send([frame_of(60)])  # nobody there yet: lost
    other, other_inbox = net.open(DgramNetConfig(id="b", local=b, remote=a))
    exchange(one, inbox, other, other_inbox)
    one.close()
    assert not (tmp_path / "a").exists()


def test_udp(net: Net) -> None:
    ports = free_port(), free_port()
    one, inbox = net.open(
        SocketNetConfig(id="a", udp=f"127.0.0.1:{ports[1]}", localaddr=f"127.0.0.1:{ports[0]}")
    )
    remote = SocketAddress(type="inet", host="127.0.0.1", port=ports[0])
    local = SocketAddress(type="inet", host="127.0.0.1", port=ports[1])
    other, other_inbox = net.open(DgramNetConfig(id="b", local=local, remote=remote))
    exchange(one, inbox, other, other_inbox)


def test_multicast_reaches_all_members(net: Net) -> None:
    group = f"230.0.0.1:{free_port()}"
    try:
        members = [
            net.open(SocketNetConfig(id="a", mcast=group, localaddr="127.0.0.1")) for _ in range(3)
        ]
    except ConfigError as error:
        pytest.skip(f"no multicast here: {error}")
    members[0][0].send([frame_of(60)])
    assert [inbox.take() for _, inbox in members] == [frame_of(60)] * 3


def test_open_descriptors(net: Net) -> None:
    left, right = socket.socketpair()
    one, inbox = net.open(SocketNetConfig(id="a", fd=left.detach()))
    address = SocketAddress(type="fd", fd=right.detach())
    other, other_inbox = net.open(StreamNetConfig(id="b", addr=address))
    exchange(one, inbox, other, other_inbox)
    left, right = socket.socketpair(type=socket.SOCK_DGRAM)
    one, inbox = net.open(SocketNetConfig(id="a", fd=left.detach()))
    address = SocketAddress(type="fd", fd=right.detach())
    other, other_inbox = net.open(DgramNetConfig(id="b", local=address))
    assert isinstance(other, DatagramBackend)
    exchange(one, inbox, other, other_inbox)


def test_frames_of_one_read_come_as_one_batch(net: Net) -> None:
    one, _, other, inbox = pair(net)
    other.pause()
    one.send([frame_of(60)] * 50)
    other.resume()
    wait_for(lambda: sum(inbox.batches) == 50)
    assert inbox.batches == [50]


# The wire


def test_format_is_qemus(net: Net) -> None:
    left, right = socket.socketpair()
    backend, inbox = net.keep(StreamBackend("a", net.loop, connected=left))
    backend.send([frame_of(60), frame_of(300)])
    expected = b"\0\0\0\x3c" + frame_of(60) + b"\0\0\x01\x2c" + frame_of(300)
    assert right.recv(1000) == expected
    for byte in expected:  # in the smallest pieces
        right.send(bytes((byte,)))
    assert [inbox.take(), inbox.take()] == [frame_of(60), frame_of(300)]
    right.close()


def test_decoder_at_every_cut() -> None:
    frames = [frame_of(20), frame_of(21)]
    data = b"".join(struct.pack(">I", len(frame)) + frame for frame in frames)
    for cut in range(len(data) + 1):
        decoder = FrameDecoder()
        assert decoder.feed(data[:cut]) + decoder.feed(data[cut:]) == frames
    assert FrameDecoder().feed(bytes(400)) == []  # frames of nothing
    with pytest.raises(ValueError, match="frame of"):
        FrameDecoder().feed(struct.pack(">I", MAX_FRAME + 1))


# Peers that go, come, and misbehave


def test_oversized_frame_ends_the_connection_and_the_next_peer_is_welcome(
    net: Net, tmp_path: Path
) -> None:
    path = tmp_path / "s"
    server, inbox = net.open(StreamNetConfig(id="a", addr=unix(path), server=True))
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))
            peer.sendall(b"\0\0\0\x3c" + frame_of(60))
            assert inbox.take() == frame_of(60)
            peer.sendall(b"\xff\xff\xff\xff")
            assert peer.recv(10) == b""
    wait_for(lambda: not cast(StreamBackend, server).peer_connected)
    server.send([frame_of(60)])  # nobody there: dropped


def test_partial_frame_of_a_lost_peer_is_forgotten(net: Net, tmp_path: Path) -> None:
    path = tmp_path / "s"
    _, inbox = net.open(StreamNetConfig(id="a", addr=unix(path), server=True))
    for data in (b"\0\0\0\x3c" + frame_of(30), b"\0\0\0\x3d" + frame_of(61)):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(path))
            peer.sendall(data)
    assert inbox.take() == frame_of(61)


def test_client_reconnects(net: Net, tmp_path: Path) -> None:
    path = tmp_path / "s"
    config = StreamNetConfig(id="b", addr=unix(path), reconnect=0.01)
    client, inbox = net.open(config)
    for _ in range(3):
        server, server_inbox = net.open(StreamNetConfig(id="a", addr=unix(path), server=True))
        wait_for(lambda: cast(StreamBackend, client).peer_connected)
        exchange(client, inbox, server, server_inbox)
        server.close()
        wait_for(lambda: not cast(StreamBackend, client).peer_connected)


def test_slow_peer_gets_whole_frames_in_order_and_the_rest_is_dropped(net: Net) -> None:
    one, _, other, inbox = pair(net)
    other.pause()
    sent = [struct.pack(">I", n) + frame_of(8996) for n in range(1500)]  # 13 MB
    for at in range(0, len(sent), 10):
        one.send(sent[at : at + 10])  # never blocks
    other.resume()
    numbers: list[int] = []
    while len(numbers) < 400:
        frame = inbox.take()
        numbers.append(int.from_bytes(frame[:4], "big"))
        assert frame == sent[numbers[-1]]
    assert numbers == list(range(400))
    wait_for(lambda: not one._backlog)
    assert sum(inbox.batches) < 1500
    one.send([frame_of(60)])
    inbox.take(lambda frame: frame == frame_of(60))


def test_peer_that_goes_while_frames_wait(net: Net) -> None:
    left, right = socket.socketpair()
    backend, _ = net.keep(StreamBackend("a", net.loop, connected=left))
    stream = cast(StreamBackend, backend)
    for _ in range(100):
        stream.send([frame_of(60000)])
    assert stream._backlog
    stream.pause()
    right.close()
    wait_for(lambda: not stream.peer_connected)


def test_paused_back_end_does_not_read(net: Net) -> None:
    one, _, other, inbox = pair(net)
    other.pause()
    one.send([frame_of(60)])
    time.sleep(0.05)
    assert inbox.empty()
    other.resume()
    assert inbox.take() == frame_of(60)


def test_link_down_drops_both_ways(net: Net) -> None:
    one, inbox, other, other_inbox = pair(net)
    one.set_link(False)
    one.send([frame_of(60)])
    other.send([frame_of(61)])
    time.sleep(0.05)
    assert inbox.empty()
    one.set_link(True)
    exchange(one, inbox, other, other_inbox)


def test_nothing_comes_after_close(net: Net) -> None:
    one, inbox, other, _ = pair(net)
    one.close()
    one.close()
    one.send([frame_of(60)])
    other.send([frame_of(60)])
    wait_for(lambda: not other.peer_connected)
    assert inbox.empty()


# Refusals


def test_refused_connection_is_one_line(net: Net, tmp_path: Path) -> None:
    port = free_port(socket.SOCK_STREAM)
    with pytest.raises(ConfigError) as caught:
        net.open(SocketNetConfig(id="a", connect=f"127.0.0.1:{port}"))
    assert str(caught.value) == f"Failed to connect to 'tcp:127.0.0.1:{port}': Connection refused"
    missing = tmp_path / "no"
    with pytest.raises(ConfigError) as caught:
        net.open(StreamNetConfig(id="a", addr=unix(missing)))
    assert str(caught.value) == f"Failed to connect to 'unix:{missing}': No such file or directory"


def test_address_in_use_and_files_in_the_way(net: Net, tmp_path: Path) -> None:
    server, _ = net.open(SocketNetConfig(id="a", listen="127.0.0.1:0"))
    port = cast(tuple[str, int], cast(StreamBackend, server).local_address)[1]
    with pytest.raises(ConfigError, match="Address already in use"):
        net.open(SocketNetConfig(id="b", listen=f"127.0.0.1:{port}"))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="Address already in use"):
        net.open(StreamNetConfig(id="a", addr=unix(tmp_path / "file"), server=True))
    assert (tmp_path / "file").read_text() == "mine"


def test_descriptors_that_are_no_sockets(net: Net) -> None:
    with pytest.raises(ConfigError, match="a: Can't use file descriptor 2000000000: Bad file desc"):
        net.open(SocketNetConfig(id="a", fd=2000000000))


# Tap


def test_tap_without_permission_is_one_line(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ConfigError) as caught:
        net.open(TapConfig(id="a", ifname="tap0"))
    assert str(caught.value) == "could not open /dev/net/tun: Permission denied"


def test_tap_descriptor_that_is_none(net: Net) -> None:
    reading, writing = os.pipe()
    with pytest.raises(ConfigError, match="Can't use file descriptor"):
        net.open(TapConfig(id="a", fd=reading))
    os.close(reading)
    os.close(writing)


def test_tap_moves_frames(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = socket.socketpair(type=socket.SOCK_SEQPACKET)
    monkeypatch.setattr(tap, "_adopt", lambda fd: (fd, "tap0", False))
    backend, inbox = net.open(TapConfig(id="a", fd=left.detach()))
    backend.send([frame_of(60), frame_of(61)])
    assert [right.recv(2000), right.recv(2000)] == [frame_of(60), frame_of(61)]
    backend.pause()
    right.send(frame_of(62))
    time.sleep(0.05)
    assert inbox.empty()
    backend.resume()
    assert inbox.take() == frame_of(62)
    right.close()


def test_real_tap_interface(net: Net) -> None:
    try:
        backend, _ = net.open(TapConfig(id="a"))
    except ConfigError as error:
        pytest.skip(str(error))
    assert isinstance(backend, tap.TapBackend)
    assert backend.ifname.startswith("tap")
    backend.set_offload(csum=True, tso4=True, tso6=True, ecn=True, ufo=True)
    backend.send([bytes(10) + frame_of(60)])
