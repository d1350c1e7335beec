"""The receiving side: loads a stream into a machine that has not run, or explains why not."""

from __future__ import annotations

import contextlib
from functools import partial

from emu.migration.channels import MigrationChannel
from emu.migration.machine import Iterated, MigratableMachine
from emu.migration.ram import NAME, VERSION, RamTarget
from emu.migration.sections import (
    END,
    EOF,
    FULL,
    PART,
    START,
    DeviceLoader,
    read_footer,
    read_header,
    skip_description,
)
from emu.migration.source import ACK, GO, READY, REFUSED
from emu.migration.stream import MigrationError, StreamReader

_MAX_SECTIONS = 1 << 24
_LAST_WORDS_SECONDS = 2.0


def receive(machine: MigratableMachine, channel: MigrationChannel) -> None:
    """Load what a source sends, up to and with the hand-over.

    Returns when this side is to run the guest.  Raises :class:`MigrationError` otherwise, and has
    told the source why, so far as it can be told.
    """
    try:
        loader = _load(machine, StreamReader(channel))
        machine.on_vcpu(loader.finish)
        if channel.has_return_path:
            channel.write(READY)
            if channel.read(1) != GO:
                raise MigrationError("the source has closed the connection before it handed over")
            machine.claim_host()
            channel.write(ACK)
        else:
            machine.claim_host()
        machine.on_vcpu(loader.resume)
    except OSError as error:
        raise MigrationError(f"the source is gone: {error.strerror or error}") from error
    except MigrationError as error:
        _explain(channel, error)
        raise
    except (ValueError, OverflowError, MemoryError) as error:
        failure = MigrationError(f"bad state: {error}")
        _explain(channel, failure)
        raise failure from error


def _explain(channel: MigrationChannel, error: MigrationError) -> None:
    if channel.has_return_path:
        with contextlib.suppress(OSError):
            channel.write(REFUSED + f"{error}\n".encode())
            channel.drain(_LAST_WORDS_SECONDS)


def _load(machine: MigratableMachine, reader: StreamReader) -> DeviceLoader:
    read_header(reader, machine.migration_name)
    loader = _Loader(machine, reader)
    loader.run()
    return loader.devices


class _Loader:
    """Dispatches sections until the end mark."""

    def __init__(self, machine: MigratableMachine, reader: StreamReader) -> None:
        self._machine = machine
        self._reader = reader
        self._ram = RamTarget(machine.ram)
        self._iterated = {part.name: part for part in machine.iterated()}
        self._open: dict[int, str] = {}
        self._ended: set[str] = set()
        self.devices = DeviceLoader(machine.components())

    def run(self) -> None:
        """Everything up to the description."""
        for _ in range(_MAX_SECTIONS):
            before = self._reader.position, self._reader.checksum
            kind = self._reader.u8()
            if kind == EOF:
                self._check_ended()
                skip_description(self._reader)
                return
            if kind == FULL:
                self._machine.on_vcpu(partial(self.devices.load, self._reader, before))
            elif kind == START:
                self._start()
            elif kind in (PART, END):
                self._part(kind)
            else:
                raise MigrationError(f"unknown section type {kind:#x} at byte {before[0]}")
        raise MigrationError("the stream has no end")

    def _start(self) -> None:
        reader = self._reader
        number, name = reader.u32(), reader.text()
        instance, version = reader.u32(), reader.u32()
        if name in self._open.values() or number in self._open:
            raise MigrationError(f"section '{name}' starts twice")
        part = self._iterated.get(name)
        wanted = VERSION if name == NAME else part.version if part is not None else None
        if wanted is None or instance:
            raise MigrationError(f"unknown section '{name}', instance {instance}")
        if version != wanted:
            raise MigrationError(f"section '{name}': version {version} is not supported")
        self._open[number] = name
        if part is None:
            self._ram.load_setup(reader)
        else:
            part.load_setup(reader)
        read_footer(reader, number, name)

    def _part(self, kind: int) -> None:
        number = self._reader.u32()
        name = self._open.get(number)
        if name is None or name in self._ended:
            raise MigrationError(f"section {number} goes on without having started")
        part: Iterated | None = self._iterated.get(name)
        if part is None:
            self._ram.load(self._reader)
        else:
            part.load_part(self._reader)
        if kind == END:
            self._ended.add(name)
        read_footer(self._reader, number, name)

    def _check_ended(self) -> None:
        for name in (NAME, *self._iterated):
            if name not in self._ended:
                raise MigrationError(f"section '{name}' is missing or not complete")
