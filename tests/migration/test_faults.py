"""Whatever fails during a migration, one side has the guest, whole, and both say why.

The guest changes memory and disk all the time and checks both (tests/guest/tests/load.c).
"""

from __future__ import annotations

import os
import random
import resource
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.migration.cutting import CuttingProxy
from tests.migration.load_guest import LoadGuest, fault_in, go_on, last_words
from tests.support.guest_images import missing_compilers
from tests.support.process import Emulator

pytestmark = [
    pytest.mark.skipif(bool(missing_compilers()), reason="no cross compilers"),
    pytest.mark.timeout(600),
]
#: (bytes of the stream, or behind this text of it)
CUTS = [
    *((after, b"") for after in (0, 3, 11, 70, 5_000, 1_000_003, 2_000_000)),
    (0, b"\x03cpu"),
    (1, b"spapr/htab"),
    (100, b"xics"),
    (40, b"virtio-block"),
    (10, b"ppc64emu/integrity"),
    (0, b'{"page_size"'),
]


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> LoadGuest:
    return LoadGuest(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def sources(guest: LoadGuest) -> Iterator[list[Emulator]]:
    """Kept from test to test: one guest goes through all of it."""
    kept: list[Emulator] = []
    yield kept
    for emulator in kept:
        emulator.close()


@pytest.fixture
def source(guest: LoadGuest, sources: list[Emulator]) -> Emulator:
    """A machine whose guest runs; after a test that has failed, a new one."""
    if sources and (sources[0].process.poll() is not None or sources[0].status() != "running"):
        sources.pop().close()
    if not sources:
        sources.append(guest.start(f"source{os.urandom(3).hex()}"))
    return sources[0]


def failed(source: Emulator, guest: LoadGuest) -> str:
    """Check that the source has kept its guest after a migration that failed; why it did."""
    answer = source.wait_migrated()
    assert answer["status"] == "failed", answer
    assert source.status() == "running"
    assert guest.disk_is_locked()
    go_on(source)
    assert fault_in(source.text) == ""
    return str(answer["error-desc"])


def gave_up(target: Emulator) -> str:
    """Check that a destination has ended as one that got no guest; the line it has said."""
    status, words = target.wait(), last_words(target)
    assert (status, len(words)) == (1, 1), words
    assert words[0].startswith("ppc64emu: load of migration failed: ")
    return words[0]


@pytest.mark.parametrize(("after", "marker"), CUTS)
def test_connection_is_cut(guest: LoadGuest, source: Emulator, after: int, marker: bytes) -> None:
    target, uri = guest.waiting(f"target{os.urandom(3).hex()}")
    with target, CuttingProxy(guest.folder, uri, after=after, marker=marker) as proxy:
        source.command("migrate", uri=proxy.uri)
        why = failed(source, guest)
        assert proxy.was_cut.is_set()
        assert "Broken pipe" in why or "reset" in why or "closed the connection" in why
        assert "the stream" in gave_up(target)
        assert not target.text


@pytest.mark.parametrize(("after", "marker"), [(0, b""), (300_000, b""), (50, b"xics")])
def test_destination_is_killed(
    guest: LoadGuest, source: Emulator, after: int, marker: bytes
) -> None:
    target, uri = guest.waiting(f"target{os.urandom(3).hex()}")
    proxy = CuttingProxy(guest.folder, uri, after=after, marker=marker, before_cut=target.kill)
    with target, proxy:
        source.command("migrate", uri=proxy.uri)
        assert failed(source, guest)
        assert proxy.was_cut.is_set()
        assert not target.text


@pytest.mark.parametrize("seed", range(6))
def test_cancel_at_any_moment(guest: LoadGuest, source: Emulator, seed: int) -> None:
    """Before GO the guest stays.  So slow a migration gets there only after the last cancel."""
    target, uri = guest.waiting(f"target{os.urandom(3).hex()}")
    with target:
        source.command("migrate-set-parameters", max_bandwidth=8 << 20)
        source.command("migrate", uri=uri)
        time.sleep(random.Random(seed).uniform(0, 0.3))
        source.command("migrate_cancel")
        source.command("migrate-set-parameters", max_bandwidth=0)
        answer = source.wait_migrated()
        assert answer["status"] == "cancelled", answer
        assert "error-desc" not in answer
        assert source.status() == "running"
        gave_up(target)
        go_on(source)
        assert guest.disk_is_locked()


@pytest.mark.parametrize(
    ("place", "why"),
    [
        (2, "wrong magic"),
        (14, "machine type is"),
        (700_000, "the stream is corrupt (checksum differs)"),
    ],
)
def test_bit_that_turns_on_the_way(
    guest: LoadGuest, source: Emulator, place: int, why: str
) -> None:
    target, uri = guest.waiting(f"target{os.urandom(3).hex()}")
    with target, CuttingProxy(guest.folder, uri, flip=place) as proxy:
        source.command("migrate", uri=proxy.uri)
        said = failed(source, guest)
        assert "the destination refused" in said
        assert why in said
        assert why in gave_up(target)


def test_source_is_killed(tmp_path: Path) -> None:
    """Its guest is gone with it; a destination that has half of it does not run that."""
    guest = LoadGuest(tmp_path)
    with guest.start() as source:
        target, uri = guest.waiting()
        proxy = CuttingProxy(tmp_path, uri, after=600_000, before_cut=source.kill)
        with target, proxy:
            source.command("migrate", uri=proxy.uri)
            assert "ends after" in gave_up(target)
            assert not target.text
        assert not guest.disk_is_locked()


def test_full_disk(guest: LoadGuest, source: Emulator) -> None:
    source.command("migrate", uri="file:/dev/full")
    assert "No space left on device" in failed(source, guest)


def test_small_file_system(guest: LoadGuest, source: Emulator, tmp_path: Path) -> None:
    if os.getuid():
        pytest.skip("only root can mount")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(tmp_path)], check=False
    )
    if mounted.returncode:
        pytest.skip("cannot mount here")
    try:
        source.command("migrate", uri=f"file:{tmp_path}/snapshot")
        assert "No space left on device" in failed(source, guest)
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_limit_of_file_size(guest: LoadGuest, source: Emulator, tmp_path: Path) -> None:
    process = source.process.pid
    before = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (300_000, before[1]))
    try:
        source.command("migrate", uri=f"file:{tmp_path}/snapshot")
        assert "File too large" in failed(source, guest)
    finally:
        resource.prlimit(process, resource.RLIMIT_FSIZE, before)


def test_command_that_fails(guest: LoadGuest, source: Emulator) -> None:
    source.command("migrate", uri="exec:head -c 100000 > /dev/null; exit 7")
    assert "Broken pipe" in failed(source, guest)
    source.command("migrate", uri="exec:cat > /dev/null; exit 7")
    assert "status 7" in failed(source, guest)


def test_command_that_stops_reading_can_be_cancelled(guest: LoadGuest, source: Emulator) -> None:
    source.command("migrate", uri="exec:sleep 1000")
    go_on(source)
    source.command("migrate_cancel")
    assert source.wait_migrated(10.0)["status"] == "cancelled"
    go_on(source)


def test_after_all_of_it_the_guest_moves(tmp_path: Path) -> None:
    """A source whose migrations have failed in several ways is as good as new."""
    guest = LoadGuest(tmp_path)
    with guest.start() as source:
        for after in (0, 100_000, 700_000):
            target, uri = guest.waiting(f"target{after}")
            with target, CuttingProxy(tmp_path, uri, after=after) as proxy:
                source.command("migrate", uri=proxy.uri)
                failed(source, guest)
        target, uri = guest.waiting("last")
        with target:
            assert source.migrate(uri)["status"] == "completed"
            go_on(target, 20)
            assert source.status() == "postmigrate"
            assert fault_in(source.text, target.text) == ""
