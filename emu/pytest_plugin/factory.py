"""What makes machines for tests: configurations in, machines and snapshots out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emu.chardev.config import ConfigError
from emu.events import RunState
from emu.pytest_plugin.console import DEFAULT_TIMEOUT
from emu.pytest_plugin.guest import GuestFailure, GuestMachine
from emu.pytest_plugin.logs import LogItems
from emu.pytest_plugin.recipe import recipe
from emu.pytest_plugin.snapshot import Snapshot, SnapshotStore, private_disks, save

if TYPE_CHECKING:
    from emu.config import MachineConfig
    from emu.pytest_plugin.report import Machines

Until = str | bytes | re.Pattern[str] | re.Pattern[bytes] | Callable[[GuestMachine], object]


class MachineFactory:
    """Makes machines and closes them at the end of the test. Main thread.

    `cell` is the test's cell of the matrix ("cpu", "endian").
    """

    def __init__(self, machines: Machines, cell: Mapping[str, str] | None = None) -> None:
        self._machines = machines
        self._cell = dict(cell or {})
        self._made: list[GuestMachine] = []
        self._log = LogItems()

    def __call__(
        self, *arguments: Any, start: bool = True, name: str = "", **options: Any
    ) -> GuestMachine:
        """A machine: of a `MachineConfig`, of options as in `recipe`, or from a `Snapshot`.

        It runs, unless `start` is false or the options say so (-S, -incoming). ConfigError, with
        one line, for what is wrong with them.
        """
        __tracebackhide__ = True
        try:
            machine = self._make(self._config(arguments, options, start), name)
        except ConfigError as error:
            raise ConfigError(str(error), error.field) from None  # its history helps nobody
        if start:
            machine.start()
            if (machine.config.incoming or "").startswith("file:"):
                _wait_restored(machine)
        return machine

    def _config(
        self, arguments: tuple[Any, ...], options: Mapping[str, Any], start: bool
    ) -> MachineConfig:
        if len(arguments) == 1 and isinstance(arguments[0], Snapshot):
            if options:
                raise ConfigError("give a snapshot alone, without options")
            return arguments[0].config
        config = recipe(*arguments, **options).build(self._cell)
        check_bootable(config, start)
        return config

    def _make(self, config: MachineConfig, name: str) -> GuestMachine:
        self._log.turn_on(config)
        number = len(self._made) + 1
        machine = GuestMachine(config, name or ("machine" if number == 1 else f"machine {number}"))
        self._made.append(machine)
        self._machines.add(machine)
        return machine

    def close(self) -> None:
        """Close all machines; GuestFailure if the emulator itself has failed in one."""
        broken = [m.condition for m in self._made if m.state is RunState.INTERNAL_ERROR]
        try:
            for machine in reversed(self._made):
                machine.close()
        finally:
            self._made.clear()
            self._log.close()
        if broken:
            raise GuestFailure("; ".join(broken))


def check_bootable(config: MachineConfig, start: bool = True) -> None:
    """ConfigError if a machine that is to run would have nothing to run."""
    waits = config.start_paused or config.incoming is not None or not start
    if not (config.kernel or config.bios or waits):
        raise ConfigError("nothing to boot: give kernel=FILE or bios=FILE")


def _wait_restored(machine: GuestMachine) -> None:
    __tracebackhide__ = True
    wanted = RunState.PAUSED if machine.config.start_paused else RunState.RUNNING
    state = machine.emulator.state
    if state.wait_for(wanted, RunState.SHUTDOWN, timeout=DEFAULT_TIMEOUT) is not wanted:
        raise GuestFailure(f"{machine.name} is not restored: {machine.condition}")


class SnapshotFactory:
    """Boots a machine once and keeps its state for many tests. Main thread."""

    def __init__(self, machines: Machines, store: SnapshotStore) -> None:
        self._machines = machines
        self._store = store

    def __call__(
        self,
        *arguments: Any,
        until: Until,
        timeout: float = DEFAULT_TIMEOUT,
        **options: Any,
    ) -> Snapshot:
        """The state of such a machine at the time when `until` holds.

        `until` is a pattern that the console is to show within `timeout` seconds, or a function
        of the machine, which does what is to be done and returns. The same arguments give the
        same snapshot, made once; it is deleted at the end of the session.
        """
        __tracebackhide__ = True
        return self.get(recipe(*arguments, **options).build(), until, timeout)

    def get(self, config: MachineConfig, until: Until, timeout: float, owner: str = "") -> Snapshot:
        """The same for a configuration; `owner` keeps snapshots apart."""
        __tracebackhide__ = True
        check_bootable(config)

        def make(path: Path) -> Snapshot:
            return self._boot(private_disks(config, path), until, timeout, path)

        return self._store.get(self.key(config, until, owner), make)

    def key(self, config: MachineConfig, until: Until, owner: str = "") -> tuple[object, ...]:
        """The name of a snapshot in the store."""
        return repr(config), until, owner

    def drop(self, key: tuple[object, ...]) -> None:
        """Delete a snapshot."""
        self._store.drop(key)

    def _boot(self, config: MachineConfig, until: Until, timeout: float, path: Path) -> Snapshot:
        __tracebackhide__ = True
        log = LogItems()
        log.turn_on(config)
        machine = GuestMachine(config, "machine to be saved")
        self._machines.add(machine)
        try:
            machine.start()
            if callable(until):
                until(machine)
            else:
                machine.console.expect(until, timeout)
            if machine.ended:
                raise GuestFailure(f"nothing to save: {machine.condition}")
            return save(machine, path, timeout, keep_disks=True)
        finally:
            machine.close()
            log.close()
