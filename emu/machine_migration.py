"""Migration of one machine: what the monitor starts, and what the engine asks of the machine."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from emu.chardev.config import ConfigError
from emu.events import RunState
from emu.memory.ram import GuestRam
from emu.migration.channels import Incoming, check_uri
from emu.migration.machine import Iterated
from emu.migration.sections import Component
from emu.migration.status import CAPABILITIES, MigrationStatus, Parameters
from emu.migration.stream import MigrationError

if TYPE_CHECKING:
    from emu.machine import Machine

_STOP_SECONDS = 10.0
_THROTTLE_PERIOD = 0.01


class MachineMigration:
    """Outgoing and incoming migration of a machine.  Any thread, if not said otherwise."""

    def __init__(self, machine: Machine) -> None:
        self.parameters = Parameters()
        self.capabilities = dict.fromkeys(CAPABILITIES, False)
        self.incoming_address: str | None = None
        self.status = MigrationStatus.NONE
        self.on_status: Callable[[MigrationStatus], None] = lambda status: None
        self._machine = machine
        self._source: Any = None
        self._incoming: Incoming | None = None
        self._throttle: _Throttle | None = None
        self._released = False

    # What the monitor calls

    def migrate(self, uri: str) -> None:
        """Start sending the guest; :class:`MigrationError` if that is not possible now."""
        from emu.migration.source import MigrationSource

        check_uri(uri)
        if self.status.running:
            raise MigrationError("There's a migration process in progress")
        state = self._machine.state.state
        if state in (RunState.INMIGRATE, RunState.POSTMIGRATE):
            raise MigrationError(f"Guest cannot be migrated in state '{state.value}'")
        if state in (RunState.SHUTDOWN, RunState.GUEST_PANICKED, RunState.INTERNAL_ERROR):
            raise MigrationError("the guest has ended")
        self._source = MigrationSource(
            self,
            uri,
            self.parameters,
            self._changed,
            auto_converge=self.capabilities["auto-converge"],
        )
        self._source.start()

    def cancel(self) -> None:
        """Cancel an outgoing migration, if there is one."""
        if self._source is not None:
            self._source.cancel()

    def wait(self, timeout: float | None = None) -> MigrationStatus:
        """Wait for the end of an outgoing migration."""
        if self._source is not None:
            self._source.join(timeout)
        return self.status

    def query(self) -> dict[str, Any]:
        """The answer to ``query-migrate``."""
        if self.status is MigrationStatus.NONE:
            return {}
        answer: dict[str, Any] = {"status": self.status.value}
        if self._source is not None:
            answer |= self._source.progress.as_dict()
            if self._source.error is not None:
                answer["error-desc"] = self._source.error
        return answer

    def listen(self, uri: str) -> None:
        """Wait for a guest on a thread of its own; ConfigError if the host refuses."""
        if self._machine.state.state is not RunState.INMIGRATE or self._incoming is not None:
            raise MigrationError("'-incoming' was not specified on the command line")
        self._incoming = Incoming(check_uri(uri))
        self.incoming_address = self._incoming.address
        threading.Thread(target=self._receive, name="incoming", daemon=True).start()

    def close(self) -> None:
        """Give up whatever is under way."""
        self.cancel()
        if self._incoming is not None:
            self._incoming.close()
        if self._source is not None:
            self._source.join(_STOP_SECONDS)

    def _changed(self, status: MigrationStatus) -> None:
        self.status = status
        self.on_status(status)

    def _receive(self) -> None:
        from emu.migration.destination import receive

        incoming = self._incoming
        assert incoming is not None
        self._changed(MigrationStatus.SETUP)
        try:
            channel = incoming.accept()
            self._changed(MigrationStatus.ACTIVE)
            try:
                receive(self, channel)
            finally:
                channel.close()
                incoming.close()
        except (MigrationError, OSError) as error:
            self._changed(MigrationStatus.FAILED)
            self._machine.incoming_failed(str(error))
            return
        self._changed(MigrationStatus.COMPLETED)
        self._machine.incoming_done()

    # What the engine calls (MigratableMachine)

    @property
    def migration_name(self) -> str:
        """Name in the configuration section."""
        return self._machine.config.machine

    @property
    def ram(self) -> GuestRam:
        """All of RAM."""
        return self._machine.board.partition.ram

    def on_vcpu(self, work: Callable[[], Any]) -> Any:
        """Run work on the vCPU thread and return its result."""
        return self._machine.on_vcpu(work)

    def take_dirty(self) -> npt.NDArray[np.uint8]:
        """Dirty log since the last call.  vCPU thread."""
        return self._machine.board.partition.clear_dirty()

    def components(self) -> Sequence[Component]:
        """Everything with device sections."""
        return self._machine.board.components()

    def iterated(self) -> Sequence[Iterated]:
        """Everything with iterated sections besides RAM."""
        return self._machine.board.iterated()

    def pause_for_migration(self) -> bool:
        """Stop the guest and its devices; returns whether it was running."""
        machine = self._machine
        was_running = machine.state.state is RunState.RUNNING
        machine.stop()
        if was_running:
            machine.state.wait_for(
                *(state for state in RunState if state is not RunState.RUNNING),
                timeout=_STOP_SECONDS,
            )
        if machine.state.state not in (RunState.PAUSED, RunState.PRELAUNCH):
            raise MigrationError(f"the guest is {machine.state.state.value}")
        machine.on_vcpu(machine.board.drain)
        machine.state.set(RunState.FINISH_MIGRATE)
        return was_running

    def end_migration(self, completed: bool, resume: bool) -> None:
        """The guest has moved, or stays: goes on if ``resume``."""
        if completed:
            self._machine.state.set(RunState.POSTMIGRATE)
            return
        if self._released:
            self.claim_host()
        self._machine.on_vcpu(self._machine.board.undrain)
        self._machine.state.set(RunState.PAUSED, only_from=RunState.FINISH_MIGRATE)
        if resume:
            self._machine.cont()

    def release_host(self) -> None:
        """Let the other side have the host's things, above all disk images."""
        self._machine.on_vcpu(self._machine.board.release_host)
        self._released = True

    def claim_host(self) -> None:
        """Take them; :class:`MigrationError` if another process uses them."""
        try:
            self._machine.on_vcpu(self._machine.board.claim_host)
        except ConfigError as error:
            raise MigrationError(str(error)) from error
        self._released = False

    def take_back(self) -> None:
        """A guest that has moved away is to go on here after all."""
        if self._released:
            self.claim_host()
            self._machine.on_vcpu(self._machine.board.undrain)

    def throttle(self, percent: int) -> None:
        """Let the guest stand still for a part of the time; 0 ends that."""
        if self._throttle is not None:
            self._throttle.stop()
            self._throttle = None
        if percent:
            self._throttle = _Throttle(self._machine, percent)


class _Throttle:
    """Takes the vCPU thread away for so many percent of the time."""

    def __init__(self, machine: Machine, percent: int) -> None:
        self._machine = machine
        self._sleep = _THROTTLE_PERIOD * percent / (100 - percent)
        self._stopped = threading.Event()
        threading.Thread(target=self._run, name="throttle", daemon=True).start()

    def stop(self) -> None:
        """Leave the guest alone again."""
        self._stopped.set()

    def _run(self) -> None:
        while not self._stopped.wait(_THROTTLE_PERIOD):
            try:
                self._machine.on_vcpu(lambda: time.sleep(self._sleep))
            except MigrationError:
                return
