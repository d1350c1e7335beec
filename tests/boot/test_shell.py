"""The console of a running guest: a shell with line editing, Ctrl-C and bulk input."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Iterator

import pytest

from emu.events import RunState
from emu.pytest_plugin.factory import MachineFactory, SnapshotFactory
from emu.pytest_plugin.guest import GuestMachine
from tests.boot.guests import BOOT_SECONDS, Guest, trouble_in

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]
PROMPT = re.compile(r"guest:[^\n]*# ")
ANSWER_SECONDS = 60.0
PASTE_SIZE = 100 << 10


@pytest.fixture(params=["power8", "power9"])
def shell(
    request: pytest.FixtureRequest,
    le: Guest,
    snapshot_factory: SnapshotFactory,
    machine_factory: MachineFactory,
) -> Iterator[GuestMachine]:
    """Debian's kernel at its shell prompt; each test starts from the same state."""
    booted = snapshot_factory(le.config(request.param), until=PROMPT, timeout=BOOT_SECONDS)
    machine = machine_factory(booted)
    yield machine
    assert trouble_in(booted.console + machine.console.text) == []


def run(machine: GuestMachine, keys: str, answer: str | re.Pattern[str]) -> None:
    """Type keys, wait for the answer on a line of its own and for the next prompt."""
    machine.console.send(keys)
    machine.console.expect(answer, timeout=ANSWER_SECONDS)
    machine.console.expect(PROMPT, timeout=ANSWER_SECONDS)


def test_shell_evaluates_a_command(shell: GuestMachine) -> None:
    run(shell, "echo $((6*7))\n", "\r\n42\r\n")


def test_backspace_and_cursor_keys_edit_the_line(shell: GuestMachine) -> None:
    run(shell, "echo wrongg\x7f\x7f-ish\n", "\r\nwron-ish\r\n")
    run(shell, "echo b\x1b[D" + "a\n", "\r\nab\r\n")  # cursor left, then insert


def test_history_repeats_the_last_command(shell: GuestMachine) -> None:
    run(shell, "echo once more\n", "\r\nonce more\r\n")
    run(shell, "\x1b[A\n", "\r\nonce more\r\n")  # cursor up


def test_ctrl_c_interrupts_a_program(shell: GuestMachine) -> None:
    # What the program prints tells that the terminal is no longer in the shell's raw mode.
    shell.console.send("sh -c 'echo start''ed; exec sleep 1000'\n")
    shell.console.expect("\r\nstarted\r\n", timeout=ANSWER_SECONDS)
    run(shell, "\x03", r"\^C")
    run(shell, "echo alive\n", "\r\nalive\r\n")


def test_large_paste_arrives_intact(shell: GuestMachine) -> None:
    printable = range(32, 127)
    data = bytes(random.Random(1).choices(printable, k=PASTE_SIZE))
    # Raw mode: lines have a length limit otherwise, and every byte would come back.
    shell.console.send(
        f"stty -echo -icanon; echo go; head -c {PASTE_SIZE} | sha256sum; stty echo icanon\n"
    )
    shell.console.expect("\r\ngo\r\n", timeout=ANSWER_SECONDS)
    run(shell, data.decode("ascii"), hashlib.sha256(data).hexdigest())


def test_bulk_output_arrives_intact(shell: GuestMachine) -> None:
    shell.console.send("echo begin; seq 1 40000; echo end\n")
    shell.console.expect("\r\nbegin\r\n", timeout=ANSWER_SECONDS)
    found = shell.console.expect("\r\nend\r\n", timeout=ANSWER_SECONDS)
    assert found.before.split("\r\n") == [str(number) for number in range(1, 40001)]
    shell.console.expect(PROMPT, timeout=ANSWER_SECONDS)


def test_guest_clock_stands_still_while_stopped(shell: GuestMachine) -> None:
    partition = shell.partition
    before = partition.timebase
    shell.stop()
    assert shell.wait_state(RunState.PAUSED) is RunState.PAUSED
    frozen = partition.timebase
    assert frozen >= before
    assert partition.timebase == frozen
    shell.cont()
    assert shell.wait_state(RunState.RUNNING) is RunState.RUNNING
    run(shell, "echo still here\n", "\r\nstill here\r\n")
    assert partition.timebase > frozen


def test_poweroff_from_the_shell(shell: GuestMachine) -> None:
    shell.console.send("poweroff -f\n")
    assert shell.wait(ANSWER_SECONDS) == 0
