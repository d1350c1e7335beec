"""A machine as tests use it: console, memory, registers, breakpoints, snapshots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emu.chardev.memory import MemoryChardev
from emu.config import MachineConfig
from emu.events import RunState
from emu.machine import Machine
from emu.migration.stream import MigrationError
from emu.pytest_plugin.console import DEFAULT_TIMEOUT, Console
from emu.pytest_plugin.logs import trace_to_logging
from emu.pytest_plugin.memory import RealMemory, VirtualMemory
from emu.pytest_plugin.registers import Registers
from emu.runner.lines import LineParser, LineResult, Outcome

if TYPE_CHECKING:
    from emu.cpu.partition import Partition
    from emu.cpu.vcpu import Vcpu
    from emu.pytest_plugin.debugger import Debugger
    from emu.pytest_plugin.snapshot import Snapshot

_OVER = (RunState.SHUTDOWN, RunState.GUEST_PANICKED, RunState.INTERNAL_ERROR)
_STANDING = (RunState.PAUSED, RunState.PRELAUNCH, RunState.DEBUG, RunState.POSTMIGRATE)
_END_SECONDS = 10.0


class GuestTimeout(AssertionError):  # noqa: N818
    """The guest did not come to its end, or to a state, in time."""


class GuestFailure(AssertionError):  # noqa: N818
    """The results that the guest has printed are not those of success."""


class GuestMachine:
    """A machine in this process; `machine_factory` makes it and closes it. Any thread.

    `emulator` is the :class:`emu.machine.Machine` behind it, for all that is not here.
    """

    def __init__(self, config: MachineConfig, name: str = "machine") -> None:
        self.name = name
        self.config = config
        self.emulator = Machine(config)
        trace_to_logging(self.emulator)
        self.memory = RealMemory(self)
        self.virtual = VirtualMemory(self)
        self.registers = Registers(self)
        self.consoles = {
            chardev.label: Console(self, chardev)
            for chardev in self.emulator.chardevs
            if isinstance(chardev, MemoryChardev)
        }
        self.closed = False
        self._debugger: Debugger | None = None

    # Consoles

    @property
    def console(self) -> Console:
        """The first console that is kept in memory; `consoles` has all by id."""
        for console in self.consoles.values():
            return console
        raise LookupError("this machine has no console in memory")

    # Run state

    @property
    def state(self) -> RunState:
        """Run state."""
        return self.emulator.state.state

    @property
    def ended(self) -> bool:
        """Whether the guest has come to an end: power-off, panic, or a fault of the emulator."""
        return self.state in _OVER

    @property
    def condition(self) -> str:
        """A few words on how the guest is, for messages."""
        if self.state is RunState.GUEST_PANICKED:
            return f"the guest has panicked: {self.panic_reason}"
        if self.state is RunState.INTERNAL_ERROR:
            return f"internal error of the emulator: {self.emulator.error}"
        if self.state is RunState.SHUTDOWN:
            why = self.emulator.incoming_error
            return f"the guest could not be loaded: {why}" if why else "the guest has ended"
        return f"the guest is {self.state.value}"

    @property
    def panic_reason(self) -> str | None:
        """Why the guest gave up; None if it did not."""
        return self.emulator.panic_reason

    @property
    def resets(self) -> int:
        """How often the machine was reset since it started."""
        return self.emulator.resets

    def start(self) -> None:
        """Start the guest (`machine_factory` has done so, if not asked otherwise)."""
        self.emulator.start()

    def stop(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Pause the guest, and wait until it stands still."""
        self.emulator.stop()
        self.wait_state(*_STANDING, timeout=timeout)

    def cont(self, timeout: float = DEFAULT_TIMEOUT) -> None:
        """Go on after :meth:`stop`, `-S` or :meth:`save`, and wait until the guest runs."""
        self.emulator.cont()
        self.wait_state(RunState.RUNNING, timeout=timeout)

    def reset(self) -> None:
        """Press the reset button."""
        self.emulator.reset()

    def quit(self) -> None:
        """Pull the plug."""
        self.emulator.quit()

    def wait(self, timeout: float = DEFAULT_TIMEOUT) -> int:
        """Wait for the guest's end; the exit status that the command `ppc64emu` would have.

        0 after a power-off, 3 after a panic, 1 after an internal error, or one of the guest's
        choice. GuestTimeout after so many seconds.
        """
        __tracebackhide__ = True
        try:
            return self.emulator.wait(timeout)
        except TimeoutError:
            raise GuestTimeout(f"{self.name}: the guest still runs after {timeout:g} s") from None

    def wait_state(self, *states: RunState, timeout: float = DEFAULT_TIMEOUT) -> RunState:
        """Wait for one of these run states; GuestTimeout if it does not come, or cannot."""
        __tracebackhide__ = True
        state = self.emulator.state.wait_for(*states, *_OVER, timeout=timeout)
        if state in states:
            return state
        wanted = " or ".join(state.value for state in states)
        raise GuestTimeout(f"{self.name}: not {wanted} within {timeout:g} s; {self.condition}")

    def check_results(self, timeout: float = DEFAULT_TIMEOUT) -> list[LineResult]:
        """Run a test image to its end; the results it has printed (TAP, `PASS:` lines).

        GuestFailure if a result is a failure, if there is none at all, or if the exit status is
        not 0.
        """
        __tracebackhide__ = True
        status = self.wait(timeout)
        parser = LineParser()
        results = [*parser.feed(self.console.chardev.transcript), *parser.finish()]
        verdict = parser.verdict()
        if verdict.outcome in (Outcome.FAILED, Outcome.NONE):
            raise GuestFailure(f"{self.name}: {verdict.reason}")
        if status:
            raise GuestFailure(f"{self.name}: exit status {status}; {self.condition}")
        return results

    # The CPU

    @property
    def partition(self) -> Partition:
        """RAM and CPUs; for the vCPU thread."""
        return self.emulator.board.partition

    def vcpu(self, index: int = 0) -> Vcpu:
        """A CPU; for the vCPU thread. LookupError if there is none."""
        vcpus = self.emulator.board.vcpus
        if self.closed or not 0 <= index < len(vcpus):
            raise LookupError(f"no CPU {index}: the machine {self._cpus_text()}")
        return vcpus[index]

    def _cpus_text(self) -> str:
        return "is closed" if self.closed else f"has {len(self.emulator.board.vcpus)}"

    def registers_of(self, cpu: int) -> Registers:
        """Registers of a CPU; `registers` are those of CPU 0."""
        return Registers(self, cpu)

    def virtual_of(self, cpu: int) -> VirtualMemory:
        """Memory by the effective addresses of a CPU; `virtual` is that of CPU 0."""
        return VirtualMemory(self, cpu)

    def on_vcpu(self, work: Callable[[], Any]) -> Any:
        """Run work on the vCPU thread, while the guest stands still, and return its result.

        After the guest's end it runs on this thread: memory and registers are still there.
        """
        if self.closed:
            raise LookupError(f"{self.name} is closed")
        if not self.ended:
            try:
                return self.emulator.on_vcpu(work)
            except MigrationError:  # it has ended just now
                if self.emulator.state.wait_for(*_OVER, timeout=_END_SECONDS) is None:
                    raise
        return work()

    def symbol(self, name: str) -> int:
        """The address a name of the images (or of `-symbols`) is linked at; LookupError."""
        address = self.emulator.trace.symbols.load().address_of(name)
        if address is None:
            raise LookupError(f"no symbol {name!r} in the images of {self.name}")
        return address

    @property
    def debugger(self) -> Debugger:
        """Breakpoints; the guest stops when this is first used, and goes on with its `run`."""
        if self._debugger is None:
            from emu.pytest_plugin.debugger import Debugger

            self._debugger = Debugger(self)
        return self._debugger

    # Snapshots

    def save(self, path: str | Path, timeout: float = DEFAULT_TIMEOUT) -> Snapshot:
        """Write the machine's state to a file; the guest goes on if it ran. See `Snapshot`."""
        from emu.pytest_plugin.snapshot import save

        return save(self, Path(path).absolute(), timeout)

    def close(self) -> None:
        """End the machine; the consoles' text stays. Idempotent."""
        self.emulator.close()
        self.closed = True
