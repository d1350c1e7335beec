"""A running Linux guest moves between two processes and does not notice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.boot.guests import BE, BOOT_SECONDS, LE, LE_SMALL, READY, Guest, trouble_in
from tests.support.process import Emulator

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]
GUESTS = [(LE, "power8"), (LE, "power9"), (BE, "power8"), (BE, "power9"), (LE_SMALL, "power9")]
MATRIX = pytest.mark.parametrize(
    ("guest", "cpu"), GUESTS, ids=[f"{guest.name}-{cpu}" for guest, cpu in GUESTS]
)


def booted(folder: Path, guest: Guest, cpu: str) -> Emulator:
    """A guest with a shell on its console."""
    if guest.missing:
        pytest.skip(guest.missing)
    source = Emulator(folder, "source", guest.arguments(cpu=cpu))
    source.wait_for(READY, BOOT_SECONDS)
    source.wait_for("# ", BOOT_SECONDS)
    return source


def waiting(folder: Path, guest: Guest, cpu: str, uri: str, name: str = "target") -> Emulator:
    """A machine of the same kind that waits for a guest."""
    return Emulator(folder, name, [*guest.arguments(cpu=cpu), "-incoming", uri])


def uptime(emulator: Emulator) -> float:
    found = re.search(r"(\d+\.\d+) \d+\.\d+", emulator.run("cat /proc/uptime"))
    assert found is not None
    return float(found[1])


@MATRIX
def test_guest_moves_and_goes_on(tmp_path: Path, guest: Guest, cpu: str) -> None:
    uri = f"unix:{tmp_path}/migration"
    with booted(tmp_path, guest, cpu) as source, waiting(tmp_path, guest, cpu, uri) as target:
        assert target.status() == "inmigrate"
        before = uptime(source)
        answer = source.migrate(uri)
        assert answer["status"] == "completed", answer
        assert source.status() == "postmigrate"
        assert uptime(target) >= before
        assert target.status() == "running"
        assert trouble_in(source.text + target.text) == []


def test_guest_moves_by_tcp_and_defer(tmp_path: Path) -> None:
    with (
        booted(tmp_path, LE_SMALL, "power8") as source,
        waiting(tmp_path, LE_SMALL, "power8", "defer") as target,
    ):
        target.command("migrate-incoming", uri="tcp:127.0.0.1:18455")
        assert source.migrate("tcp:127.0.0.1:18455")["status"] == "completed"
        target.run("true")


def test_guest_is_saved_to_a_file_and_restored(tmp_path: Path) -> None:
    file = tmp_path / "snapshot"
    with booted(tmp_path, LE_SMALL, "power9") as source:
        source.run("echo marked > /tmp/mark")
        assert source.migrate(f"file:{file}")["status"] == "completed"
    with waiting(tmp_path, LE_SMALL, "power9", f"file:{file}") as target:
        assert "marked" in target.run("cat /tmp/mark")


def test_source_goes_on_when_nobody_listens(tmp_path: Path) -> None:
    with booted(tmp_path, LE_SMALL, "power8") as source:
        answer = source.migrate(f"unix:{tmp_path}/nobody")
        assert answer["status"] == "failed"
        assert "No such file" in answer["error-desc"]
        assert source.status() == "running"
        source.run("true")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["-m", "768M"], "512 MiB, this machine 768 MiB"),
        (["-cpu", "power9"], "PVR"),
        (["-device", "spapr-vty,chardev=extra", "-chardev", "null,id=extra"], "missing"),
    ],
)
def test_other_machine_is_refused_and_the_source_goes_on(
    tmp_path: Path, options: list[str], why: str
) -> None:
    uri = f"unix:{tmp_path}/migration"
    with booted(tmp_path, LE_SMALL, "power8") as source:
        arguments = [*LE_SMALL.arguments(), *options, "-incoming", uri]
        with Emulator(tmp_path, "target", arguments) as target:
            answer = source.migrate(uri)
            assert answer["status"] == "failed"
            assert why in answer["error-desc"]
            assert target.wait() == 1
            assert why in target.log.read_text()
        assert source.status() == "running"
        source.run("true")


def test_killed_destination_leaves_the_guest_with_the_source(tmp_path: Path) -> None:
    uri = f"unix:{tmp_path}/migration"
    with (
        booted(tmp_path, LE_SMALL, "power8") as source,
        waiting(tmp_path, LE_SMALL, "power8", uri) as target,
    ):
        source.command("migrate-set-parameters", max_bandwidth=4 << 20)
        source.command("migrate", uri=uri)
        source.run("true")
        target.kill()
        answer = source.wait_migrated()
        assert answer["status"] == "failed"
        source.run("true")


def test_cancelled_migration_leaves_the_guest_with_the_source(tmp_path: Path) -> None:
    uri = f"unix:{tmp_path}/migration"
    with (
        booted(tmp_path, LE_SMALL, "power8") as source,
        waiting(tmp_path, LE_SMALL, "power8", uri) as target,
    ):
        source.command("migrate-set-parameters", max_bandwidth=4 << 20)
        source.command("migrate", uri=uri)
        source.command("migrate_cancel")
        assert source.wait_migrated()["status"] == "cancelled"
        assert target.wait() == 1
        source.run("true")
