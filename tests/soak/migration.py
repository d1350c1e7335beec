"""Guests that move again and again, and migrations that break at every place."""

from __future__ import annotations

import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.boot.guests import Guest
from tests.migration.cutting import CuttingProxy, Point
from tests.migration.load_guest import LoadGuest, fault_in, go_on, last_words
from tests.migration.ping_pong import MODES, ping_pong
from tests.soak.result import Result
from tests.support.process import Emulator

_MODES = {"power8": "legacy", "power9": "modern"}


def migration(guest: Guest, cpu: str, count: int, mode: str = "") -> Result:
    """Move a Linux guest under load ``count`` times to and fro."""
    mode = mode or _MODES[cpu]
    assert mode in MODES
    with tempfile.TemporaryDirectory(prefix="soak-migration-") as folder:
        report = ping_pong(Path(folder), guest, cpu, mode, count)
    median = statistics.median(report.downtimes) if report.downtimes else 0
    detail = (
        f"{report.moves} of {count} moves, {report.ticks} ticks, median downtime {median} ms"
        f" {report.fault}"
    )
    return Result(f"migration {guest.name} {cpu} {mode}", not report.fault, detail.strip())


def faults(count: int, seed: int = 1) -> Result:
    """Break ``count`` migrations of one guest at places spread over all of the stream.

    One in ten is cut around the hand-over, one in ten is cancelled; the others are cut, and half
    of their destinations killed.  The guest must come through all of it.
    """
    name = "migration-faults"
    done: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="soak-faults-") as folder:
        soak = _Faults(LoadGuest(Path(folder), order="le", mmu="hash"), random.Random(seed))
        try:
            for number in range(count):
                what = soak.round(number, count)
                done[what] = done.get(what, 0) + 1
                if (number + 1) % 50 == 0:
                    print(f"{name}: {number + 1} of {count}", file=sys.stderr, flush=True)
        except AssertionError as error:
            why = " | ".join(str(error).splitlines())
            return Result(name, False, f"{sum(done.values())} of {count}: {why}")
        finally:
            soak.here.close()
    return Result(name, True, f"{count} of {count}: {done}, {soak.moves} moves in between")


class _Faults:
    """One guest, and what is done to its migrations."""

    def __init__(self, guest: LoadGuest, chance: random.Random) -> None:
        self.guest = guest
        self.chance = chance
        self.moves = 0
        self.text = ""
        self.here = guest.start("host0")
        self.size = self._stream_size()

    def _stream_size(self) -> int:
        file = self.guest.folder / "saved"
        assert self.here.migrate(f"file:{file}")["status"] == "completed"
        self.here.command("cont")
        size = file.stat().st_size
        file.unlink()
        return size

    def round(self, number: int, count: int) -> str:
        """One migration that fails, or nearly; what was done."""
        target, uri = self.guest.waiting(f"host{os.urandom(4).hex()}")
        there = None
        try:
            if number % 10 == 3:
                what, there = self._break_hand_over(target, uri)
            elif number % 10 == 7:
                what, there = self._cancel(target, uri)
            else:
                what, there = self._cut(target, uri, self.size * number // count)
        finally:
            if there is not target:
                target.close()
        if there is target:
            self.text += self.here.text
            self.here.close()
            self.here = target
            self.moves += 1
        go_on(self.here)
        assert self.guest.disk_is_locked(), "nobody has the disk"
        fault = fault_in(self.text, self.here.text)
        assert not fault, fault
        return what

    def _cut(self, target: Emulator, uri: str, after: int) -> tuple[str, Emulator | None]:
        kill = self.chance.random() < 0.5
        action = target.kill if kill else lambda: None
        with CuttingProxy(self.guest.folder, uri, after=after, before_cut=action) as proxy:
            answer = self.here.migrate(proxy.uri)
        if answer["status"] == "completed":  # it was shorter than the one that was measured
            return "completed", target
        self._failed(answer["status"], "failed")
        if not kill:
            self._gave_up(target)
        return "killed" if kill else "cut", None

    def _break_hand_over(self, target: Emulator, uri: str) -> tuple[str, Emulator | None]:
        point = self.chance.choice(list(Point))
        with CuttingProxy(self.guest.folder, uri, point=point) as proxy:
            answer = self.here.migrate(proxy.uri)
            if point in (Point.ACK_LOST, Point.ACK_PASSED):
                expected = "failed" if point is Point.ACK_LOST else "completed"
                assert answer["status"] == expected, answer
                assert self.here.status() == "postmigrate"
                go_on(target)
                return point.name, target
        if point is Point.GO_LOST:
            assert self.here.status() == "postmigrate"
            self._gave_up(target)
            self.here.command("cont")
        else:
            self._failed(answer["status"], "failed")
            self._gave_up(target)
        return point.name, None

    def _cancel(self, target: Emulator, uri: str) -> tuple[str, Emulator | None]:
        self.here.command("migrate", uri=uri)
        time.sleep(self.chance.uniform(0, 0.3))
        self.here.command("migrate_cancel")
        answer = self.here.wait_migrated()
        if answer["status"] == "completed":
            return "cancelled too late", target
        self._failed(answer["status"], "cancelled")
        self._gave_up(target)
        return "cancelled", None

    def _failed(self, status: str, expected: str) -> None:
        assert status == expected, status
        assert self.here.status() == "running", self.here.status()

    def _gave_up(self, target: Emulator) -> None:
        status, words = target.wait(), last_words(target)
        assert (status, len(words)) == (1, 1), words
