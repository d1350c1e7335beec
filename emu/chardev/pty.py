"""A pseudo terminal that the user attaches a terminal program to."""

from __future__ import annotations

import os
import pty
import select
import sys
import tty

from emu.chardev.config import ConfigError
from emu.chardev.fdio import FdChardev, FdOutput
from emu.events import EventLoop, Timer

#: Seconds between looks at whether somebody opened the terminal.
_ATTACH_POLL = 0.2


class PtyChardev(FdChardev):
    """A new pseudo terminal, `path`; output is dropped while nobody has it open."""

    def __init__(self, label: str, loop: EventLoop) -> None:
        super().__init__(label, loop)
        try:
            self._master, slave = pty.openpty()
        except OSError as error:
            raise ConfigError(f"could not create a pseudo terminal: {error.strerror}") from error
        self.path = os.ttyname(slave)
        tty.setraw(slave)  # the terminal keeps this as long as the master is open
        os.close(slave)
        os.set_blocking(self._master, False)
        self._timer: Timer | None = None
        self._attach(os.dup(self._master), self._master)
        print(f"char device redirected to {self.path} (label {label})", flush=True, file=sys.stdout)

    def write(self, data: bytes) -> None:
        """Write to the terminal if somebody has it open."""
        if not self._hung_up():
            super().write(data)

    def close(self) -> None:
        """Close the master: who has the terminal open sees a hangup."""
        if self._timer is not None:
            self._timer.cancel()
        super().close()

    def _hung_up(self) -> bool:
        if self.closed:
            return True
        poller = select.poll()
        poller.register(self._master, 0)
        return bool(poller.poll(0))

    def _start_reading(self) -> None:
        # A hung-up master is always "readable", so it is looked at now and then instead.
        if self.closed:
            return
        if self._timer is not None:
            self._timer.cancel()
        if self._hung_up():
            self._timer = self.loop.call_later(_ATTACH_POLL, self._start_reading)
        else:
            super()._start_reading()

    def _hangup(self, error: OSError | None) -> None:
        self._stop_reading()
        self._start_reading()

    def _write_failed(self, output: FdOutput, error: OSError) -> None:
        """Nothing to report: the user closed the terminal."""
