"""Who has the guest when the connection breaks, or a side dies, around READY, GO and ACK.

docs/migration.md has the guarantee: both sides never run it by themselves, and one always has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from qemu.qmp.qmp_client import ExecuteError

from devices.block.open import open_image
from tests.migration.cutting import CuttingProxy, Hold, Point
from tests.migration.load_guest import LoadGuest, fault_in, go_on, last_words
from tests.support.guest_images import missing_compilers
from tests.support.process import Emulator

pytestmark = [
    pytest.mark.skipif(bool(missing_compilers()), reason="no cross compilers"),
    pytest.mark.timeout(600),
]


@pytest.fixture
def guest(tmp_path: Path) -> LoadGuest:
    return LoadGuest(tmp_path)


@pytest.fixture
def source(guest: LoadGuest) -> Iterator[Emulator]:
    with guest.start() as emulator:
        yield emulator


@pytest.fixture
def target(guest: LoadGuest) -> Iterator[Emulator]:
    with guest.waiting()[0] as emulator:
        yield emulator


def uri_of(guest: LoadGuest) -> str:
    return f"unix:{guest.folder}/target.migration"


def gave_up(target: Emulator) -> str:
    """Check that a destination has ended without a guest; the line it has said."""
    status, words = target.wait(), last_words(target)
    assert (status, len(words)) == (1, 1), words
    assert not target.text
    return words[0]


def kept(guest: LoadGuest, source: Emulator) -> str:
    """Check that the source has its guest, which runs; why the migration failed."""
    answer = source.wait_migrated()
    assert answer["status"] == "failed", answer
    assert source.status() == "running"
    assert guest.disk_is_locked()
    go_on(source)
    assert fault_in(source.text) == ""
    return str(answer["error-desc"])


def given_away(source: Emulator) -> str:
    """Check that a source that cannot know has its guest stand still; what it says."""
    answer = source.wait_migrated()
    assert answer["status"] == "failed", answer
    assert source.status() == "postmigrate"
    assert "may run the guest" in answer["error-desc"]
    assert "'cont'" in answer["error-desc"]
    return str(answer["error-desc"])


@pytest.mark.parametrize("point", [Point.READY_LOST, Point.READY_PASSED])
def test_cut_before_go(guest: LoadGuest, source: Emulator, target: Emulator, point: Point) -> None:
    """The guest is the source's: it has not given it away."""
    with CuttingProxy(guest.folder, uri_of(guest), point=point) as proxy:
        source.command("migrate", uri=proxy.uri)
        why = kept(guest, source)
        assert "closed the connection" in why or "Broken pipe" in why
        assert "before it handed over" in gave_up(target)


def test_cut_when_go_is_lost(guest: LoadGuest, source: Emulator, target: Emulator) -> None:
    """Nobody runs; the source says so, and goes on when it is told to."""
    with CuttingProxy(guest.folder, uri_of(guest), point=Point.GO_LOST) as proxy:
        source.command("migrate", uri=proxy.uri)
        given_away(source)
        assert "before it handed over" in gave_up(target)
        assert not guest.disk_is_locked()
        source.command("cont")
        go_on(source)
        assert guest.disk_is_locked()
        assert fault_in(source.text) == ""


def test_cut_when_ack_is_lost(guest: LoadGuest, source: Emulator, target: Emulator) -> None:
    """The destination runs.  The source does not, even if it is told to: the disk is not free."""
    with CuttingProxy(guest.folder, uri_of(guest), point=Point.ACK_LOST) as proxy:
        source.command("migrate", uri=proxy.uri)
        given_away(source)
        go_on(target)
        with pytest.raises(ExecuteError, match="lock"):
            source.command("cont")
        assert source.status() == "postmigrate"
        go_on(target)
        assert target.status() == "running"
        assert fault_in(source.text, target.text) == ""


def test_cut_when_ack_has_arrived(guest: LoadGuest, source: Emulator, target: Emulator) -> None:
    with CuttingProxy(guest.folder, uri_of(guest), point=Point.ACK_PASSED) as proxy:
        assert source.migrate(proxy.uri)["status"] == "completed"
        assert source.status() == "postmigrate"
        go_on(target)
        assert fault_in(source.text, target.text) == ""


def test_without_disks_the_source_does_not_run_either(tmp_path: Path) -> None:
    """No lock keeps it from that, only the protocol."""
    guest = LoadGuest(tmp_path, disk=False)
    with guest.start() as source, guest.waiting()[0] as target:
        with CuttingProxy(tmp_path, uri_of(guest), point=Point.ACK_LOST) as proxy:
            source.command("migrate", uri=proxy.uri)
            given_away(source)
            go_on(target)
        assert source.status() == "postmigrate"
        assert fault_in(source.text, target.text) == ""


@pytest.mark.parametrize("point", [Point.READY_LOST, Point.GO_LOST])
def test_destination_is_killed_before_it_runs(
    guest: LoadGuest, source: Emulator, target: Emulator, point: Point
) -> None:
    with CuttingProxy(guest.folder, uri_of(guest), point=point, before_cut=target.kill) as proxy:
        source.command("migrate", uri=proxy.uri)
        if point is Point.READY_LOST:
            kept(guest, source)
            return
        given_away(source)
        assert not target.text
        source.command("cont")
        go_on(source)
        assert fault_in(source.text) == ""


@pytest.mark.parametrize("point", [Point.READY_LOST, Point.GO_LOST])
def test_source_is_killed_before_the_destination_has_the_guest(
    guest: LoadGuest, source: Emulator, target: Emulator, point: Point
) -> None:
    with CuttingProxy(guest.folder, uri_of(guest), point=point, before_cut=source.kill) as proxy:
        source.command("migrate", uri=proxy.uri)
        assert "before it handed over" in gave_up(target)
        assert not guest.disk_is_locked()


def test_source_is_killed_when_it_has_given_the_guest_away(
    guest: LoadGuest, source: Emulator, target: Emulator
) -> None:
    with CuttingProxy(guest.folder, uri_of(guest), on_ack=source.kill) as proxy:
        source.command("migrate", uri=proxy.uri)
        go_on(target)
        assert guest.disk_is_locked()
        assert fault_in(source.text, target.text) == ""


def test_cancel_between_ready_and_go(guest: LoadGuest, source: Emulator, target: Emulator) -> None:
    hold = Hold()
    with CuttingProxy(guest.folder, uri_of(guest), on_ready=hold) as proxy:
        source.command("migrate", uri=proxy.uri)
        with hold:
            source.command("migrate_cancel")
        assert source.wait_migrated()["status"] == "cancelled"
        assert "before it handed over" in gave_up(target)
        assert guest.disk_is_locked()
        go_on(source)
        assert fault_in(source.text) == ""


def test_cancel_after_go_comes_too_late(
    guest: LoadGuest, source: Emulator, target: Emulator
) -> None:
    hold = Hold()
    with CuttingProxy(guest.folder, uri_of(guest), on_go=hold) as proxy:
        source.command("migrate", uri=proxy.uri)
        with hold:
            source.command("migrate_cancel")
        assert source.wait_migrated()["status"] == "completed"
        go_on(target)
        assert source.status() == "postmigrate"
        assert fault_in(source.text, target.text) == ""


def test_the_user_cannot_run_or_reset_the_guest_in_between(
    guest: LoadGuest, source: Emulator, target: Emulator
) -> None:
    """Neither here, where its state is on the way, nor there, where it is not complete."""
    hold = Hold()
    with CuttingProxy(guest.folder, uri_of(guest), on_ready=hold) as proxy:
        source.command("migrate", uri=proxy.uri)
        with hold:
            assert source.status() == "finish-migrate"
            with pytest.raises(ExecuteError, match="not finalized"):
                source.command("cont")
            source.command("system_reset")  # when the migration has ended
            assert target.status() == "inmigrate"
            target.command("cont")  # when the guest is there
            with pytest.raises(ExecuteError, match="coming in"):
                target.command("system_reset")
        assert source.wait_migrated()["status"] == "completed"
        go_on(target)
        assert fault_in(source.text, target.text) == ""


def test_destination_that_gets_no_disk_gives_the_guest_back(
    guest: LoadGuest, source: Emulator, target: Emulator
) -> None:
    """Somebody takes the disk in the moment in which neither side has it, and lets it go again."""
    taken = []

    def take() -> None:
        taken.append(open_image(str(guest.disk_path), "raw"))

    with CuttingProxy(guest.folder, uri_of(guest), on_go=take) as proxy:
        source.command("migrate", uri=proxy.uri)
        assert "lock" in gave_up(target)
        taken[0].close()
        why = kept(guest, source)
        assert "the destination refused" in why
        assert "lock" in why


def test_source_that_gets_no_disk_back_waits_for_the_user(
    guest: LoadGuest, source: Emulator, target: Emulator
) -> None:
    taken = []

    def take() -> None:
        taken.append(open_image(str(guest.disk_path), "raw"))

    with CuttingProxy(guest.folder, uri_of(guest), on_go=take) as proxy:
        source.command("migrate", uri=proxy.uri)
        assert "lock" in gave_up(target)
        answer = source.wait_migrated()
        assert answer["status"] == "failed"
        assert "cannot go on" in answer["error-desc"]
        assert source.status() == "postmigrate"
        with pytest.raises(ExecuteError, match="lock"):
            source.command("cont")
        taken[0].close()
        source.command("cont")
        go_on(source)
        assert fault_in(source.text) == ""


def test_destination_can_be_ended_while_it_waits_for_go(
    guest: LoadGuest, source: Emulator, target: Emulator
) -> None:
    """Its READY is on the way, so the source gives the guest away, to nobody."""
    hold = Hold()
    with CuttingProxy(guest.folder, uri_of(guest), on_ready=hold) as proxy:
        source.command("migrate", uri=proxy.uri)
        with hold:
            target.command("quit")
            assert target.wait() == 0
        given_away(source)
        source.command("cont")
        go_on(source)
        assert fault_in(source.text) == ""
