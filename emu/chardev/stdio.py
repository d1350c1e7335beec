"""The process's own standard input and output as a console."""

from __future__ import annotations

import os

from emu.chardev.fdio import FdChardev, private_fd
from emu.chardev.terminal import Terminal
from emu.events import EventLoop, Timer

#: Seconds between looks at whether a background job has become the foreground job.
_FOREGROUND_POLL = 0.5


class StdioChardev(FdChardev):
    """Standard input and output; a terminal is raw while this is open and in the foreground.

    End of file on the input is just that: the guest goes on. Create it on the main thread, so that
    the terminal is also restored when a signal ends or stops the process.
    """

    def __init__(
        self,
        label: str,
        loop: EventLoop,
        *,
        signals: bool = True,
        stdin: int = 0,
        stdout: int = 1,
    ) -> None:
        super().__init__(label, loop)
        self._terminal: Terminal | None = None
        self._timer: Timer | None = None
        in_fd = private_fd(stdin, os.O_RDONLY) if _is_open(stdin) else None
        out_fd = private_fd(stdout, os.O_WRONLY) if _is_open(stdout) else None
        if in_fd is not None and os.isatty(in_fd):
            self._terminal = Terminal(
                os.dup(in_fd), keep_signals=signals, on_continue=self._continued
            )
        self._attach(in_fd, out_fd)

    def close(self) -> None:
        """Restore the terminal and release the descriptors (never 0 and 1 themselves)."""
        if self.closed:
            return
        super().close()
        if self._timer is not None:
            self._timer.cancel()
        if self._terminal is not None:
            self._terminal.close()

    def _start_reading(self) -> None:
        if self._terminal is None:
            super()._start_reading()
            return
        if self.closed:
            return
        try:
            if self._terminal.in_foreground():
                self._terminal.enter_raw()
                super()._start_reading()
            else:
                self._wait_for_foreground()
        except OSError as error:
            super()._hangup(error)

    def _hangup(self, error: OSError | None) -> None:
        # A read in the background fails with EIO; so does one from a terminal that is gone.
        if error is not None and self._terminal is not None:
            self._stop_reading()
            try:
                if not self._terminal.in_foreground():
                    self._wait_for_foreground()
                    return
            except OSError:
                pass
        super()._hangup(error)

    def _wait_for_foreground(self) -> None:
        self._stop_reading()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(_FOREGROUND_POLL, self._start_reading)

    def _continued(self) -> None:
        self.loop.call_soon_threadsafe(self._start_reading)


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
