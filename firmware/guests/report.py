"""Progress on standard error: rich on a terminal, one plain line a step elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType


class Report:
    """Shows the running step; use as a context manager so the terminal is left clean."""

    def __init__(self) -> None:
        """Look at standard error once; rich is only loaded when a step needs it."""
        self._terminal = sys.stderr.isatty()
        self._status: object = None
        self._started = time.monotonic()

    def __enter__(self) -> Report:
        """Start; nothing is shown before the first step."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the spinner off the terminal."""
        self._stop()

    def _stop(self) -> None:
        from rich.status import Status

        if isinstance(self._status, Status):
            self._status.stop()
            self._status = None

    def step(self, text: str) -> None:
        """Say what is being done now."""
        elapsed = f"[{time.monotonic() - self._started:5.0f} s]"
        if not self._terminal:
            print(f"guests {elapsed} {text}", file=sys.stderr, flush=True)
            return
        from rich.console import Console
        from rich.markup import escape

        self._stop()
        console = Console(stderr=True)
        console.print(f"[dim]{escape(elapsed)}[/dim] {escape(text)}")
        self._status = console.status(escape(text))
        self._status.start()
