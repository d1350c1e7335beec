"""Sends RAM of a running guest, no faster than it may."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np

from emu.migration.ram import PageNumbers, RamSource, batches
from emu.migration.sections import PART, begin, finish
from emu.migration.status import Parameters, Progress
from emu.migration.stream import StreamWriter

_SLICE_SECONDS = 0.1
_SLICE_PAGES = 8192


class _Pace:
    """Keeps what a writer sends within max-bandwidth."""

    def __init__(
        self, writer: StreamWriter, parameters: Parameters, cancelled: threading.Event
    ) -> None:
        self._writer = writer
        self._parameters = parameters
        self._cancelled = cancelled
        self._begun = time.monotonic()
        self._start = writer.position

    def keep(self) -> None:
        """Wait until no more has been sent than may have been by now."""
        while (limit := self._parameters.max_bandwidth) and not self._cancelled.is_set():
            sent = self._writer.position - self._start
            ahead = sent / limit - (time.monotonic() - self._begun)
            if ahead <= 0:
                return
            self._cancelled.wait(min(ahead, _SLICE_SECONDS))


class RamSender:
    """PART sections of RAM, and what is known of their progress.

    ``check_cancelled`` raises when the user has cancelled.
    """

    def __init__(
        self,
        ram: RamSource,
        section: int,
        progress: Progress,
        parameters: Parameters,
        cancelled: threading.Event,
        check_cancelled: Callable[[], None],
    ) -> None:
        self._ram = ram
        self._section = section
        self._progress = progress
        self._parameters = parameters
        self._cancelled = cancelled
        self._check_cancelled = check_cancelled

    def send(
        self, writer: StreamWriter, pages: PageNumbers, enough: threading.Event
    ) -> PageNumbers:
        """Write these pages, until it is ``enough``; returns those that were not written."""
        pace = _Pace(writer, self._parameters, self._cancelled)
        self.note(writer, len(pages))
        for at in range(0, len(pages), _SLICE_PAGES):
            left = len(pages) - at
            begin(writer, PART, self._section)
            full = self._ram.write_zeros(writer, pages[at : at + _SLICE_PAGES])
            for batch in batches(full):
                self._check_cancelled()
                if enough.is_set():
                    break
                self._ram.write_batch(writer, batch)
                left -= len(batch)
                full = full[len(batch) :]
                self.note(writer, left)
                pace.keep()
            self._ram.end(writer)
            finish(writer, self._section)
            writer.flush()
            if enough.is_set():
                return np.concatenate([full, pages[at + _SLICE_PAGES :]])
        return np.empty(0, np.int64)

    def note(self, writer: StreamWriter, pages_left: int = 0) -> None:
        """Keep the progress up to date."""
        progress = self._progress
        progress.remaining = pages_left * progress.page_size
        progress.transferred = writer.position
        progress.zero_pages = self._ram.zero_pages
        progress.normal_pages = self._ram.normal_pages
