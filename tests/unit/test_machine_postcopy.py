"""A machine whose guest waits for memory: it can be asked, told to end, and never runs on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from emu.events import RunState
from emu.machine import Machine
from emu.migration.stream import MigrationError
from emu.options import parse_command_line

SECONDS = 20.0


class Arriving:
    """Stands for a guest whose memory is coming."""

    def __init__(self) -> None:
        self.lost = False
        self.error: str | None = None
        self.waited = threading.Event()
        self.here = threading.Event()

    def await_memory(self) -> None:
        self.waited.set()
        self.here.wait(SECONDS)

    def leave(self) -> None:
        self.here.set()

    def close(self) -> None:
        pass


@pytest.fixture
def arriving() -> Arriving:
    return Arriving()


@pytest.fixture
def machine(tmp_path: Path, arriving: Arriving) -> Iterator[Machine]:
    image = tmp_path / "spin.bin"
    image.write_bytes(bytes(0x100) + bytes.fromhex("48000000"))  # b .
    with Machine(parse_command_line(["-m", "256M", "-nodefaults", "-bios", str(image)])) as one:
        one.migration._postcopy = arriving  # type: ignore[assignment]
        one.start()
        assert one.state.wait_for(RunState.RUNNING, timeout=SECONDS)
        yield one


class Stuck:
    """Keeps the vCPU thread where a fault would: it does nothing until it is let go."""

    def __init__(self, machine: Machine) -> None:
        self._go = threading.Event()
        begun = threading.Event()

        def wait() -> None:
            begun.set()
            self._go.wait(3 * SECONDS)

        machine.post(wait)
        assert begun.wait(SECONDS)

    def release(self) -> None:
        self._go.set()


def test_reset_waits_for_memory(machine: Machine, arriving: Arriving) -> None:
    machine.reset()
    assert arriving.waited.wait(SECONDS)
    assert machine.resets == 0
    arriving.here.set()
    machine.on_vcpu(lambda: None)
    assert machine.resets == 1


def test_reset_that_waits_does_not_keep_the_machine_from_ending(
    machine: Machine, arriving: Arriving
) -> None:
    machine.reset()
    assert arriving.waited.wait(SECONDS)
    machine.quit()
    assert machine.wait(SECONDS) == 0
    assert machine.resets == 0


def test_guest_without_memory_is_paused_while_its_thread_waits(
    machine: Machine, arriving: Arriving
) -> None:
    stuck = Stuck(machine)
    arriving.lost = True
    assert machine.pause_for_memory()
    assert machine.state.state is RunState.PAUSED
    with pytest.raises(MigrationError, match="memory that does not come"):
        machine.cont()
    with pytest.raises(MigrationError, match="memory that does not come"):
        machine.on_vcpu(lambda: None)
    arriving.lost = False
    stuck.release()
    machine.memory_comes(run=True)
    assert machine.state.wait_for(RunState.RUNNING, timeout=SECONDS)


def test_guest_that_was_paused_stays_so(machine: Machine, arriving: Arriving) -> None:
    machine.stop()
    assert machine.state.wait_for(RunState.PAUSED, timeout=SECONDS)
    arriving.lost = True
    runs = machine.pause_for_memory()
    arriving.lost = False
    machine.memory_comes(runs)
    assert machine.state.state is RunState.PAUSED


def test_machine_ends_while_its_thread_waits(machine: Machine, arriving: Arriving) -> None:
    """Its memory stays, since the thread may still touch it."""
    stuck = Stuck(machine)
    arriving.lost = True
    machine.pause_for_memory()
    machine.quit()
    assert machine.wait(SECONDS) == 0
    machine.close()
    assert machine.board.partition.vcpus
    assert machine.board.dma.read(0x100, 4) == bytes.fromhex("48000000")
    stuck.release()
