"""The machines of the running test, and what a failed test's report shows of them.

Imported in every test run with the plugin: nothing here imports the emulator.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from emu.pytest_plugin.guest import GuestMachine

_LINES = 40


class Machines:
    """Machines that are open or were opened for the running test. Main thread."""

    def __init__(self) -> None:
        self._machines: list[GuestMachine] = []

    def add(self, machine: GuestMachine) -> None:
        """A machine has been made."""
        self._machines.append(machine)

    def begin_test(self) -> None:
        """Forget the machines of earlier tests."""
        self._machines = [machine for machine in self._machines if not machine.closed]

    def attach(self, report: pytest.TestReport) -> None:
        """Add the tails of all consoles to a report."""
        for machine in self._machines:
            for label, console in machine.consoles.items():
                title = f"{machine.name}, console {label}, the last lines; {machine.condition}"
                report.sections.append((title, console.tail(_LINES) or "(no output at all)"))
