"""Character devices on host descriptors: sockets, pseudo terminals, standard input and output."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.chardev import open_chardev
from emu.chardev.pty import PtyChardev
from emu.chardev.socket import SocketChardev
from emu.chardev.stdio import StdioChardev
from emu.config import ConfigError, PtyConfig, SocketConfig
from emu.events import EventLoop
from tests.unit.chardev_tools import (
    PASTE,
    TIMEOUT,
    SmallGuest,
    poll_until,
    read_exactly,
    write_all,
)


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop()
    loop.start()
    yield loop
    loop.stop()


@pytest.fixture(params=["unix", "tcp"])
def server_config(request: pytest.FixtureRequest, tmp_path: Path) -> SocketConfig:
    if request.param == "unix":
        return SocketConfig(id="serial0", server=True, path=str(tmp_path / "s"))
    return SocketConfig(id="serial0", server=True, host="127.0.0.1")


def connect(address: str) -> socket.socket:
    kind, _, rest = address.partition(":")
    if kind == "tcp":
        host, _, port = rest.rpartition(":")
        return socket.create_connection((host, int(port)), timeout=TIMEOUT)
    peer = socket.socket(socket.AF_UNIX)
    peer.settimeout(TIMEOUT)
    peer.connect(rest)
    return peer


def test_server_takes_one_client_after_the_other(
    loop: EventLoop, server_config: SocketConfig
) -> None:
    server = open_chardev(server_config, loop)
    assert isinstance(server, SocketChardev)
    server.write(b"nobody hears this")
    received: list[bytes] = []
    server.set_receiver(lambda data: received.append(data) or len(data))  # type: ignore[func-returns-value]
    for word in (b"one", b"two"):
        with connect(server.address) as client:
            client.sendall(word)
            poll_until(lambda word=word: b"".join(received).endswith(word))  # type: ignore[misc]
            server.write(b"hello " + word)
            assert client.recv(100) == b"hello " + word
        poll_until(lambda: not server.peer_connected)
    address = server.address
    server.close()
    server.close()
    poll_until(lambda: _refused(address))


def _refused(address: str) -> bool:
    try:
        connect(address).close()
    except OSError:
        return True
    return False


def test_socket_input_of_100_kib_arrives_intact(
    loop: EventLoop, server_config: SocketConfig
) -> None:
    server = open_chardev(server_config, loop)
    assert isinstance(server, SocketChardev)
    guest = SmallGuest(server, len(PASTE))
    with connect(server.address) as client:
        client.sendall(PASTE)
        assert guest.result() == PASTE
    server.close()


def test_socket_output_is_complete_and_close_interrupts_it(
    loop: EventLoop, server_config: SocketConfig
) -> None:
    server = open_chardev(server_config, loop)
    assert isinstance(server, SocketChardev)
    with connect(server.address) as client:
        client.settimeout(None)
        poll_until(lambda: server.peer_connected)
        writer = threading.Thread(target=server.write, args=(PASTE * 10,))
        writer.start()
        assert read_exactly(client.fileno(), len(PASTE) * 10) == PASTE * 10
        writer.join(TIMEOUT)
        stuck = threading.Thread(target=server.write, args=(bytes(1 << 26),), daemon=True)
        stuck.start()
        assert client.recv(1)
        server.close()
        stuck.join(TIMEOUT)
        assert not stuck.is_alive()


def test_server_waits_for_its_first_client(
    loop: EventLoop, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "s"
    config = SocketConfig(id="serial0", server=True, wait=True, path=str(path))
    clients: list[socket.socket] = []

    def connect_when_there() -> None:
        poll_until(path.exists)
        with contextlib.suppress(ConnectionRefusedError):
            clients.append(connect(f"unix:{path}"))

    threading.Thread(target=connect_when_there).start()
    server = open_chardev(config, loop)
    assert isinstance(server, SocketChardev)
    assert server.peer_connected
    assert f"waiting for connection on unix:{path}" in capsys.readouterr().err
    server.close()
    for client in clients:
        client.close()


def test_client_connects_or_says_why_not(loop: EventLoop, tmp_path: Path) -> None:
    config = SocketConfig(id="c", path=str(tmp_path / "s"))
    with pytest.raises(ConfigError, match=r"failed to connect to 'unix:.*': No such file"):
        open_chardev(config, loop)
    with pytest.raises(ConfigError, match=r"failed to listen on 'unix:.*': No such file"):
        open_chardev(SocketConfig(path=str(tmp_path / "no" / "s"), server=True), loop)
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ConfigError, match="failed to listen on"):
        open_chardev(SocketConfig(path=str(tmp_path / "file"), server=True), loop)
    assert (tmp_path / "file").read_text() == "precious"


def test_client_reconnects(loop: EventLoop, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    client = open_chardev(SocketConfig(id="c", path=path, reconnect=0.01), loop)
    assert isinstance(client, SocketChardev)
    client.write(b"nobody hears this")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(1)
        listener.settimeout(TIMEOUT)
        for word in (b"one", b"two"):
            peer = listener.accept()[0]
            poll_until(lambda: client.peer_connected)
            client.write(word)
            assert peer.recv(100) == word
            peer.close()
            poll_until(lambda: not client.peer_connected)
    client.close()


def test_pty(loop: EventLoop, capsys: pytest.CaptureFixture[str]) -> None:
    chardev = open_chardev(PtyConfig(id="serial0"), loop)
    assert isinstance(chardev, PtyChardev)
    assert capsys.readouterr().out == f"char device redirected to {chardev.path} (label serial0)\n"
    chardev.write(b"nobody hears this")
    for _ in range(2):
        user = os.open(chardev.path, os.O_RDWR | os.O_NOCTTY)
        guest = SmallGuest(chardev, len(PASTE))
        chardev.write(b"hello\n")
        assert read_exactly(user, 6) == b"hello\n"
        writer = threading.Thread(target=write_all, args=(user, PASTE))
        writer.start()
        assert guest.result() == PASTE
        writer.join(TIMEOUT)
        os.close(user)
    chardev.close()


def test_stdio_over_pipes(loop: EventLoop) -> None:
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    chardev = StdioChardev("serial0", loop, stdin=in_read, stdout=out_write)
    guest = SmallGuest(chardev, len(PASTE))
    writer = threading.Thread(target=write_all, args=(in_write, PASTE))
    writer.start()
    assert guest.result() == PASTE
    os.close(in_write)  # end of file: nothing more happens
    chardev.write(b"still here")
    assert os.read(out_read, 100) == b"still here"
    stuck = threading.Thread(target=chardev.write, args=(bytes(1 << 20),), daemon=True)
    stuck.start()
    os.read(out_read, 1)
    chardev.close()
    stuck.join(TIMEOUT)
    assert not stuck.is_alive()
    assert os.get_blocking(out_write)  # shared with others, hence left alone
    for fd in (in_read, out_read, out_write):
        os.close(fd)


@pytest.mark.parametrize("stdin", ["", "some input"])
def test_stdio_end_of_file_does_not_spin(loop: EventLoop, tmp_path: Path, stdin: str) -> None:
    path = tmp_path / "in"
    path.write_text(stdin)
    fd = os.open(path, os.O_RDONLY)
    chardev = StdioChardev("serial0", loop, stdin=fd)
    guest = SmallGuest(chardev, len(stdin))
    assert guest.result() == stdin.encode()
    poll_until(lambda: not loop._readers)
    chardev.close()
    os.close(fd)
