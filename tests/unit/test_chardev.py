"""Character devices: flow control, memory, files, the mux."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.chardev import (
    Chardev,
    ConsoleClosed,
    ConsoleError,
    ConsoleTimeout,
    MemoryChardev,
    open_chardev,
)
from emu.chardev.mux import MuxChardev
from emu.config import ConfigError, FileConfig, MemoryConfig, NullConfig
from emu.events import EventLoop
from tests.unit.chardev_tools import PASTE, TIMEOUT, SmallGuest, poll_until


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    loop = EventLoop()
    loop.start()
    yield loop
    loop.stop()


@pytest.mark.parametrize("with_loop", [True, False])
def test_memory_input_of_100_kib_arrives_intact(loop: EventLoop, with_loop: bool) -> None:
    chardev = MemoryChardev("console", loop if with_loop else None)
    # Without a loop the device must not hold its lock, but then it may be re-entered.
    guest = SmallGuest(chardev, len(PASTE)) if with_loop else Reentrant(chardev)
    chardev.send(PASTE)
    assert guest.result() == PASTE
    assert chardev.pending_input == 0


class Reentrant:
    """Takes one byte and asks for more from inside the receiver."""

    def __init__(self, chardev: Chardev) -> None:
        self.data = bytearray()
        self._chardev = chardev
        chardev.set_receiver(self.receive)

    def receive(self, data: bytes) -> int:
        self.data += data[:1]
        self._chardev.accept_input()
        return 1

    def result(self) -> bytes:
        return bytes(self.data)


def test_memory_input_waits_for_the_receiver() -> None:
    chardev = MemoryChardev()
    chardev.send("early")
    got: list[bytes] = []
    chardev.set_receiver(lambda data: got.append(data) or len(data))  # type: ignore[func-returns-value]
    assert got == [b"early"]


def test_wait_for_consumes_like_expect() -> None:
    chardev = MemoryChardev()
    chardev.write(b"boot\nlogin: one\nlogin: two\n")
    match = chardev.wait_for("login: ", 0)
    assert match.string[: match.start()] == b"boot\n"
    assert chardev.wait_for(re.compile(r"(\w+)\n"), 0)[1] == b"one"
    assert chardev.wait_for(re.compile(rb"login: (\w+)"), 0)[1] == b"two"
    assert chardev.read() == b"\n"
    with pytest.raises(ConsoleTimeout):
        chardev.wait_for(b"login", 0)
    assert chardev.text.startswith("boot")
    assert chardev.transcript.endswith(b"two\n")


def test_wait_for_sees_a_pattern_that_arrives_in_pieces() -> None:
    chardev = MemoryChardev()

    def write() -> None:
        for byte in b"abc# ":
            chardev.write(bytes([byte]))

    writer = threading.Thread(target=write)
    writer.start()
    assert chardev.wait_for("c# ", TIMEOUT)
    writer.join()


def test_timeout_shows_the_last_lines_and_closing_ends_the_wait() -> None:
    chardev = MemoryChardev("console")
    chardev.write(b"".join(b"line %d\n" % n for n in range(100)))
    with pytest.raises(ConsoleTimeout, match=r"no match for 'login:' within 0.01 s") as caught:
        chardev.wait_for("login:", 0.01)
    assert str(caught.value).endswith("  | line 98\n  | line 99")
    assert isinstance(caught.value, (ConsoleError, TimeoutError))
    threading.Timer(0.01, chardev.close).start()
    with pytest.raises(ConsoleClosed, match="before the console was closed"):
        chardev.wait_for("login:", TIMEOUT)


def test_ring_buffer_keeps_the_last_bytes(loop: EventLoop) -> None:
    chardev = open_chardev(MemoryConfig(id="r", size=8), loop)
    assert isinstance(chardev, MemoryChardev)
    chardev.write(b"0123456789")
    assert chardev.transcript == b"23456789"
    assert chardev.wait_for("45", 0)
    chardev.write(b"abcdefghij")
    assert chardev.read() == b"cdefghij"


def test_null_and_file(loop: EventLoop, tmp_path: Path) -> None:
    null = open_chardev(NullConfig(id="n"), loop)
    null.write(b"x")
    null.close()
    path = tmp_path / "out"
    for append, expected in ((False, b"one"), (True, b"oneone"), (False, b"one")):
        file = open_chardev(FileConfig(id="f", path=str(path), append=append), loop)
        file.write(b"one")
        file.close()
        file.write(b"dropped")
        assert path.read_bytes() == expected
    with pytest.raises(ConfigError, match=r"could not open '.*': No such file or directory"):
        open_chardev(FileConfig(id="f", path=str(tmp_path / "no" / "out")), loop)


def test_full_disk_is_logged_once(loop: EventLoop, caplog: pytest.LogCaptureFixture) -> None:
    file = open_chardev(FileConfig(id="serial0", path="/dev/full"), loop)
    file.write(b"a")
    file.write(b"b")
    file.close()
    assert caplog.messages == ["serial0: output is lost: No space left on device"]


class Backend(MemoryChardev):
    """A memory console whose input, from the user, is `send`."""


@pytest.fixture
def keys() -> list[str]:
    return []


@pytest.fixture
def mux(loop: EventLoop, keys: list[str]) -> MuxChardev:
    backend = Backend("serial0", loop)
    return MuxChardev(backend, loop, on_quit=lambda: keys.append("quit"))


def test_mux_escapes(mux: MuxChardev, keys: list[str]) -> None:
    backend = mux.backend
    assert isinstance(backend, Backend)
    guest = SmallGuest(mux, 6)
    backend.send(b"a\x01\x01b\x01bc\x01")
    backend.send(b"hd")
    backend.send(b"\x01\x01")
    assert guest.result() == b"a\x01bcd\x01"
    assert backend.wait_for("quit the emulator", TIMEOUT)
    backend.send(b"\x01c")
    assert backend.wait_for("monitor not available", TIMEOUT)
    assert keys == []
    backend.send(b"\x01x")
    poll_until(lambda: keys)
    assert keys == ["quit"]


def test_mux_quits_although_the_guest_takes_no_input(mux: MuxChardev, keys: list[str]) -> None:
    assert isinstance(mux.backend, Backend)
    mux.set_receiver(lambda data: 0)
    mux.backend.send(b"ignored" * 100)
    mux.backend.send(b"\x01x")
    poll_until(lambda: keys)


def test_mux_input_of_100_kib_arrives_intact(mux: MuxChardev) -> None:
    assert isinstance(mux.backend, Backend)
    guest = SmallGuest(mux, len(PASTE))
    mux.backend.send(PASTE.replace(b"\x01", b"\x01\x01"))
    assert guest.result() == PASTE


def test_mux_time_stamps(mux: MuxChardev) -> None:
    assert isinstance(mux.backend, Backend)
    mux.write(b"plain\n")
    mux.backend.send(b"\x01t\x01h")
    assert mux.backend.wait_for("Ctrl-A Ctrl-A", TIMEOUT)
    mux.backend.read()
    mux.write(b"a")
    mux.write(b"b\nc\n")
    lines = mux.backend.read().decode().split("\n")
    assert [re.sub(r"\[ *\d+\.\d{3}\] ", "@", line) for line in lines] == ["@ab", "@c", ""]
