"""The user's terminal: raw mode while the guest has it, and put back whatever happens."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import termios
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

#: Index of the fields in termios.tcgetattr's list.
_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6

#: Signals that end the process by default, without giving Python a chance to clean up.
_FATAL = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

_raw_terminals: list[Terminal] = []


class Terminal:
    r"""Raw mode of the terminal at `fd`, which it owns; any thread.

    `keep_signals`: Ctrl-C, Ctrl-Z and Ctrl-\ keep raising signals. `on_continue` is called, on
    the main thread, when the process goes on after it was stopped.
    """

    def __init__(self, fd: int, *, keep_signals: bool, on_continue: Callable[[], object]) -> None:
        self._fd = fd
        self._keep_signals = keep_signals
        self.on_continue = on_continue
        # Re-entrant: a signal handler may interrupt the main thread inside.
        self._lock = threading.RLock()
        self._saved: list[Any] | None = None

    def in_foreground(self) -> bool:
        """Whether this process may read from the terminal now; OSError if it is gone."""
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:
            # Not our controlling terminal: there is no job control, so nobody stops us.
            termios_attributes(self._fd)
            return True

    def enter_raw(self) -> None:
        """Pass every byte on unchanged; output keeps its newline translation, as in QEMU."""
        with self._lock:
            if self._fd < 0:
                return  # closed meanwhile
            attributes = termios_attributes(self._fd)
            if self._saved is None:
                self._saved = attributes
            _set_attributes(self._fd, _raw(attributes, self._keep_signals))
            if self not in _raw_terminals:
                _raw_terminals.append(self)
        _install_handlers()

    def restore(self) -> None:
        """Put the terminal back to what it was before `enter_raw`. Idempotent."""
        with self._lock:
            if self._saved is not None:
                with contextlib.suppress(OSError, termios.error):
                    _set_attributes(self._fd, self._saved)
                self._saved = None
            if self in _raw_terminals:
                _raw_terminals.remove(self)

    def close(self) -> None:
        """Restore for good and close the descriptor. Idempotent."""
        with self._lock:
            self.restore()
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1


def termios_attributes(fd: int) -> list[Any]:
    """Return the terminal's attributes; OSError if it is gone."""
    try:
        return termios.tcgetattr(fd)
    except termios.error as error:
        raise OSError(*error.args) from error


def restore_terminals() -> None:
    """Put back every terminal that is in raw mode."""
    for terminal in list(_raw_terminals):
        terminal.restore()


def _raw(attributes: list[Any], keep_signals: bool) -> list[Any]:
    raw = list(attributes)
    iflag, oflag, cflag, lflag = raw[: _LFLAG + 1]
    raw[_IFLAG] = iflag & ~(
        termios.IGNBRK
        | termios.BRKINT
        | termios.PARMRK
        | termios.ISTRIP
        | termios.INLCR
        | termios.IGNCR
        | termios.ICRNL
        | termios.IXON
    )
    raw[_OFLAG] = oflag | termios.OPOST
    raw[_CFLAG] = (cflag & ~(termios.CSIZE | termios.PARENB)) | termios.CS8
    lflag &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.IEXTEN)
    raw[_LFLAG] = lflag if keep_signals else lflag & ~termios.ISIG
    control = list(raw[_CC])
    control[termios.VMIN], control[termios.VTIME] = 1, 0
    raw[_CC] = control
    return raw


def _set_attributes(fd: int, attributes: list[Any]) -> None:
    # A background process that changes the terminal is stopped, unless SIGTTOU is blocked.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        termios.tcsetattr(fd, termios.TCSANOW, attributes)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _install_handlers() -> None:
    """Handle the signals nobody else handles; only possible on the main thread."""
    atexit.unregister(restore_terminals)
    atexit.register(restore_terminals)
    if threading.current_thread() is not threading.main_thread():
        return
    for signum in _FATAL:
        if signal.getsignal(signum) is signal.SIG_DFL:
            signal.signal(signum, _die)
    if signal.getsignal(signal.SIGTSTP) is signal.SIG_DFL:
        signal.signal(signal.SIGTSTP, _stop)
    if signal.getsignal(signal.SIGCONT) is signal.SIG_DFL:
        signal.signal(signal.SIGCONT, _continue)
    # Reading in the background shall be an error, not a stop: the guest goes on without input.
    if signal.getsignal(signal.SIGTTIN) is signal.SIG_DFL:
        signal.signal(signal.SIGTTIN, signal.SIG_IGN)


def _die(signum: int, frame: FrameType | None) -> None:
    restore_terminals()
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)


def _stop(signum: int, frame: FrameType | None) -> None:
    terminals = list(_raw_terminals)
    restore_terminals()
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    signal.signal(signum, _stop)
    for terminal in terminals:
        terminal.on_continue()


def _continue(signum: int, frame: FrameType | None) -> None:
    for terminal in list(_raw_terminals):
        terminal.on_continue()
