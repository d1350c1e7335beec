"""The command on a terminal: quitting, signals, and where the console goes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from tests.boot.guests import BOOT_SECONDS, READY, Guest, trouble_in
from tests.support.asm import assemble, b

pytestmark = [pytest.mark.boot, pytest.mark.timeout(300)]
SECONDS = 60.0
QUIT = "\x01x"
Start = Callable[..., "pexpect.spawn[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start the emulator on a terminal of its own; it is ended after the test."""
    children: list[pexpect.spawn[str]] = []

    def spawn(*arguments: str) -> pexpect.spawn[str]:
        child = pexpect.spawn(
            sys.executable,
            ["-m", "emu", *arguments],
            encoding="utf-8",
            codec_errors="replace",
            timeout=BOOT_SECONDS,
        )
        children.append(child)
        return child

    yield spawn
    for child in children:
        child.close(force=True)


@pytest.fixture
def spin(tmp_path: Path) -> list[str]:
    """Options for a guest in an endless loop with interrupts off."""
    image = tmp_path / "spin.bin"
    image.write_bytes(bytes(0x100) + assemble(b(0)))
    return ["-bios", str(image), "-m", "256", "-nographic"]


def status_of(child: pexpect.spawn[str]) -> int | None:
    """Wait for the end; the exit status, or None if a signal ended it."""
    child.expect(pexpect.EOF, timeout=SECONDS)
    child.wait()
    status: int | None = child.exitstatus
    return status


def wait_until_raw(child: pexpect.spawn[str]) -> None:
    """Wait until the emulator has taken the terminal, which is when it obeys keys."""
    deadline = time.monotonic() + SECONDS
    while termios.tcgetattr(child.child_fd)[3] & termios.ICANON:
        assert time.monotonic() < deadline, child.before
        assert child.isalive(), child.before
        child.expect([pexpect.TIMEOUT], timeout=0.05)


def test_ctrl_a_x_quits_and_restores_the_terminal(le_small: Guest, start: Start) -> None:
    child = start(*le_small.arguments(), "-nographic")
    before = termios.tcgetattr(child.child_fd)
    child.expect_exact(READY)
    assert not termios.tcgetattr(child.child_fd)[3] & termios.ICANON
    child.expect_exact("guest# ")
    child.send(QUIT)
    child.expect_exact("ppc64emu: quit")
    assert status_of(child) == 0
    assert termios.tcgetattr(child.child_fd) == before


def test_ctrl_c_goes_to_the_guest(le_small: Guest, start: Start) -> None:
    child = start(*le_small.arguments(), "-nographic")
    child.expect_exact("guest# ")
    child.send("sleep 1000\r")
    child.expect(r"sleep 1000\r+\n")
    # The echo comes before the program is in the foreground, and until then the shell gets Ctrl-C.
    for _ in range(int(SECONDS)):
        child.send("\x03")
        if child.expect_exact(["guest# ", pexpect.TIMEOUT], timeout=1) == 0:
            break
    else:
        pytest.fail(f"Ctrl-C does not reach the program: {child.before}")
    child.send(QUIT)
    assert status_of(child) == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signal_ends_a_spinning_guest(
    signum: signal.Signals, spin: list[str], start: Start
) -> None:
    child = start(*spin)
    before = termios.tcgetattr(child.child_fd)
    wait_until_raw(child)
    child.kill(signum)
    child.expect_exact(f"terminating on signal {signum.value}", timeout=SECONDS)
    assert status_of(child) == 0
    assert termios.tcgetattr(child.child_fd) == before


def test_sigterm_ends_an_idle_guest(le_small: Guest, start: Start) -> None:
    child = start(*le_small.arguments(), "-nographic")
    child.expect_exact("guest# ")
    child.kill(signal.SIGTERM)
    assert status_of(child) == 0


def test_ctrl_a_x_quits_a_guest_in_an_endless_loop(spin: list[str], start: Start) -> None:
    child = start(*spin)
    wait_until_raw(child)
    child.send(QUIT)
    assert status_of(child) == 0


def test_paused_start_runs_nothing_and_quits(le_small: Guest, start: Start) -> None:
    child = start(*le_small.arguments(), "-nographic", "-S")
    wait_until_raw(child)
    assert child.expect_exact([pexpect.TIMEOUT, "Linux version"], timeout=3) == 0
    child.send(QUIT)
    assert status_of(child) == 0


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the emulator without a terminal to its end."""
    return subprocess.run(
        [sys.executable, "-m", "emu", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        timeout=BOOT_SECONDS,
    )


def test_guest_power_off_is_status_0_and_stdout_is_the_console(le_small: Guest) -> None:
    result = run(*le_small.arguments("autotest=poweroff"), "-nographic")
    assert result.returncode == 0, result.stderr
    assert READY in result.stdout
    assert "Power down" in result.stdout
    assert trouble_in(result.stdout) == []


def test_no_reboot_exits_instead(le_small: Guest) -> None:
    result = run(*le_small.arguments("autotest=reboot"), "-nographic", "-no-reboot")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(READY) == 1


def test_guest_panic_is_status_3_with_the_reason_on_stderr(le_small: Guest) -> None:
    result = run(*le_small.arguments("autotest=panic panic=0 panic_on_oops=1"), "-nographic")
    assert result.returncode == 3
    assert "ppc64emu: guest panicked: " in result.stderr


def test_serial_file_gets_the_console(le_small: Guest, tmp_path: Path) -> None:
    log = tmp_path / "console.log"
    arguments = le_small.arguments("autotest=poweroff")
    result = run(*arguments, "-display", "none", "-serial", f"file:{os.fspath(log)}")
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    text = log.read_text(errors="replace")
    assert READY in text
    assert "Power down" in text
