"""From how a test ended and what its lines say to its result; docs/runner.md has the rules."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from enum import Enum

from emu.runner.lines import TEXT_LIMIT, Outcome
from emu.runner.process import Finished

#: The exit status of a test that was not run (automake's convention, and kvm-unit-tests').
STATUS_SKIPPED = 77
_PANIC_STATUS = 3
#: What the emulator says when it ends by itself; notes are no reason.
_OWN_MESSAGE = re.compile(r"ppc64emu: (?!warning: |compiling hot paths )(.*)")
_PANIC = "guest panicked: "


class Ending(Enum):
    """How the emulator ended."""

    POWER_OFF = "power-off"
    EXIT = "exit"  # with a status of the guest's choice
    PANIC = "panic"
    TIMEOUT = "timeout"
    ERROR = "error"  # of the emulator: a refused option, an internal error, a signal


@dataclass(frozen=True)
class Result:
    """The result of one test. `reason` is one line; empty for a plain pass."""

    finished: Finished
    outcome: Outcome
    reason: str
    ending: Ending

    @property
    def bad(self) -> bool:
        """Whether it fails the whole run."""
        return self.outcome is Outcome.FAILED


def judge(done: Finished) -> Result:
    """The result of a finished test."""
    ending, why = _ending(done)
    expect = done.test.settings.expect
    if expect == "fail":
        return _expected_failure(done, ending, why)
    wanted = _wanted_ending(expect)
    failed_lines = done.verdict.outcome is Outcome.FAILED
    if wanted is not None and ending is wanted and expect in (ending.value, done.status):
        if failed_lines:
            return Result(done, Outcome.FAILED, done.verdict.reason, ending)
        return Result(done, Outcome.PASSED, f"{why}, as expected", ending)
    if wanted is not None:
        what = expect if isinstance(expect, str) else f"exit status {expect}"
        reason = "; ".join(filter(None, (f"{what} was expected", why, done.verdict.reason)))
        return Result(done, Outcome.FAILED, reason, ending)
    return _plain(done, ending, why)


def _wanted_ending(expect: str | int) -> Ending | None:
    """The ending that a test is to have, if not just any good one."""
    if isinstance(expect, int):
        return Ending.EXIT if expect else None
    return {"timeout": Ending.TIMEOUT, "panic": Ending.PANIC}.get(expect)


def _expected_failure(done: Finished, ending: Ending, why: str) -> Result:
    plain = _plain(done, ending, why)
    if ending is Ending.ERROR or plain.outcome is Outcome.SKIPPED:
        return plain
    if plain.outcome is Outcome.FAILED:
        return Result(done, Outcome.XFAILED, plain.reason, ending)
    return Result(done, Outcome.FAILED, "passed, but a failure was expected", ending)


def _plain(done: Finished, ending: Ending, why: str) -> Result:
    verdict = done.verdict
    if ending not in (Ending.POWER_OFF, Ending.EXIT):
        lines = verdict.reason if verdict.outcome is Outcome.FAILED else ""
        return Result(done, Outcome.FAILED, "; ".join(filter(None, (why, lines))), ending)
    if ending is Ending.EXIT and done.status == STATUS_SKIPPED:
        if verdict.outcome is not Outcome.FAILED:
            reason = verdict.reason if verdict.outcome is Outcome.SKIPPED else why
            return Result(done, Outcome.SKIPPED, reason, ending)
    elif ending is Ending.EXIT:
        lines = verdict.reason if verdict.outcome is Outcome.FAILED else ""
        return Result(done, Outcome.FAILED, "; ".join(filter(None, (why, lines))), ending)
    if done.test.settings.result == "status":
        return Result(done, Outcome.PASSED, "", ending)
    if verdict.outcome is Outcome.NONE:
        return Result(done, Outcome.FAILED, verdict.reason, ending)
    return Result(done, verdict.outcome, verdict.reason, ending)


def _ending(done: Finished) -> tuple[Ending, str]:
    """How it ended and, if that is worth a word, why."""
    if done.timed_out:
        return Ending.TIMEOUT, f"timeout after {done.test.settings.timeout:g} s"
    if done.status is None:
        return Ending.ERROR, f"the emulator was ended by {_signal_name(done.signal)}"
    if done.status == 0:
        return Ending.POWER_OFF, ""
    own = [found[1] for line in done.messages.splitlines() if (found := _OWN_MESSAGE.match(line))]
    last = own[-1][:TEXT_LIMIT] if own else ""
    if done.status == _PANIC_STATUS and last.startswith(_PANIC):
        return Ending.PANIC, f"guest panic: {last.removeprefix(_PANIC)}"
    if own:
        return Ending.ERROR, f"emulator error: {last}"
    return Ending.EXIT, f"exit status {done.status}"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
