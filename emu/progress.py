"""A progress display on the user's terminal for work that takes long."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


class Progress:
    """What `progress()` yields; every method does nothing if there is no terminal."""

    def __init__(self, display: RichProgress | None = None, task: TaskID | None = None) -> None:
        self._display = display
        self._task = task

    def update(self, done: float, total: float) -> None:
        """Show that `done` of `total` is done (any unit); until then there is a spinner only."""
        if self._display is not None and self._task is not None:
            self._display.update(self._task, completed=done, total=total)

    def describe(self, description: str) -> None:
        """Change the text."""
        if self._display is not None and self._task is not None:
            self._display.update(self._task, description=description)


@contextmanager
def progress(description: str, stream: TextIO | None = None) -> Iterator[Progress]:
    """Show `description` on stderr (or `stream`) while the block runs, and remove it after.

    Silent if that is no terminal. Finish before a console takes over the terminal.
    """
    stream = sys.stderr if stream is None else stream
    if stream is None or not stream.isatty():
        yield Progress()
        return
    from rich.console import Console  # slow to import, and most runs do not need it
    from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Display

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
    )
    with Display(*columns, console=Console(file=stream), transient=True) as display:
        yield Progress(display, display.add_task(description, total=None))
