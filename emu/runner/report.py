"""What the user sees: a line for each test, progress on a terminal, the table at the end."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from emu.runner.collect import Test
from emu.runner.judge import Ending, Result, judge
from emu.runner.lines import LineResult, Outcome, clean
from emu.runner.process import Finished

_STYLES = {
    Outcome.PASSED: "green",
    Outcome.FAILED: "bold red",
    Outcome.SKIPPED: "yellow",
    Outcome.XFAILED: "yellow",
}
#: Columns where there is no terminal to ask: log files wrap nothing.
_PLAIN_WIDTH = 200
#: Lines of the console shown for a failed test.
_TAIL_LINES = 8
_SHOWN_RUNNING = 4
_REFRESH = 0.1  # seconds


class Reporter:
    """The pool's listener; keeps the results. Verbosity: -1 totals only, 0, 1 every line."""

    def __init__(self, total: int, verbosity: int = 0) -> None:
        self.results: list[Result] = []
        self._verbosity = verbosity
        self._begin = time.monotonic()
        terminal = sys.stdout.isatty()
        self.console = Console(
            file=sys.stdout,
            width=None if terminal else _PLAIN_WIDTH,
            highlight=False,
            emoji=False,
            markup=False,
            soft_wrap=not terminal,
        )
        # Refreshed from tick() alone: a thread of its own would not survive the launcher's fork.
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            auto_refresh=False,
            transient=True,
            disable=not terminal,
        )
        self._task = self._progress.add_task("", total=total)
        self._counts: Counter[Outcome] = Counter()
        self._next_refresh = 0.0

    def __enter__(self) -> Reporter:
        self._progress.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._progress.stop()

    def started(self, test: Test) -> None:
        """See `Listener`."""

    def result(self, test: Test, result: LineResult) -> None:
        """See `Listener`."""
        if self._verbosity > 0:
            text = Text(f"  {test.name}: ")
            text.append(result.outcome.value, _STYLES[result.outcome])
            self.console.print(text.append(f" {result.name}"))

    def finished(self, done: Finished) -> None:
        """See `Listener`."""
        self.add(judge(done))

    def add(self, result: Result) -> None:
        """Note a result, and tell it."""
        self.results.append(result)
        self._counts[result.outcome] += 1
        self._progress.advance(self._task)
        if self._verbosity >= 0:
            line = Text(f"{result.outcome.value.upper():8}", _STYLES[result.outcome])
            line.append(f"{result.finished.test.name} {result.finished.seconds:.1f} s", "default")
            reason = f": {result.reason}" if result.reason else ""
            self.console.print(line.append(reason, "default"))

    def tick(self, running: Iterable[Test]) -> None:
        """See `Listener`."""
        now = time.monotonic()
        if self._progress.disable or now < self._next_refresh:
            return
        self._next_refresh = now + _REFRESH
        names = [test.name for test in running]
        more = f" and {len(names) - _SHOWN_RUNNING} more" if len(names) > _SHOWN_RUNNING else ""
        failed = self._counts[Outcome.FAILED]
        text = f"{', '.join(names[:_SHOWN_RUNNING])}{more}" + (f" ({failed} failed)" * bool(failed))
        self._progress.update(self._task, description=text)
        self._progress.refresh()

    def summary(self, results: Sequence[Result]) -> None:
        """Consoles of failed tests, the table, the totals."""
        if self._verbosity >= 0:
            for result in results:
                if result.bad:
                    self._show_failure(result)
            self.console.print(_table(results))
        seconds = time.monotonic() - self._begin
        counts = Counter(result.outcome for result in results)
        parts = [f"{counts[outcome]} {outcome.value}" for outcome in _STYLES if counts[outcome]]
        style = _STYLES[Outcome.FAILED if counts[Outcome.FAILED] else Outcome.PASSED]
        self.console.print(Text(f"{', '.join(parts)} in {seconds:.1f} s", style))

    def _show_failure(self, result: Result) -> None:
        done = result.finished
        self.console.print(Text(f"\n--- {done.test.name}: {result.reason}", "bold"))
        lines = [clean(line) for line in done.tail.replace(b"\r", b"\n").split(b"\n")]
        for line in [line for line in lines if line.strip()][-_TAIL_LINES:]:
            self.console.print(Text(f"    {line}"))
        if result.ending is Ending.ERROR:
            for line in done.messages.splitlines()[-_TAIL_LINES:]:
                self.console.print(Text(f"    {clean(line.encode())}", "dim"))
        if done.log is not None:
            self.console.print(Text(f"    log: {done.log}", "dim"))


def _table(results: Sequence[Result]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("test", "result", "passed", "failed", "skipped", "xfailed", "time", "reason"):
        numeric = name in ("passed", "failed", "skipped", "xfailed", "time")
        table.add_column(name, justify="right" if numeric else "left", no_wrap=name != "reason")
    for result in results:
        done, counts = result.finished, result.finished.verdict.counts
        table.add_row(
            Text(done.test.name),
            Text(result.outcome.value, _STYLES[result.outcome]),
            *(
                str(counts[outcome]) if counts[outcome] else ""
                for outcome in (Outcome.PASSED, Outcome.FAILED, Outcome.SKIPPED, Outcome.XFAILED)
            ),
            f"{done.seconds:.1f} s",
            Text(result.reason),
        )
    return table
