"""Pages that come when they are touched: userfaultfd, the supplier, the server of the source."""

from __future__ import annotations

import ctypes
import errno
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emu.memory.dma import Dma
from emu.memory.ram import PAGE_SIZE, GuestRam
from emu.migration.channels import SocketChannel
from emu.migration.postcopy_native import EOS, GO, PAGE, REQUEST, ZERO
from emu.migration.postcopy_source import DONE, PostcopyServer
from emu.migration.postcopy_target import Outcome, PostcopyTarget, check_host
from emu.migration.status import Parameters, Progress
from emu.migration.stream import MigrationError

PAGES = 64
SECONDS = 20.0
pytestmark = pytest.mark.timeout(60)
numbers = st.lists(st.integers(0, PAGES - 1), unique=True)


def word(page: int, kind: int) -> bytes:
    return (page << 12 | kind).to_bytes(8, "big")


class Side:
    """A destination whose RAM lacks pages; ``peer`` is the source's end of the connection."""

    def __init__(self, missing: list[int], stale: list[int] | None = None) -> None:
        self.ram = GuestRam(PAGES * PAGE_SIZE)
        self.outcomes: queue.Queue[Outcome] = queue.Queue()
        mask, written = np.zeros((2, PAGES), np.bool_)
        mask[missing] = True
        for page in stale or []:
            self.ram.write(page * PAGE_SIZE, b"stale")
            written[page] = True
        self.target = PostcopyTarget(self.ram, check_host(), mask, written)
        self.dma = Dma(self.ram, lambda address, size: None)
        self.connect()

    def connect(self) -> None:
        ours, peer = socket.socketpair()
        self.channel, self.peer = SocketChannel(ours), peer
        self.peer.settimeout(SECONDS)
        self.target.start(self.channel, self.outcomes.put)

    def requested(self) -> int:
        """The page that is asked for next."""
        message = self.peer.recv(9, socket.MSG_WAITALL)
        assert message[:1] == bytes((REQUEST,))
        return int.from_bytes(message[1:], "big")

    def touch(self, page: int) -> queue.Queue[bytes]:
        """Read a page on another thread."""
        found: queue.Queue[bytes] = queue.Queue()
        threading.Thread(
            target=lambda: found.put(self.dma.read(page * PAGE_SIZE, 8)), daemon=True
        ).start()
        return found

    def close(self) -> None:
        self.peer.close()
        self.target.close()


@pytest.fixture
def side() -> Iterator[Side]:
    one = Side([3, 5], stale=[5])
    yield one
    one.close()


@settings(max_examples=25)
@given(missing=numbers, stale=numbers, filled=numbers, order=st.randoms(use_true_random=False))
def test_every_page_is_what_the_source_has(
    missing: list[int], stale: list[int], filled: list[int], order: object
) -> None:
    source = GuestRam(PAGES * PAGE_SIZE)
    for page in filled:
        source.write(page * PAGE_SIZE, bytes([page + 1]) * PAGE_SIZE)
    side = Side(missing, stale)
    progress = Progress(source.size)
    server = PostcopyServer(source, np.array(missing, np.int64), progress, Parameters())
    channel = SocketChannel(side.peer)
    server.connect(channel)
    serving = threading.Thread(target=server.run, daemon=True)
    serving.start()
    for page in missing:
        content = side.dma.read(page * PAGE_SIZE, PAGE_SIZE)
        assert content == bytes([page + 1 if page in filled else 0]) * PAGE_SIZE
    for page in set(range(PAGES)) - set(missing):
        assert side.dma.read(page * PAGE_SIZE, 5) == (b"stale" if page in stale else bytes(5))
    assert side.outcomes.get(timeout=SECONDS) is Outcome.DONE
    side.channel.write(DONE)
    serving.join(SECONDS)
    assert not serving.is_alive()
    assert progress.normal_pages == len(set(missing) & set(filled))
    side.close()


def test_page_is_asked_for_once_and_wakes_all(side: Side) -> None:
    first, second = side.touch(5), side.touch(5)
    assert side.requested() == 5
    side.peer.sendall(word(5, PAGE) + b"new page" * 512)
    assert first.get(timeout=SECONDS) == second.get(timeout=SECONDS) == b"new page"
    side.touch(3)
    assert side.requested() == 3  # and not page 5 again
    deadline = time.monotonic() + SECONDS
    while side.target.requests < 2 and time.monotonic() < deadline:
        time.sleep(0.001)  # a request is counted once it is sent
    assert (side.target.requests, side.target.left) == (2, 1)


def test_untouched_page_that_is_not_missing_needs_no_source(side: Side) -> None:
    assert side.touch(9).get(timeout=SECONDS) == bytes(8)


def test_thread_that_holds_the_gil_gets_its_page(side: Side) -> None:
    """The page arrives while no Python can run here."""
    program = (
        "import os, sys, time; time.sleep(0.5);"
        f"os.write(int(sys.argv[1]), {word(3, PAGE)!r} + b'x' * {PAGE_SIZE})"
    )
    fd = side.peer.fileno()
    with subprocess.Popen([sys.executable, "-c", program, str(fd)], pass_fds=[fd]):
        # memmove of pythonapi: a call that keeps the GIL
        target = ctypes.create_string_buffer(8)
        ctypes.PyDLL(None).memmove(target, ctypes.c_void_p(side.ram.address + 3 * PAGE_SIZE), 8)
    assert target.raw == b"xxxxxxxx"


def test_guest_is_announced_between_pages(side: Side) -> None:
    assert not side.target.await_go(0.05)
    side.peer.sendall(word(3, ZERO) + word(0, GO) + word(5, ZERO) + word(0, EOS))
    assert side.target.await_go(SECONDS)
    assert side.outcomes.get(timeout=SECONDS) is Outcome.DONE
    assert side.dma.read(5 * PAGE_SIZE, 5) == bytes(5)


@pytest.mark.parametrize(
    "message",
    [word(PAGES, ZERO), word((1 << 52) - 1, ZERO), word(3, 0x20), word(3, 0), word(0, EOS)],
    ids=["outside", "far", "kind", "none", "early end"],
)
def test_nonsense_ends_it(side: Side, message: bytes) -> None:
    side.peer.sendall(message)
    assert side.outcomes.get(timeout=SECONDS) is Outcome.NONSENSE


def test_page_in_pieces(side: Side) -> None:
    message = word(3, PAGE) + b"abcdefgh" * 512
    found = side.touch(3)
    for start in range(0, len(message), 1000):
        side.peer.sendall(message[start : start + 1000])
    assert found.get(timeout=SECONDS) == b"abcdefgh"


def test_new_source_is_asked_for_what_the_last_one_owes(side: Side) -> None:
    found = side.touch(5)
    assert side.requested() == 5
    side.peer.close()
    assert side.outcomes.get(timeout=SECONDS) is Outcome.LOST
    assert side.target.missing_pages().tolist() == [3, 5]
    assert found.empty()
    side.connect()
    assert side.requested() == 5
    side.peer.sendall(word(5, PAGE) + b"at last!" * 512)
    assert found.get(timeout=SECONDS) == b"at last!"


def test_who_waits_when_the_connection_breaks_is_told_to_the_next_source(side: Side) -> None:
    side.peer.close()
    assert side.outcomes.get(timeout=SECONDS) is Outcome.LOST
    found = side.touch(3)  # nobody looks now
    side.connect()
    assert side.requested() == 3
    side.peer.sendall(word(3, ZERO))
    assert found.get(timeout=SECONDS) == bytes(8)


def test_balloon_gives_no_page_up_meanwhile(side: Side) -> None:
    """The source would be asked for it, and has an old one."""
    side.peer.sendall(word(3, PAGE) + b"y" * PAGE_SIZE)
    assert side.dma.read(3 * PAGE_SIZE, 1) == b"y"
    assert side.dma.discard(0, side.ram.size) == 0
    assert side.dma.read(3 * PAGE_SIZE, 1) == b"y"
    side.target.close()
    assert side.dma.discard(0, side.ram.size) == side.ram.size


def test_request_outside_ram_breaks_the_connection() -> None:
    ours, peer = socket.socketpair()
    server = PostcopyServer(
        GuestRam(PAGES * PAGE_SIZE), np.arange(4), Progress(PAGES * PAGE_SIZE), Parameters()
    )
    server.connect(SocketChannel(ours))
    peer.sendall(bytes((REQUEST,)) + PAGES.to_bytes(8, "big"))
    with pytest.raises(ConnectionError, match="outside RAM"):
        server.run()
    peer.close()
    ours.close()


@pytest.mark.parametrize(
    ("error", "says"),
    [(errno.EPERM, "vm.unprivileged_userfaultfd=1"), (errno.ENOSYS, "kernel has no userfaultfd")],
)
def test_host_that_refuses(monkeypatch: pytest.MonkeyPatch, error: int, says: str) -> None:
    class Libc:
        def syscall(self, *_arguments: object) -> int:
            ctypes.set_errno(error)
            return -1

    def refuse(*_arguments: object) -> int:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(ctypes, "CDLL", lambda *_arguments, **_options: Libc())
    with pytest.raises(MigrationError, match=says):
        check_host()
