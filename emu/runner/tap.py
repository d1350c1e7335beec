"""The Test Anything Protocol, versions 12 to 14: plan, test points, directives, bail out."""

from __future__ import annotations

import re

from emu.runner.results import LineResult, Outcome

_PLAN = re.compile(r"1\.\.(\d{1,9})\s*(?:#\s*(.*))?$")
_POINT = re.compile(r"(not )?ok\b(?:[ \t]+(\d{1,9})\b)?[ \t]*(.*)$")
_DIRECTIVE = re.compile(r"(?<!\\)#\s*(skip|todo)\S*\s*(.*)$", re.IGNORECASE)
_BAIL_OUT = re.compile(r"\s*Bail out!\s*(.*)$")
_SKIP = re.compile(r"skip\S*\s*(.*)$", re.IGNORECASE)
#: Numbers remembered to find the same one twice.
_NUMBERS_LIMIT = 100_000


class Tap:
    """State of one TAP stream; lines are given without their end."""

    def __init__(self) -> None:
        self.seen = False  # a version or plan line
        self.skips_all = False
        self.skip_reason = ""
        self._plan: int | None = None
        self._points = 0
        self._highest = 0
        self._next = 1
        self._numbers: set[int] = set()
        self._bailed_out: str | None = None
        self._error = ""

    def read(self, text: str, line: int, limit: int) -> LineResult | None:
        """The result in this line, if it is a test point; texts are cut at `limit`."""
        if text.startswith("TAP version "):
            self.seen = True
        elif plan := _PLAN.match(text):
            self._read_plan(int(plan[1]), plan[2] or "")
        elif bail_out := _BAIL_OUT.match(text):
            self._bailed_out = bail_out[1][:limit]
        elif point := _POINT.match(text):
            return self._read_point(point, line, limit)
        return None

    def trouble(self) -> str:
        """Why the stream is a failure whatever its points say; empty if it is not."""
        if self._bailed_out is not None:
            return f"bail out: {self._bailed_out}".rstrip(": ")
        if self._error:
            return self._error
        if self._plan is not None and self._points != self._plan:
            return f"planned {self._plan} tests but ran {self._points}"
        if self._plan is not None and self._highest > self._plan:
            return f"test {self._highest} is outside the plan 1..{self._plan}"
        if self._plan is None and (self.seen or self._points):
            return "no plan (1..N): the image may have ended early"
        return ""

    def _read_plan(self, count: int, comment: str) -> None:
        self.seen = True
        if self._plan is not None:
            self._error = self._error or "more than one plan: did the guest restart?"
            return
        self._plan = count
        if count == 0:
            self.skips_all = True
            skip = _SKIP.match(comment)
            self.skip_reason = skip[1] if skip else comment

    def _read_point(self, point: re.Match[str], line: int, limit: int) -> LineResult | None:
        failed, number, text = point[1] is not None, point[2], point[3]
        # Plain prose that begins with "ok" is no test point outside a stream.
        if not (self.seen or number or failed or text.startswith(("-", "#")) or not text):
            return None
        self._number(int(number) if number else self._next)
        message = ""
        outcome = Outcome.FAILED if failed else Outcome.PASSED
        if directive := _DIRECTIVE.search(text):
            text, message = text[: directive.start()], directive[2].strip()
            if directive[1].lower() == "todo":
                outcome = Outcome.XFAILED if failed else Outcome.PASSED
            else:
                outcome = Outcome.SKIPPED
        name = text.strip().removeprefix("-").strip().replace("\\#", "#").replace("\\\\", "\\")
        return LineResult((name or str(self._next - 1))[:limit], outcome, message[:limit], line)

    def _number(self, number: int) -> None:
        self._points += 1
        self._highest = max(self._highest, number)
        if number in self._numbers:
            self._error = self._error or f"test {number} ran twice"
        elif len(self._numbers) < _NUMBERS_LIMIT:
            self._numbers.add(number)
        self._next = number + 1
