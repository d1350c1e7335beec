"""Runs tests side by side, in one thread: several processes, one selector."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import signal
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from emu.runner.collect import Test
from emu.runner.config import RunnerError
from emu.runner.launcher import Launcher
from emu.runner.lines import LineResult, Outcome, Verdict
from emu.runner.log import ConsoleLog
from emu.runner.process import GRACE, Finished, RunningTest

_NAME_LIMIT = 200  # characters of a log file's name
_TICK = 0.25  # seconds between two looks at the clock


class Listener(Protocol):
    """Is told how things go."""

    def started(self, test: Test) -> None:
        """A test has started."""

    def result(self, test: Test, result: LineResult) -> None:
        """A line of it."""

    def finished(self, done: Finished) -> None:
        """It has ended."""

    def tick(self, running: Iterable[Test]) -> None:
        """Some time has passed."""


class Pool:
    """At most `parallel` emulators at once; their consoles go to `log_dir` if there is one."""

    def __init__(
        self,
        launcher: Launcher,
        listener: Listener,
        parallel: int,
        log_dir: Path | None,
        limit: int,
    ) -> None:
        self._launcher = launcher
        self._listener = listener
        self._parallel = parallel
        self._log_dir = log_dir
        self._limit = limit
        self._selector = selectors.DefaultSelector()
        self._log_names: set[str] = set()
        self._running: dict[int, RunningTest] = {}  # by process id

    def run(self, tests: Sequence[tuple[Test, list[str]]]) -> list[Finished]:
        """Run tests with these arguments; in order of the tests.

        Whatever interrupts it (KeyboardInterrupt), no process is left.
        """
        waiting = deque(tests)
        done: dict[str, Finished] = {}
        try:
            while waiting or self._running:
                while waiting and len(self._running) < self._parallel:
                    self._start(*waiting.popleft(), done)
                self._wait(done)
        finally:
            self._kill_all()
            self._selector.close()
        return [done[test.name] for test, _ in tests]

    def _start(self, test: Test, arguments: list[str], done: dict[str, Finished]) -> None:
        self._listener.started(test)
        log = ConsoleLog(self._log_path(test), self._limit)
        try:
            running = RunningTest(test, arguments, self._launcher, log, self._listener.result)
        except OSError as error:
            message = f"ppc64emu: cannot start the emulator: {error.strerror}"
            log.close(message.encode())
            self._end(Finished(test, Verdict(Outcome.NONE), status=1, messages=message), done)
            return
        self._running[running.pid] = running
        for fd in running.descriptors:
            self._selector.register(fd, selectors.EVENT_READ, running)

    def _log_path(self, test: Test) -> Path | None:
        if self._log_dir is None:
            return None
        stem = re.sub(r"[^A-Za-z0-9_.+-]", "_", test.name)
        stem = name = stem[:_NAME_LIMIT]
        while name in self._log_names:
            name = f"{stem}~{len(self._log_names)}"
        self._log_names.add(name)
        return self._log_dir / f"{name}.log"

    def _wait(self, done: dict[str, Finished]) -> None:
        now = time.monotonic()
        nearest = min((test.deadline for test in self._running.values()), default=now)
        for running in self._serve(max(0.0, min(nearest - now, _TICK))):
            self._end(self._reap(running), done)
        now = time.monotonic()
        for running in self._running.values():
            if now >= running.deadline:
                running.expire()
        self._listener.tick(running.test for running in self._running.values())

    def _serve(self, seconds: float) -> list[RunningTest]:
        """Read what there is, waiting so long at most for something; those that have ended."""
        ended: list[RunningTest] = []
        for key, _ in self._selector.select(seconds):
            running: RunningTest = key.data
            if key.fd == running.pidfd:
                ended.append(running)
            elif not running.read(key.fd):
                self._selector.unregister(key.fd)
        return ended

    def _reap(self, running: RunningTest) -> Finished:
        del self._running[running.pid]
        for fd in running.descriptors:
            if fd in self._selector.get_map():
                self._selector.unregister(fd)
        return running.finish()

    def _end(self, finished: Finished, done: dict[str, Finished]) -> None:
        done[finished.test.name] = finished
        self._listener.finished(finished)

    def _kill_all(self) -> None:
        """End what still runs: all are asked, then those that do not are killed."""
        for running in self._running.values():
            running.kill(signal.SIGTERM)
        end = time.monotonic() + GRACE
        while self._running and time.monotonic() < end:
            with contextlib.suppress(RunnerError):
                for running in self._serve(_TICK):
                    self._reap(running)
        for running in list(self._running.values()):
            running.kill(signal.SIGKILL)
            with contextlib.suppress(RunnerError):
                self._reap(running)


def default_parallel() -> int:
    """The CPUs this process may use."""
    return max(1, len(os.sched_getaffinity(0)))
