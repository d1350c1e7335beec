"""Reads test results from a console's bytes: TAP and the lines of hypervisor unit tests.

    parser = LineParser()
    for data in console:                  # bytes in any pieces
        for result in parser.feed(data):  # LineResult: name, outcome, message, line
            ...
    last = parser.finish()                # results of a last line without newline
    verdict = parser.verdict()            # Verdict: outcome, reason, counts

Anything may come: binary data, lines without end, escape codes, 100 MB. Memory is bounded, and
nothing is raised. docs/runner.md lists the lines.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from emu.runner.results import LineResult, Outcome, Verdict
from emu.runner.tap import Tap

__all__ = ["LINE_LIMIT", "TEXT_LIMIT", "LineParser", "LineResult", "Outcome", "Verdict", "clean"]

#: Bytes of one line that are looked at; the rest is dropped.
LINE_LIMIT = 4096
#: Characters of a name or message.
TEXT_LIMIT = 500

#: What must be in a line of interest; searched for in whole chunks, because a loop over all lines
#: of a console that floods would take minutes.
_CANDIDATE = re.compile(
    rb"ok|PASS|FAIL|SKIP: |SUMMARY: |ABORT: |EXCEPTION: |DONE: |EXIT: |1\.\.|Bail out!|TAP version"
)
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # ECMA-48, 5.4: control sequences
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # operating system commands
    r"|\x1b[ -/]*[0-~]"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\ufffe\uffff]")
_KEYWORD = re.compile(r"(X?PASS|[XK]?FAIL|SKIP|SUMMARY|ABORT|EXCEPTION|DONE|EXIT): +(.*)")
_OUTCOMES = {
    "PASS": Outcome.PASSED,
    "FAIL": Outcome.FAILED,
    "XPASS": Outcome.FAILED,
    "XFAIL": Outcome.XFAILED,
    "KFAIL": Outcome.XFAILED,
    "SKIP": Outcome.SKIPPED,
}
_FAILURES_IN_SUMMARY = re.compile(r"(\d{1,9}) unexpected failures")
_STATUS = re.compile(r"STATUS=(\d{1,9})$")
#: Statuses of EXIT lines: `exit(n)` of kvm-unit-tests prints 2 n + 1, and 77 is "all skipped".
_STATUS_PASSED, _STATUS_SKIPPED = 1, 77


def clean(data: bytes, limit: int = TEXT_LIMIT) -> str:
    """A line of console output as text: no escape sequences, no control characters but tabs."""
    text = data.decode("utf-8", "replace")
    if text.isprintable():
        return text[:limit]
    text = _ESCAPES.sub("", text)
    return _CONTROLS.sub("", text)[:limit]


class LineParser:
    """Collects the results of one console. Not thread-safe."""

    def __init__(self) -> None:
        self.counts: Counter[Outcome] = Counter()
        self._tap = Tap()
        self._rest = b""  # the last line, as far as it came
        self._line = 1  # its number
        self._after_cr = False
        self._first_failure = ""
        self._trouble = ""  # what fails the image beside its tests
        self._skip_reason = ""
        self._only_skips = False
        self._said_something = False

    def feed(self, data: bytes) -> list[LineResult]:
        """Take the next bytes; return the results of the lines that end in them."""
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
        self._after_cr = data.endswith(b"\r") or (self._after_cr and not data)
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        last = data.rfind(b"\n")
        if last < 0:
            self._keep(data)
            return []
        chunk, rest = self._rest + data[:last], data[last + 1 :]
        self._rest = b""
        results = self._lines(chunk)
        self._line += chunk.count(b"\n") + 1
        self._keep(rest)
        return results

    def finish(self) -> list[LineResult]:
        """The console has ended: return the results of a last line without newline."""
        results = self._lines(self._rest)
        self._rest = b""
        return results

    def verdict(self) -> Verdict:
        """What the lines so far say. Failures win over the end of a plan, that over skips."""
        counts = Counter(self.counts)
        trouble = self._trouble or self._tap.trouble()
        if self.counts[Outcome.FAILED] or trouble:
            failures = self.counts[Outcome.FAILED]
            more = f" (and {failures - 1} more)" if failures > 1 else ""
            failed = f"failed: {self._first_failure}{more}" if failures else ""
            return Verdict(Outcome.FAILED, "; ".join(filter(None, (trouble, failed))), counts)
        if self.counts[Outcome.PASSED] or self.counts[Outcome.XFAILED]:
            return Verdict(Outcome.PASSED, "", counts)
        if self.counts[Outcome.SKIPPED] or self._only_skips or self._tap.skips_all:
            reason = self._tap.skip_reason or self._skip_reason
            return Verdict(Outcome.SKIPPED, reason, counts)
        if self._said_something or self._tap.seen:
            return Verdict(Outcome.PASSED, "", counts)
        return Verdict(Outcome.NONE, "no result lines on the console", counts)

    def _keep(self, data: bytes) -> None:
        self._rest += data[: LINE_LIMIT - len(self._rest)]

    def _lines(self, chunk: bytes) -> list[LineResult]:
        """The results in these lines, the first of which is number `_line`."""
        results: list[LineResult] = []
        position, number, counted = 0, self._line, 0
        while match := _CANDIDATE.search(chunk, position):
            start = chunk.rfind(b"\n", 0, match.start()) + 1
            end = chunk.find(b"\n", match.end())
            end = len(chunk) if end < 0 else end
            number += chunk.count(b"\n", counted, start)
            counted = start
            text = clean(chunk[start : min(end, start + LINE_LIMIT)], LINE_LIMIT)
            if (result := self._read(text.rstrip(), number)) is not None:
                self._count(result)
                results.append(result)
            position = end
        return results

    def _read(self, text: str, line: int) -> LineResult | None:
        if keyword := _KEYWORD.match(text):
            word, rest = keyword.groups()
            if (outcome := _OUTCOMES.get(word)) is not None:
                message = "unexpected pass" if word == "XPASS" else ""
                return LineResult(rest[:TEXT_LIMIT], outcome, message, line)
            _WORDS[word](self, rest[:TEXT_LIMIT])
            return None
        return self._tap.read(text, line, TEXT_LIMIT)

    def _count(self, result: LineResult) -> None:
        self.counts[result.outcome] += 1
        if result.outcome is Outcome.FAILED and not self._first_failure:
            self._first_failure = result.name
        if result.outcome is Outcome.SKIPPED and not self._skip_reason:
            self._skip_reason = result.message or result.name

    def _fail(self, reason: str) -> None:
        self._trouble = self._trouble or reason

    def _summary(self, rest: str) -> None:
        """The image's own count: its failures are failures even if their lines were lost."""
        self._said_something = True
        failures = _FAILURES_IN_SUMMARY.search(rest)
        if failures and int(failures[1]) > self.counts[Outcome.FAILED]:
            self._fail(f"the summary says: {rest}")

    def _abort(self, rest: str) -> None:
        self._fail(f"aborted: {rest}")

    def _exception(self, rest: str) -> None:
        self._fail(f"exception: {rest}")

    def _done(self, rest: str) -> None:
        self._said_something = True
        if rest.split()[:1] == ["failed"] and not self.counts[Outcome.FAILED]:
            self._fail("the image says it failed")

    def _exit(self, rest: str) -> None:
        if (status := _STATUS.match(rest)) is None:
            return
        self._said_something = True
        number = int(status[1])
        if number == _STATUS_SKIPPED:
            self._only_skips = True
        elif number != _STATUS_PASSED and not self.counts[Outcome.FAILED]:
            self._fail(f"the image exits with status {number}")


_WORDS: dict[str, Callable[[LineParser, str], None]] = {
    "SUMMARY": LineParser._summary,
    "ABORT": LineParser._abort,
    "EXCEPTION": LineParser._exception,
    "DONE": LineParser._done,
    "EXIT": LineParser._exit,
}
