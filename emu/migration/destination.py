"""The receiving side: loads a stream into a machine that has not run, or explains why not."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np

from emu.migration.answers import ACK, GO, READY, REFUSED
from emu.migration.channels import MigrationChannel
from emu.migration.machine import Iterated, MigratableMachine
from emu.migration.ram import NAME, VERSION, RamTarget
from emu.migration.sections import (
    COMMAND,
    END,
    EOF,
    FULL,
    PART,
    POSTCOPY_ADVISE,
    START,
    DeviceLoader,
    Integrity,
    read_command,
    read_footer,
    read_header,
    skip_description,
)
from emu.migration.stream import MigrationError, StreamReader

if TYPE_CHECKING:
    from emu.memory.userfault import Userfault
    from emu.migration.arrival import Arrival
    from emu.migration.postcopy_target import PostcopyTarget

_MAX_SECTIONS = 1 << 24
_LAST_WORDS_SECONDS = 2.0


def receive(machine: MigratableMachine, channel: MigrationChannel) -> Arrival | None:
    """Load what a source sends, up to and with the hand-over.

    Returns when this side runs the guest; with post-copy, when it is to run it, and what is then
    left to do.  Raises :class:`MigrationError` otherwise, and has told the source why, so far as
    it can be told.
    """
    loader = None
    arrival: Arrival | None = None
    try:
        reader = StreamReader(channel)
        loader = Loader(machine, reader, channel)
        loader.run()
        if (target := loader.postcopy_target()) is not None:
            from emu.migration.arrival import Arrival

            arrival = Arrival(target, loader.devices.resume, channel)
            arrival.begin(reader)
            machine.expect_missing_memory()
        machine.on_vcpu(loader.devices.finish)
        if arrival is not None:
            arrival.await_go()
        elif channel.has_return_path:
            _await_go(channel, reader)
        machine.claim_host()
    except BaseException as error:
        if arrival is not None:
            arrival.target.close()
        failure = _failure(channel, error)
        if failure is error:
            raise
        raise failure from error
    finally:
        if loader is not None and arrival is None:
            loader.close()
    if channel.has_return_path:
        # After GO the source never goes on by itself, so the guest runs here even if this is lost.
        with contextlib.suppress(OSError):
            channel.write(ACK)
    if arrival is None:
        machine.on_vcpu(loader.devices.resume)
    return arrival


def _failure(channel: MigrationChannel, error: BaseException) -> BaseException:
    """What to raise; the source is told."""
    if isinstance(error, OSError):
        return MigrationError(f"the source is gone: {error.strerror or error}")
    if not isinstance(error, Exception):
        return error
    # a stream may hold anything
    failure = error if isinstance(error, MigrationError) else MigrationError(f"bad state: {error}")
    _explain(channel, failure)
    return failure


def _await_go(channel: MigrationChannel, reader: StreamReader) -> None:
    """Tell the source that all is loaded, and wait until it gives the guest away."""
    if reader.buffered(1):
        raise MigrationError("something follows the description")
    channel.write(READY)
    answer = reader.peek(1)
    if not answer:
        raise MigrationError("the source has closed the connection before it handed over")
    if answer != GO:
        raise MigrationError("the source answered nonsense")


def _explain(channel: MigrationChannel, error: MigrationError) -> None:
    if channel.has_return_path:
        with contextlib.suppress(OSError):
            channel.write(REFUSED + f"{error}\n".encode())
            channel.drain(_LAST_WORDS_SECONDS)


class Loader:
    """Dispatches sections until the end mark."""

    def __init__(
        self, machine: MigratableMachine, reader: StreamReader, channel: MigrationChannel
    ) -> None:
        self._machine = machine
        self._channel = channel
        self._userfault: Userfault | None = None
        self._reader = reader
        self._ram = RamTarget(machine.ram)
        self._iterated = {part.name: part for part in machine.iterated()}
        self._open: dict[int, str] = {}
        self._ended: set[str] = set()
        self.devices = DeviceLoader(machine.components())

    def run(self) -> None:
        """Everything up to the description."""
        read_header(self._reader, self._machine.migration_name)
        for _ in range(_MAX_SECTIONS):
            before = Integrity.of(self._reader)
            kind = self._reader.u8()
            if kind == EOF:
                self._check_ended()
                skip_description(self._reader)
                return
            if self.devices.complete:
                raise MigrationError("a section follows the integrity section")
            if kind == FULL:
                self.devices.read(self._reader, before)
            elif kind == START:
                self._start()
            elif kind in (PART, END):
                self._part(kind)
            elif kind == COMMAND:
                self._command()
            else:
                raise MigrationError(f"unknown section type {kind:#x} at byte {before.length}")
        raise MigrationError("the stream has no end")

    def _command(self) -> None:
        number, data = read_command(self._reader)
        if number != POSTCOPY_ADVISE or len(data) != 16 or self._userfault is not None:
            raise MigrationError(f"unexpected command {number}")
        if not self._machine.accepts_postcopy:
            raise MigrationError("the capability postcopy-ram is off here")
        if not self._channel.has_return_path:
            raise MigrationError("post-copy needs a connection of both directions")
        from emu.migration.postcopy_target import check_host

        self._userfault = check_host()
        self._ram.missing = np.zeros(self._machine.ram.pages, np.bool_)

    def postcopy_target(self) -> PostcopyTarget | None:
        """What supplies memory that has not come; None if all has."""
        if not self._ram.has_missing or self._userfault is None or self._ram.missing is None:
            return None
        from emu.migration.postcopy_target import PostcopyTarget

        userfault, self._userfault = self._userfault, None
        return PostcopyTarget(self._machine.ram, userfault, self._ram.missing, self._ram.written)

    def close(self) -> None:
        """Post-copy does not happen."""
        if self._userfault is not None:
            self._userfault.close()

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
