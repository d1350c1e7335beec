"""Migration of one machine: what the monitor starts, and what the engine asks of the machine."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from emu.chardev.config import ConfigError
from emu.events import RunState
from emu.memory.ram import GuestRam
from emu.migration.channels import Incoming, MigrationChannel, check_uri
from emu.migration.machine import Iterated
from emu.migration.sections import Component
from emu.migration.status import CAPABILITIES, MigrationStatus, Parameters
from emu.migration.stream import MigrationError

if TYPE_CHECKING:
    from emu.machine import Machine
    from emu.machine_postcopy import PostcopyGuest
    from emu.migration.arrival import Arrival

_log = logging.getLogger(__name__)
_STOP_SECONDS = 10.0
_RECLAIM_SECONDS = 10.0
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
        self._incoming_channel: MigrationChannel | None = None
        self._incoming_lock = threading.Lock()
        self._receiver: threading.Thread | None = None
        self._closing = False
        self._throttle: _Throttle | None = None
        self._released = False
        self._postcopy: PostcopyGuest | None = None

    # What the monitor calls

    def migrate(self, uri: str) -> None:
        """Start sending the guest; :class:`MigrationError` if that is not possible now."""
        from emu.migration.source import MigrationSource

        check_uri(uri)
        if self.status.running:
            raise MigrationError("There's a migration process in progress")
        if self.capabilities["postcopy-ram"] and uri.startswith(("file:", "exec:")):
            raise MigrationError("post-copy needs a connection of both directions")
        state = self._machine.state.state
        if state in (RunState.INMIGRATE, RunState.POSTMIGRATE):
            raise MigrationError(f"Guest cannot be migrated in state '{state.value}'")
        if state in (RunState.SHUTDOWN, RunState.GUEST_PANICKED, RunState.INTERNAL_ERROR):
            raise MigrationError("the guest has ended")
        self._source = MigrationSource(
            self,
            uri,
            self.parameters,
            self.changed,
            auto_converge=self.capabilities["auto-converge"],
            postcopy=self.capabilities["postcopy-ram"],
        )
        self._source.start()

    def start_postcopy(self) -> None:
        """Let the guest run at the destination, and its memory follow."""
        if self._source is None or not self.status.running:
            raise MigrationError("Start a migration first")
        self._source.start_postcopy()

    def resume(self, uri: str) -> None:
        """Go on with a post-copy whose connection broke (source)."""
        check_uri(uri)
        if self._source is None:
            raise MigrationError("Cannot resume if there is no paused migration")
        self._source.resume_postcopy(uri)

    def recover(self, uri: str) -> None:
        """Wait for the source of a post-copy whose connection broke (destination)."""
        if self._postcopy is None:
            raise MigrationError("Migrate recover can only be run when postcopy is paused.")
        self._postcopy.recover(uri)

    def pause(self) -> None:
        """Break the connection of a post-copy."""
        if self.status is not MigrationStatus.POSTCOPY_ACTIVE:
            raise MigrationError("migrate-pause is only supported during postcopy-active state")
        if self._postcopy is not None:
            self._postcopy.pause()
        else:
            self._source.pause_postcopy()

    @property
    def lacks_memory(self) -> bool:
        """Whether the guest here waits for memory that does not come."""
        return self._postcopy is not None and self._postcopy.lost

    def await_memory(self) -> None:
        """Return when all memory of the guest is here, or it ends (vCPU thread)."""
        if self._postcopy is not None:
            self._postcopy.await_memory()

    def leave(self) -> None:
        """The machine is about to end."""
        if self._postcopy is not None:
            self._postcopy.leave()

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
        elif self._postcopy is not None and self._postcopy.error is not None:
            answer["error-desc"] = self._postcopy.error
        return answer

    def listen(self, uri: str) -> None:
        """Wait for a guest on a thread of its own; ConfigError if the host refuses."""
        if self._machine.state.state is not RunState.INMIGRATE or self._incoming is not None:
            raise MigrationError("'-incoming' was not specified on the command line")
        self._incoming = Incoming(check_uri(uri))
        self.incoming_address = self._incoming.address
        self._receiver = threading.Thread(target=self._receive, name="incoming", daemon=True)
        self._receiver.start()

    def prepare(self) -> None:
        """Load the code that a guest's arrival needs, while there is time."""

        def load() -> None:
            from emu.migration import destination  # noqa: F401

        threading.Thread(target=load, name="incoming", daemon=True).start()

    def close(self) -> None:
        """Give up whatever is under way."""
        self.cancel()
        with self._incoming_lock:
            self._closing = True
            if self._incoming_channel is not None:
                self._incoming_channel.abort()
        if self._incoming is not None:
            self._incoming.close()
        if self._postcopy is not None:
            self._postcopy.close()
        if self._receiver is not None:
            self._receiver.join(_STOP_SECONDS)  # it may still be at the machine
        if self._source is not None:
            self._source.join(_STOP_SECONDS)

    def changed(self, status: MigrationStatus) -> None:
        """The migration has gone on to this."""
        self.status = status
        self.on_status(status)

    def _receive(self) -> None:
        from emu.migration.destination import receive

        incoming = self._incoming
        assert incoming is not None
        self.changed(MigrationStatus.SETUP)
        arrival = None
        try:
            channel = incoming.accept()
            self.changed(MigrationStatus.ACTIVE)
            try:
                with self._incoming_lock:
                    self._incoming_channel = channel
                    if self._closing:
                        raise MigrationError("the machine has ended")
                self._machine.on_vcpu(self._machine.board.drain)  # until the guest runs here
                arrival = receive(self, channel)
            finally:
                with self._incoming_lock:
                    self._incoming_channel = None
                if arrival is None:
                    channel.close()
                incoming.close()
        except Exception as error:
            _log.debug("incoming migration", exc_info=True)
            known = isinstance(error, MigrationError | OSError)
            self.changed(MigrationStatus.FAILED)
            self._machine.incoming_failed(
                str(error) if known else f"{type(error).__name__}: {error}"
            )
            return
        if arrival is None:
            self.changed(MigrationStatus.COMPLETED)
            self._machine.incoming_done()
        else:
            self._run_early(arrival)

    def _run_early(self, arrival: Arrival) -> None:
        """Post-copy: the guest runs, its memory follows."""
        from emu.machine_postcopy import PostcopyGuest

        guest = PostcopyGuest(self._machine, self, arrival)
        with self._incoming_lock:
            self._postcopy = guest
            closing = self._closing
        if closing:
            guest.close()
        elif guest.run():
            self._machine.board.expect_missing_memory(False)
            self.changed(MigrationStatus.COMPLETED)

    # What the engine calls (MigratableMachine)

    @property
    def migration_name(self) -> str:
        """Name in the configuration section."""
        return self._machine.config.machine

    @property
    def ram(self) -> GuestRam:
        """All of RAM."""
        return self._machine.board.partition.ram

    @property
    def accepts_postcopy(self) -> bool:
        """Whether a guest may come in that runs before all of its memory is here."""
        return self.capabilities["postcopy-ram"]

    def expect_missing_memory(self) -> None:
        """From now on any access to RAM may have to wait."""
        self._machine.board.expect_missing_memory(True)

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

    def is_running(self) -> bool:
        """Whether the guest runs now."""
        return self._machine.state.state is RunState.RUNNING

    def pause_for_migration(self) -> None:
        """Stop the guest and its devices; :class:`MigrationError` if that fails."""
        machine = self._machine
        was_running = self.is_running()
        machine.stop()
        if was_running:
            machine.state.wait_for(
                *(state for state in RunState if state is not RunState.RUNNING),
                timeout=_STOP_SECONDS,
            )
        if not machine.on_vcpu(machine.finish_for_migration):
            raise MigrationError(f"the guest is {machine.state.state.value}")
        machine.on_vcpu(machine.board.drain)

    def end_migration(self, completed: bool, resume: bool) -> None:
        """The guest has moved, or stays: goes on if ``resume``, and does so on return."""
        state = self._machine.state
        if completed:
            state.set(RunState.POSTMIGRATE, only_from=RunState.FINISH_MIGRATE)
            return
        try:
            if self._released:
                self._reclaim()
            self._machine.on_vcpu(self._machine.board.undrain)
        except BaseException:  # as if it had moved: the user can try again
            state.set(RunState.POSTMIGRATE, only_from=RunState.FINISH_MIGRATE)
            raise
        state.set(RunState.PAUSED, only_from=RunState.FINISH_MIGRATE)
        if resume:
            self._machine.cont()
            state.wait_for(
                *(other for other in RunState if other is not RunState.PAUSED),
                timeout=_STOP_SECONDS,
            )

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

    def _reclaim(self) -> None:
        """:meth:`claim_host`, once a destination that gives up has let go."""
        deadline = time.monotonic() + _RECLAIM_SECONDS
        while True:
            try:
                return self.claim_host()
            except MigrationError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def take_back(self) -> None:
        """A guest that has moved away is to go on here after all; :class:`MigrationError`."""
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
