"""Snapshots of a machine by name: ``savevm``, ``loadvm``, ``delvm``, ``info snapshots``.

A name with a slash in it is the path of a file; other names are files in
``$XDG_DATA_HOME/ppc64emu/snapshots`` (by default below ``~/.local/share``).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from emu.events import RunState
from emu.migration.channels import FileChannel
from emu.migration.stream import MigrationError

if TYPE_CHECKING:
    from emu.machine import Machine

_SUFFIX = ".vmstate"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")
_OVER = (RunState.SHUTDOWN, RunState.GUEST_PANICKED, RunState.INTERNAL_ERROR)
_ELSEWHERE = (RunState.INMIGRATE, RunState.FINISH_MIGRATE, RunState.POSTMIGRATE)


@dataclass(frozen=True)
class Snapshot:
    """A saved guest; ``size`` in bytes."""

    name: str
    size: int
    saved: datetime


def directory() -> Path:
    """Where snapshots with plain names are."""
    base = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return Path(base) / "ppc64emu" / "snapshots"


def path_of(name: str) -> Path:
    """The file of a snapshot; :class:`MigrationError` if the name can be none."""
    if "/" in name:
        return Path(name)
    if not _NAME.fullmatch(name):
        raise MigrationError(f"'{name}' is no name for a snapshot")
    return directory() / (name + _SUFFIX)


def list_snapshots() -> list[Snapshot]:
    """Those with plain names, the oldest first."""
    found = []
    with contextlib.suppress(OSError):
        for path in directory().glob("*" + _SUFFIX):
            status = path.stat()
            when = datetime.fromtimestamp(status.st_mtime)
            found.append(Snapshot(path.name.removesuffix(_SUFFIX), status.st_size, when))
    return sorted(found, key=lambda snapshot: (snapshot.saved, snapshot.name))


def save(machine: Machine, name: str | None = None) -> str:
    """Save the guest, which goes on if it ran; returns the name (``vm-`` and the time if none).

    :class:`MigrationError`, with the guest as it was.  Not on the vCPU thread.
    """
    from emu.migration import snapshot

    if name is None:
        name = f"vm-{datetime.now():%Y%m%d%H%M%S}"
    path = path_of(name)
    temporary = path.with_name(path.name + f".{os.getpid()}")
    try:
        if "/" not in name:
            path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        channel = FileChannel(os.open(temporary, flags, 0o600), sync=True)
    except OSError as error:
        raise MigrationError(f"cannot write '{path}': {error.strerror}") from error
    try:
        with _standing_still(machine):
            snapshot.save(machine.migration, channel)
        channel.finish()
        os.replace(temporary, path)
    except OSError as error:
        raise MigrationError(f"cannot write '{path}': {error.strerror or error}") from error
    finally:
        channel.close()
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    return name


def load(machine: Machine, name: str) -> None:
    """Reset the machine and let the saved guest go on, if the one before it ran.

    :class:`MigrationError`: if the file cannot be opened, nothing has happened; if it does not fit
    this machine, the guest is lost and the machine is reset and stopped.  Not on the vCPU thread.
    """
    from emu.migration import snapshot

    path = path_of(name)
    try:
        channel = FileChannel(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        raise MigrationError(f"cannot read '{path}': {error.strerror}") from error
    try:
        with _standing_still(machine) as outcome:
            outcome.resume = False
            machine.on_vcpu(machine.reset_now)
            machine.on_vcpu(machine.board.drain)
            snapshot.load(machine.migration, channel)
            outcome.resume = outcome.ran
    except MigrationError as error:
        raise MigrationError(f"'{path}': {error}") from error
    finally:
        channel.close()


def delete(name: str) -> None:
    """Remove a snapshot; :class:`MigrationError`."""
    path = path_of(name)
    try:
        os.unlink(path)
    except OSError as error:
        raise MigrationError(f"cannot remove '{path}': {error.strerror}") from error


@dataclass
class _Outcome:
    ran: bool
    resume: bool


@contextlib.contextmanager
def _standing_still(machine: Machine) -> Iterator[_Outcome]:
    """Stop the guest and its devices for as long as this takes."""
    _check(machine)
    migration = machine.migration
    ran = migration.is_running()
    outcome = _Outcome(ran, ran)
    try:
        migration.pause_for_migration()
        yield outcome
    except Exception as error:
        migration.end_migration(False, outcome.resume)
        if isinstance(error, MigrationError | OSError):
            raise
        raise MigrationError(f"bad state: {error}") from error  # a file may hold anything
    migration.end_migration(False, outcome.resume)


def _check(machine: Machine) -> None:
    """:class:`MigrationError` unless the whole guest can be in one file now."""
    from devices.virtio.constants import VirtioId

    state = machine.state.state
    if machine.migration.status.running:
        raise MigrationError("There's a migration process in progress")
    if state in _OVER:
        raise MigrationError("the guest has ended")
    if state in _ELSEWHERE:
        raise MigrationError(f"not possible in state '{state.value}'")
    for name, device in machine.devices.items():
        if device.DEVICE_ID is VirtioId.BLOCK and not device.image.read_only:  # type: ignore[attr-defined]
            raise MigrationError(f"Device '{name}' is writable but does not support snapshots")
