"""One test that runs: its process, its console, its deadline."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from emu.runner.collect import Test
from emu.runner.launcher import Launcher
from emu.runner.lines import LineParser, LineResult, Outcome, Verdict
from emu.runner.log import ConsoleLog

#: Single results kept of one image, and failures kept beyond that.
RESULTS_LIMIT = 1000
#: Bytes kept of what the emulator itself says.
MESSAGES_LIMIT = 64 << 10
_PIECE = 1 << 16
#: Seconds from SIGTERM, which lets the emulator end in order, to SIGKILL.
GRACE = 3.0


@dataclass
class Finished:
    """What one test did. `status` is None if a signal ended it; `seconds` of wall time."""

    test: Test
    verdict: Verdict
    results: list[LineResult] = field(default_factory=list)
    dropped: int = 0  # results beyond those kept
    status: int | None = 0
    signal: int = 0
    timed_out: bool = False
    messages: str = ""
    seconds: float = 0.0
    tail: bytes = b""
    log: Path | None = None


class RunningTest:
    """A started test. `descriptors` are to be watched; all methods on one thread."""

    def __init__(
        self,
        test: Test,
        arguments: list[str],
        launcher: Launcher,
        log: ConsoleLog,
        on_result: Callable[[Test, LineResult], None],
    ) -> None:
        self.test = test
        self._log = log
        self._on_result = on_result
        self._parser = LineParser()
        self._results: list[LineResult] = []
        self._failures_beyond = 0
        self._dropped = 0
        self._messages = bytearray()
        self._timed_out = False
        self._killed = False
        self._begin = time.monotonic()
        self.deadline = self._begin + test.settings.timeout
        self._output, output = os.pipe()
        self._errors, errors = os.pipe()
        for fd in (self._output, self._errors):
            os.set_blocking(fd, False)
        try:
            self.pid, self.pidfd = launcher.start(arguments, test.directory, output, errors)
        except BaseException:
            os.close(self._output)
            os.close(self._errors)
            raise
        finally:
            os.close(output)
            os.close(errors)

    @property
    def descriptors(self) -> tuple[int, int, int]:
        """The console, the messages, and what becomes readable when the process ends."""
        return self._output, self._errors, self.pidfd

    def read(self, fd: int) -> bool:
        """Take what there is in a descriptor; False at its end."""
        try:
            data = os.read(fd, _PIECE)
        except BlockingIOError:
            return True
        if fd == self._output:
            self._log.write(data)
            self._take(self._parser.feed(data))
        else:
            self._messages += data[: MESSAGES_LIMIT - len(self._messages)]
        return bool(data)

    def _take(self, results: list[LineResult]) -> None:
        for result in results:
            failed = result.outcome is Outcome.FAILED
            if len(self._results) < RESULTS_LIMIT:
                self._results.append(result)
            elif failed and self._failures_beyond < RESULTS_LIMIT:
                self._failures_beyond += 1
                self._results.append(result)
            else:
                self._dropped += 1
            self._on_result(self.test, result)

    def expire(self) -> None:
        """The deadline has passed: end it, in order first, then at once."""
        self._timed_out = True
        self.kill(signal.SIGKILL if self._killed else signal.SIGTERM)
        self._killed = True
        self.deadline = time.monotonic() + GRACE

    def kill(self, signum: signal.Signals) -> None:
        """Send a signal to the process and its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signum)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signum)

    def finish(self) -> Finished:
        """The process has ended: read the rest, release everything."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)  # what a wrapper script may have left
        _, wait_status = os.waitpid(self.pid, 0)
        seconds = time.monotonic() - self._begin
        for fd in (self._output, self._errors):
            while _has_data(fd) and self.read(fd):
                pass
        self._take(self._parser.finish())
        messages = bytes(self._messages)
        self._log.close(messages)
        for fd in self.descriptors:
            os.close(fd)
        signalled = os.WIFSIGNALED(wait_status)
        return Finished(
            test=self.test,
            verdict=self._parser.verdict(),
            results=self._results,
            dropped=self._dropped,
            status=None if signalled else os.WEXITSTATUS(wait_status),
            signal=os.WTERMSIG(wait_status) if signalled else 0,
            timed_out=self._timed_out,
            messages=messages.decode("utf-8", "replace"),
            seconds=seconds,
            tail=self._log.tail(),
            log=self._log.path,
        )


def _has_data(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])
