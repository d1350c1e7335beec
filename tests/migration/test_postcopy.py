"""Post-copy: a guest runs at its destination before its memory is there."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from qemu.qmp.qmp_client import ExecuteError

from tests.boot.guests import BE, BOOT_SECONDS, LE, LE_SMALL, READY, Guest, trouble_in
from tests.support.process import Emulator

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]
SLOW = 2 << 20  # bytes a second
#: Data that the small guests write and check: bytes, seed.
DATA = f"{32 << 20} 4711"


def _devices(disk: Path) -> list[str]:
    options = ["-drive", f"file={disk},if=none,id=d,format=raw,cache=writeback"]
    options += ["-device", "virtio-blk-pci,drive=d"]
    options += ["-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n"]
    return options


class Pair:
    """A booted source and a destination that waits for post-copy; both with a disk."""

    def __init__(self, folder: Path, guest: Guest, cpu: str, stack: ExitStack) -> None:
        if guest.missing:
            pytest.skip(guest.missing)
        disk = folder / "disk"
        disk.write_bytes(os.urandom(8 << 20))
        self.uri = f"unix:{folder}/migration"
        arguments = [*guest.arguments(cpu=cpu), *_devices(disk)]
        incoming = [*arguments, "-incoming", self.uri]
        self.source = stack.enter_context(Emulator(folder, "source", arguments))
        self.target = stack.enter_context(Emulator(folder, "target", incoming))
        self.source.wait_for(READY, BOOT_SECONDS)
        self.source.wait_for("# ", BOOT_SECONDS)
        for emulator in (self.source, self.target):
            allow(emulator)

    def start(self, *, postcopy_limit: int = SLOW) -> None:
        """Let the guest go early, with memory that follows slowly."""
        self.source.command(
            "migrate-set-parameters", max_bandwidth=SLOW, max_postcopy_bandwidth=postcopy_limit
        )
        self.source.command("migrate", uri=self.uri)
        wait_until(lambda: query(self.source).get("ram", {}).get("transferred", 0) > 1 << 20)
        self.source.command("migrate-start-postcopy")
        wait_until(lambda: query(self.source)["status"] == "postcopy-active")
        wait_until(lambda: self.target.status() == "running")

    def finish(self) -> dict[str, Any]:
        """Let all memory come; the source's last answer."""
        self.source.command("migrate-set-parameters", max_postcopy_bandwidth=0)
        answer = self.source.wait_migrated(120.0)
        wait_until(lambda: query(self.target)["status"] == "completed")
        return answer


def allow(emulator: Emulator) -> None:
    emulator.command(
        "migrate-set-capabilities", capabilities=[{"capability": "postcopy-ram", "state": True}]
    )


def query(emulator: Emulator) -> dict[str, Any]:
    answer: dict[str, Any] = emulator.command("query-migrate")
    return answer


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Callable[..., Pair]]:
    with ExitStack() as stack:
        yield lambda guest=LE_SMALL, cpu="power9": Pair(tmp_path, guest, cpu, stack)


@pytest.mark.parametrize(("guest", "cpu"), [(LE_SMALL, "power9"), (BE, "power8")])
def test_guest_runs_while_its_memory_follows(
    pair: Callable[..., Pair], guest: Guest, cpu: str
) -> None:
    """Data in memory and on the disk are what they were, though they come when looked at."""
    both = pair(guest, cpu)
    both.source.run(f"write /tmp/data {DATA}", 120.0)
    both.source.run("write /dev/vda 4194304 99", 120.0)
    both.start()
    assert query(both.target)["status"] == "postcopy-active"
    assert "verified" in both.target.run("verify /dev/vda 4194304 99", 120.0)
    both.target.run("write /dev/vda 4194304 77", 120.0)
    assert query(both.source)["status"] == "postcopy-active"  # it did run early
    assert query(both.source)["ram"]["postcopy-requests"] > 0
    answer = both.finish()
    assert answer["status"] == "completed"
    assert both.source.status() == "postmigrate"
    assert "verified" in both.target.run(f"verify /tmp/data {DATA}", 120.0)
    assert "verified" in both.target.run("verify /dev/vda 4194304 77", 120.0)
    assert trouble_in(both.source.text + both.target.text) == []


def test_loaded_guest_keeps_its_data(pair: Callable[..., Pair]) -> None:
    """Debian's guest reads its disk past the page cache, and uses the network, all the time."""
    both = pair(LE, "power8")
    both.source.run(
        "while :; do dd if=/dev/vda bs=64k iflag=direct 2>/dev/null | md5sum; done"
        " >/tmp/sums & true"
    )
    both.source.run("ip address add 10.0.2.15/24 dev eth0; ip link set eth0 up")
    both.source.run("{ ping 10.0.2.2 >/tmp/pings & true; }")
    both.source.run("dd if=/dev/urandom of=/tmp/data bs=1M count=64 2>/dev/null")
    before = both.source.run("md5sum < /tmp/data").split("-")[0].split()[-1]
    both.start()
    both.finish()
    assert before in both.target.run("md5sum < /tmp/data", 120.0)
    both.target.run("kill %1; sed -i '$d' /tmp/sums")  # the last may be incomplete
    assert re.search(r"\n1\r", both.target.run("sort -u /tmp/sums | wc -l"))
    assert re.search(r"\n[1-9]", both.target.run("grep -c ttl= /tmp/pings"))
    assert trouble_in(both.source.text + both.target.text) == []


def test_lost_connection_pauses_the_guest_until_the_source_comes_back(
    pair: Callable[..., Pair], tmp_path: Path
) -> None:
    both = pair()
    both.source.run(f"write /tmp/data {DATA}", 120.0)
    both.start(postcopy_limit=1 << 16)
    both.source.command("migrate-pause")
    for emulator in (both.source, both.target):
        wait_until(lambda: query(emulator)["status"] == "postcopy-paused")  # noqa: B023
        assert "broke in post-copy" in query(emulator)["error-desc"]
        assert emulator.status() != "running"
    both.target.send(f"verify /tmp/data {DATA}\n")  # nobody may run this now
    with pytest.raises(ExecuteError, match="memory that does not come"):
        both.target.command("cont")
    with pytest.raises(ExecuteError, match="not finalized"):
        both.source.command("cont")
    again = f"unix:{tmp_path}/again"
    both.target.command("migrate-recover", uri=again)
    both.source.command("migrate", uri=again, resume=True)
    assert both.finish()["status"] == "completed"
    both.target.wait_for("verified", 120.0)
    assert both.target.status() == "running"
    assert "error-desc" not in query(both.target)


def test_killed_source_leaves_a_paused_guest_that_can_be_ended(pair: Callable[..., Pair]) -> None:
    both = pair()
    both.start(postcopy_limit=1 << 16)
    both.target.send("verify /tmp/data 1 1\n")
    both.source.kill()
    wait_until(lambda: query(both.target)["status"] == "postcopy-paused")
    assert both.target.status() == "paused"
    both.target.command("quit")
    assert both.target.wait(30.0) == 0


def test_guest_that_ends_early_needs_no_more_memory(pair: Callable[..., Pair]) -> None:
    both = pair()
    both.start(postcopy_limit=1 << 16)
    both.target.send("poweroff\n")
    assert both.target.wait(120.0) == 0
    assert both.source.wait_migrated()["status"] == "completed"


def test_reset_waits_for_all_memory(pair: Callable[..., Pair]) -> None:
    """What comes after it would overwrite the new guest's memory."""
    both = pair()
    both.start()
    both.target.command("system_reset")
    assert both.finish()["status"] == "completed"
    both.target.wait_for(READY, BOOT_SECONDS)
    both.target.wait_for("# ", BOOT_SECONDS)
    assert trouble_in(both.target.text) == []


def test_refusals(tmp_path: Path) -> None:
    """A clear error, and the guest stays where it is."""
    with Emulator(tmp_path, "source", LE_SMALL.arguments()) as source:
        with pytest.raises(ExecuteError, match="Start a migration first"):
            source.command("migrate-start-postcopy")
        allow(source)
        for uri in (f"file:{tmp_path}/x", "exec:cat >/dev/null"):
            with pytest.raises(ExecuteError, match="both directions"):
                source.command("migrate", uri=uri)
        uri = f"unix:{tmp_path}/migration"
        arguments = [*LE_SMALL.arguments(), "-incoming", uri]
        with Emulator(tmp_path, "target", arguments):
            answer = source.migrate(uri)  # where nobody has allowed it
        assert answer["status"] == "failed"
        assert "postcopy-ram is off" in answer["error-desc"]
        assert source.status() == "running"


def test_without_the_capability_it_does_not_start(tmp_path: Path) -> None:
    uri = f"unix:{tmp_path}/migration"
    arguments = LE_SMALL.arguments()
    with (
        Emulator(tmp_path, "source", arguments) as source,
        Emulator(tmp_path, "target", [*arguments, "-incoming", uri]),
    ):
        source.command("migrate-set-parameters", max_bandwidth=SLOW)
        source.command("migrate", uri=uri)
        with pytest.raises(ExecuteError, match="Enable postcopy"):
            source.command("migrate-start-postcopy")
        source.command("migrate_cancel")
        assert source.wait_migrated()["status"] == "cancelled"
