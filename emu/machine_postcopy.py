"""A machine whose guest has come in before its memory (post-copy, the destination's side)."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from emu.migration.arrival import Arrival
from emu.migration.channels import Incoming, check_uri
from emu.migration.postcopy_target import Outcome
from emu.migration.status import MigrationStatus
from emu.migration.stream import MigrationError

if TYPE_CHECKING:
    from emu.machine import Machine
    from emu.machine_migration import MachineMigration

_log = logging.getLogger(__name__)


class PostcopyGuest:
    """Runs the guest, and pauses it while its memory does not come."""

    def __init__(self, machine: Machine, migration: MachineMigration, arrival: Arrival) -> None:
        self.lost = False
        self.error: str | None = None
        self._machine = machine
        self._migration = migration
        self._arrival = arrival
        self._changed = threading.Condition()
        self._incoming: Incoming | None = None
        self._closing = False
        self._over = False

    def run(self) -> bool:
        """Start the guest and see to it until all memory is here (its own thread).

        False when the machine ended before.
        """
        self._migration.changed(MigrationStatus.POSTCOPY_ACTIVE)
        self._machine.post(self._arrival.resume)
        self._machine.incoming_done()
        while True:
            outcome = self._arrival.wait()
            if outcome is Outcome.DONE:
                self._arrival.complete()
                self._end()
                return True
            if outcome is Outcome.STOPPED or not self._recover():
                return False

    def _end(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def _recover(self) -> bool:
        """Pause the guest until a source comes back; False when the machine ends."""
        self.error = (
            "the connection broke in post-copy:"
            f" {self._arrival.target.lost_because or 'no reason given'};"
            " memory is missing, so the guest is paused"
        )
        _log.error("%s", self.error)
        self.lost = True
        runs = self._machine.pause_for_memory()
        self._migration.changed(MigrationStatus.POSTCOPY_PAUSED)
        while self._await_source():
            try:
                self._reconnect()
            except (MigrationError, OSError) as error:
                self.error = str(error)
                self._migration.changed(MigrationStatus.POSTCOPY_PAUSED)
                continue
            self.lost, self.error = False, None
            self._migration.changed(MigrationStatus.POSTCOPY_ACTIVE)
            self._machine.memory_comes(runs)
            return True
        return False

    def _await_source(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._incoming is not None or self._closing)
            return not self._closing

    def _reconnect(self) -> None:
        incoming = self._incoming
        assert incoming is not None
        try:
            channel = incoming.accept()
            self._migration.changed(MigrationStatus.POSTCOPY_RECOVER)
            self._arrival.reconnect(channel, self._migration.migration_name)
        finally:
            incoming.close()
            with self._changed:
                self._incoming = None

    # For other threads

    def recover(self, uri: str) -> None:
        """Wait for the source to come back there; ConfigError, :class:`MigrationError`."""
        with self._changed:
            if not self.lost or self._incoming is not None:
                raise MigrationError("Migrate recover can only be run when postcopy is paused.")
            self._incoming = Incoming(check_uri(uri))
            self._changed.notify_all()

    def pause(self) -> None:
        """Break the connection."""
        self._arrival.abort()

    def await_memory(self) -> None:
        """Return when all memory is here, or the machine ends (vCPU thread, before a reset)."""
        with self._changed:
            self._changed.wait_for(lambda: self._over or self._closing)

    def leave(self) -> None:
        """The machine is about to end: nobody need wait any more."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            if self._incoming is not None:
                self._incoming.close()

    def close(self) -> None:
        """The guest has ended, and no thread of it waits for memory."""
        self.leave()
        if not self._over:
            if not self.lost:
                self._arrival.target.stop()
                self._arrival.guest_ended()
            self._arrival.target.close()
