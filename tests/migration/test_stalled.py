"""A peer that says nothing more keeps nobody from using the emulator, or from ending it."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.migration.load_guest import LoadGuest, fault_in, go_on
from tests.support.guest_images import missing_compilers
from tests.support.process import Emulator
from tests.support.stream_reader import SavedStream, read_stream

pytestmark = [
    pytest.mark.skipif(bool(missing_compilers()), reason="no cross compilers"),
    pytest.mark.timeout(600),
]
SECONDS = 20.0  # less than any timeout of the emulator's own


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> LoadGuest:
    return LoadGuest(tmp_path_factory.mktemp("stalled"))


@pytest.fixture(scope="module")
def source(guest: LoadGuest) -> Iterator[Emulator]:
    with guest.start() as emulator:
        yield emulator


@pytest.fixture(scope="module")
def saved(guest: LoadGuest, source: Emulator) -> SavedStream:
    file = guest.folder / "saved"
    assert source.migrate(f"file:{file}")["status"] == "completed"
    source.command("cont")
    go_on(source)
    return read_stream(file.read_bytes())


def connected(path: Path) -> socket.socket:
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    peer.connect(str(path))
    return peer


@pytest.mark.parametrize("part", ["nothing", "memory", "device", "everything"])
def test_source_stalls(guest: LoadGuest, saved: SavedStream, part: str) -> None:
    """The monitor answers, the vCPU thread too, and the process ends when it is told to."""
    ends = {
        "nothing": 0,
        "memory": 500_000,
        "device": saved["xics"].start + 100,
        "everything": len(saved.data),
    }
    target, uri = guest.waiting(f"target-{part}")
    with target, connected(Path(uri.removeprefix("unix:"))) as peer:
        peer.sendall(saved.data[: ends[part]])
        time.sleep(0.5)  # it has got as far as it gets
        assert target.status() == "inmigrate"
        begun = time.monotonic()
        target.command("human-monitor-command", command_line="info registers")
        target.command("quit")
        assert target.wait(SECONDS) == 0
        assert time.monotonic() - begun < SECONDS
        assert not target.text


def test_destination_stalls(guest: LoadGuest, source: Emulator, saved: SavedStream) -> None:
    """The guest runs on, and a cancelled migration is over at once."""
    path = guest.folder / "silent"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(1)
        source.command("migrate", uri=f"unix:{path}")
        go_on(source)
        assert source.command("query-migrate")["status"] == "active"
        source.command("migrate_cancel")
        assert source.wait_migrated(SECONDS)["status"] == "cancelled"
        go_on(source)
        assert fault_in(source.text) == ""


def test_source_can_be_ended_while_the_destination_stalls(tmp_path: Path) -> None:
    guest = LoadGuest(tmp_path)
    path = tmp_path / "silent"
    with guest.start() as source, socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(1)
        source.command("migrate", uri=f"unix:{path}")
        go_on(source)
        source.command("quit")
        assert source.wait(SECONDS) == 0
        assert not guest.disk_is_locked()
