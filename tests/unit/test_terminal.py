"""The terminal: raw while a guest has it, restored however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pexpect.fdpexpect
import pytest

from tests.unit.chardev_tools import TIMEOUT, poll_until

HARNESS = """
import os, sys, threading
from emu.chardev import open_chardev
from emu.config import StdioConfig
from emu.events import EventLoop

mux, signals, end = eval(sys.argv[1])
loop = EventLoop()
loop.start()
done = threading.Event()
config = StdioConfig(id="serial0", mux=mux, signal=signals)
chardev = open_chardev(config, loop, on_quit=done.set)
def receive(data):
    chardev.write(b"<" + data.hex().encode() + b">")
    if data == b"q":
        done.set()
    return len(data)
chardev.set_receiver(receive)
chardev.write(b"ready %d\\n" % os.getpid())
try:
    done.wait(60)
    if end == "raise":
        raise RuntimeError("oops")
    if end == "close":
        chardev.close()
finally:
    print("end")
"""


class Terminal:
    """A program on a terminal of its own, and what the terminal's mode is."""

    def __init__(self, options: tuple[bool, bool, str]) -> None:
        self.fd, self._slave = os.openpty()
        self.before = termios.tcgetattr(self._slave)
        self.process = subprocess.Popen(
            [sys.executable, "-c", HARNESS, repr(options)],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            start_new_session=True,
            preexec_fn=self._take_terminal,
        )
        self.expect = pexpect.fdpexpect.fdspawn(self.fd, timeout=TIMEOUT)
        self.expect.expect("ready [0-9]+\r\n")

    def _take_terminal(self) -> None:
        os.close(os.open(os.ttyname(0), os.O_RDWR))

    def mode(self) -> list[object]:
        return termios.tcgetattr(self._slave)

    def is_raw(self) -> bool:
        return not termios.tcgetattr(self._slave)[3] & (termios.ICANON | termios.ECHO)

    def send(self, data: bytes) -> None:
        os.write(self.fd, data)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.fd)
        os.close(self._slave)


@pytest.fixture
def terminal() -> Iterator[Callable[[bool, bool, str], Terminal]]:
    opened: list[Terminal] = []

    def start(mux: bool, signals: bool, end: str) -> Terminal:
        opened.append(Terminal((mux, signals, end)))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


Start = Callable[[bool, bool, str], Terminal]


@pytest.mark.parametrize("end", ["close", "raise", "leave"])
def test_terminal_is_raw_and_restored(terminal: Start, end: str) -> None:
    tty = terminal(False, True, end)
    assert tty.is_raw()
    for sent, shown in ((b"\r", "<0d>"), (b"\n", "<0a>"), (b"\x13", "<13>"), (b"\x01", "<01>")):
        tty.send(sent)
        tty.expect.expect_exact(shown)
    tty.send(b"q")
    tty.expect.expect_exact("end")
    assert tty.process.wait(TIMEOUT) == (1 if end == "raise" else 0)
    assert tty.mode() == tty.before


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_terminal_is_restored_when_a_signal_ends_the_process(
    terminal: Start, signum: signal.Signals
) -> None:
    tty = terminal(False, True, "close")
    assert tty.is_raw()
    os.kill(tty.process.pid, signum)
    assert tty.process.wait(TIMEOUT) == -signum
    assert tty.mode() == tty.before


def test_control_c_ends_plain_stdio(terminal: Start) -> None:
    tty = terminal(False, True, "close")
    tty.send(b"\x03")
    assert tty.process.wait(TIMEOUT) == -signal.SIGINT
    assert tty.mode() == tty.before


def test_control_c_goes_to_the_guest_with_mux_and_escape_quits(terminal: Start) -> None:
    tty = terminal(True, False, "close")
    tty.send(b"\x03\x1a\x1c")
    tty.expect.expect_exact("<031a1c>")
    tty.send(b"\x01h")
    tty.expect.expect_exact("Ctrl-A x")
    tty.send(b"\x01x")
    tty.expect.expect_exact("ppc64emu: quit")
    assert tty.process.wait(TIMEOUT) == 0
    assert tty.mode() == tty.before


def test_job_control(tmp_path: Path) -> None:
    """Ctrl-Z gives the terminal back, bg leaves it alone, fg takes it again."""
    harness = tmp_path / "harness.py"
    harness.write_text(HARNESS)
    environment = {**os.environ, "PS1": "prompt> ", "ENV": "", "PYTHONPATH": os.getcwd()}
    shell = pexpect.spawn("sh", ["-i"], timeout=TIMEOUT, env=environment)

    def is_raw() -> bool:
        return not termios.tcgetattr(shell.child_fd)[3] & termios.ICANON

    def echo(sent: str, shown: str) -> None:
        shell.send(sent)
        shell.expect_exact(shown)

    try:
        shell.expect_exact("prompt> ")
        shell.sendline(f"{sys.executable} {harness} '(False, True, \"close\")'")
        shell.expect("ready ([0-9]+)\r\n")
        pid = int(shell.match[1])
        assert is_raw()
        echo("\r", "<0d>")
        shell.send("\x1a")
        shell.expect_exact("prompt> ")
        assert not is_raw()
        shell.sendline("bg")
        shell.expect_exact("prompt> ")
        poll_until(lambda: _is_running(pid))
        assert not is_raw()
        shell.sendline("fg")
        poll_until(is_raw)
        echo("\r", "<0d>")
        shell.send("\x1a")
        shell.expect_exact("prompt> ")
        shell.sendline("fg")
        poll_until(is_raw)
        shell.send("q")
        shell.expect_exact("end")
        shell.expect_exact("prompt> ")
        assert not is_raw()
    finally:
        shell.close(force=True)


def _is_running(pid: int) -> bool:
    """Whether the process is not stopped."""
    state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return state != "T"
