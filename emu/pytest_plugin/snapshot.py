"""A machine's state in a file, and machines that start from it.

What a snapshot holds: RAM, CPUs and devices in the stream of docs/migration.md, and beside it a
copy of each disk that the guest may write to. A restored machine writes to temporary overlays of
those copies, so that every one starts from the same disks. The host's side of network connections
and of character devices is not in it.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from devices.block.config import DriveConfig
from emu.chardev.config import ConfigError
from emu.config import MachineConfig
from emu.events import RunState
from emu.migration.status import MigrationStatus
from emu.migration.stream import MigrationError

if TYPE_CHECKING:
    from emu.pytest_plugin.guest import GuestMachine

_PIECE = 8 << 20


@dataclass(frozen=True)
class Snapshot:
    """A saved state; `config` builds a machine that starts from it, `console` is what it printed.

    Any number of machines may start from it, one after the other or at once.
    """

    path: Path
    config: MachineConfig
    console: str

    def delete(self) -> None:
        """Remove its files; machines that were started from it go on."""
        self.path.unlink(missing_ok=True)
        for drive in self.config.drives.values():
            if drive.snapshot and Path(drive.file).parent == self.path.parent:
                Path(drive.file).unlink(missing_ok=True)


def save(
    machine: GuestMachine, path: Path, timeout: float, *, keep_disks: bool = False
) -> Snapshot:
    """Save a machine to `path` and to files beside it; see `GuestMachine.save`.

    `keep_disks`: the disks are the caller's copies already, and the machine is not to go on.
    MigrationError if the machine cannot be saved, ConfigError if a disk cannot.
    """
    config = machine.config
    for name, drive in config.drives.items():
        if drive.snapshot and not drive.read_only:
            raise ConfigError(f"drive '{name}' has snapshot=on: what is on it cannot be saved")
    was_running = machine.state is RunState.RUNNING
    with _full_speed(machine):
        _migrate(machine, path, timeout)
    drives = dict(config.drives)
    if not keep_disks:
        drives = {name: _copied(drive, path) for name, drive in drives.items()}
    frozen = {
        name: drive if drive.read_only else replace(drive, snapshot=True)
        for name, drive in drives.items()
    }
    text = next(iter(machine.consoles.values())).text if machine.consoles else ""
    if was_running and not keep_disks:
        machine.cont(timeout)
    restored = replace(config, incoming=f"file:{path}", drives=frozen, start_paused=not was_running)
    return Snapshot(path, restored, text)


@contextmanager
def _full_speed(machine: GuestMachine) -> Iterator[None]:
    parameters = machine.emulator.migration.parameters
    before, parameters.max_bandwidth = parameters.max_bandwidth, 0
    try:
        yield
    finally:
        parameters.max_bandwidth = before


def _migrate(machine: GuestMachine, path: Path, timeout: float) -> None:
    migration = machine.emulator.migration
    migration.migrate(f"file:{path}")
    status = migration.wait(timeout)
    if status is not MigrationStatus.COMPLETED:
        migration.cancel()
        why = migration.query().get("error-desc", f"{status.value} after {timeout:g} s")
        raise MigrationError(f"{machine.name} cannot be saved: {why}")


def private_disks(config: MachineConfig, path: Path) -> MachineConfig:
    """The same machine on copies of the disks it writes to, made beside `path`."""
    drives = {name: _copied(drive, path) for name, drive in config.drives.items()}
    return replace(config, drives=drives)


def _copied(drive: DriveConfig, path: Path) -> DriveConfig:
    if drive.read_only:
        return drive
    copy = path.with_name(f"{path.name}.{drive.id}.disk")
    try:
        copy_sparse(drive.file, copy)
    except OSError as error:
        raise ConfigError(f"drive '{drive.id}' cannot be copied: {error.strerror}") from error
    return replace(drive, file=str(copy), snapshot=False)


def copy_sparse(source: str | Path, target: str | Path) -> None:
    """Copy a file and leave its holes holes. OSError, also if it is not a regular file."""
    if not stat.S_ISREG(os.stat(source).st_mode):
        raise OSError(0, "it is not a regular file")
    with open(source, "rb", buffering=0) as old, open(target, "wb", buffering=0) as new:
        size = os.fstat(old.fileno()).st_size
        position = 0
        while position < size:
            try:
                position = os.lseek(old.fileno(), position, os.SEEK_DATA)
            except OSError:  # ENXIO: nothing but a hole up to the end
                break
            end = os.lseek(old.fileno(), position, os.SEEK_HOLE)
            while position < end:
                data = os.pread(old.fileno(), min(_PIECE, end - position), position)
                if not data:
                    break
                position += os.pwrite(new.fileno(), data, position)
        new.truncate(size)


class SnapshotStore:
    """Snapshots of one test run by what they are of; each is made when it is first asked for."""

    def __init__(self, directory: Callable[[], Path]) -> None:
        self._new_directory = directory
        self._directory: Path | None = None
        self._known: dict[Hashable, Snapshot] = {}
        self._made = 0

    def get(self, key: Hashable, make: Callable[[Path], Snapshot]) -> Snapshot:
        """The snapshot of that name, made at the path given to `make` if there is none yet."""
        if key not in self._known:
            if self._directory is None:
                self._directory = self._new_directory()
            self._made += 1
            self._known[key] = make(self._directory / f"snapshot{self._made}")
        return self._known[key]

    def drop(self, key: Hashable) -> None:
        """Delete a snapshot, if there is one of that name."""
        if key in self._known:
            self._known.pop(key).delete()

    def close(self) -> None:
        """Delete everything."""
        self._known.clear()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
