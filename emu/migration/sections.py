"""Framing of a state stream: QEMU's migration format, version 3.

    header, configuration, {START, PART ..., END} of iterated state, FULL of devices, EOF,
    description (JSON)

Each section ends with a footer that repeats its number.  On top of that format, the last device
section holds length and checksum of everything before it.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from emu.log import log
from emu.migration.fields import Description, State, u32, u64
from emu.migration.stream import MigrationError, StreamReader, StreamWriter

_migration_log = log("migration")
FILE_MAGIC = 0x5145564D  # "QEVM"
FILE_VERSION = 3

EOF = 0x00
START = 0x01
PART = 0x02
END = 0x03
FULL = 0x04
SUBSECTION = 0x05
DESCRIPTION = 0x06
CONFIGURATION = 0x07
COMMAND = 0x08  # then which (16 bits), length (16 bits), data
FOOTER = 0x7E

# Commands, as QEMU numbers them.
POSTCOPY_ADVISE = 3  # page sizes of host and guest, 64 bits each
POSTCOPY_RESUME = 8

INTEGRITY = "ppc64emu/integrity"
MAX_DESCRIPTION = 16 << 20


@dataclass(frozen=True)
class Component:
    """A part of the machine with state: what identifies it in the stream, and the part itself.

    Loading has three phases for the whole machine: all fields of all components; then every
    ``check``, which may look at guest memory and byte order and raises :class:`MigrationError`;
    then every ``resume``, which may raise interrupts and process queues.  Up to the last one
    nothing leaves the machine, so the source can still keep its guest.
    """

    name: str
    description: Description
    target: Any
    instance: int = 0
    prepare: Callable[[], None] | None = None  # before saving: bring the target up to date
    check: Callable[[], None] | None = None
    resume: Callable[[], None] | None = None

    @property
    def key(self) -> tuple[str, int]:
        """Identifier and instance number."""
        return self.name, self.instance


@dataclass
class Integrity:
    """Length of a stream so far, its CRC-32, and the checksum of the pages in it."""

    length: int = 0
    checksum: int = 0
    pages: int = 0

    @classmethod
    def of(cls, stream: StreamReader | StreamWriter) -> Self:
        """What it is now."""
        return cls(stream.position, stream.checksum, int(stream.pages_checksum))


def _title(key: tuple[str, int]) -> str:
    name, instance = key
    return f"section '{name}', instance {instance}" if instance else f"section '{name}'"


@contextlib.contextmanager
def _in_section(key: tuple[str, int]) -> Iterator[None]:
    """Let errors tell the section they are in."""
    try:
        yield
    except MigrationError as error:
        text = str(error).removeprefix(f"{key[0]}: ")
        raise MigrationError(f"{_title(key)}: {text}") from error


_INTEGRITY_STATE = Description(INTEGRITY, 2, (u64("length"), u32("checksum"), u64("pages")))


def write_header(writer: StreamWriter, machine: str) -> None:
    """Magic, version and the machine's name."""
    writer.u32(FILE_MAGIC)
    writer.u32(FILE_VERSION)
    writer.u8(CONFIGURATION)
    name = machine.encode()
    writer.u32(len(name))
    writer.write(name)


def read_header(reader: StreamReader, machine: str) -> None:
    """Check magic, version and machine; :class:`MigrationError` if they do not fit."""
    if reader.u32() != FILE_MAGIC:
        raise MigrationError("not a migration stream (wrong magic)")
    version = reader.u32()
    if version != FILE_VERSION:
        raise MigrationError(f"stream version {version} is not supported (only {FILE_VERSION})")
    if reader.u8() != CONFIGURATION:
        raise MigrationError("configuration section is missing")
    length = reader.u32()
    if length > 255:
        raise MigrationError(f"configuration: machine name of {length} bytes")
    name = reader.ascii(length)
    if name != machine:
        raise MigrationError(f"configuration: machine type is '{name}', not '{machine}'")


def write_command(writer: StreamWriter, number: int, data: bytes = b"") -> None:
    """A command between sections."""
    writer.u8(COMMAND)
    writer.u16(number)
    writer.u16(len(data))
    writer.write(data)


def read_command(reader: StreamReader) -> tuple[int, bytes]:
    """Number and data of a command, behind its kind byte."""
    number = reader.u16()
    return number, reader.read(reader.u16())


def begin(
    writer: StreamWriter,
    kind: int,
    number: int,
    name: str = "",
    instance: int = 0,
    version: int = 0,
) -> None:
    """Head of a section; START and FULL carry a name."""
    writer.u8(kind)
    writer.u32(number)
    if kind in (START, FULL):
        writer.text(name)
        writer.u32(instance)
        writer.u32(version)


def finish(writer: StreamWriter, number: int) -> None:
    """Footer of a section."""
    writer.u8(FOOTER)
    writer.u32(number)


def read_footer(reader: StreamReader, number: int, name: str) -> None:
    """Check a section's footer."""
    if reader.u8() != FOOTER or reader.u32() != number:
        raise MigrationError(f"section '{name}': no footer where it should end")


def write_devices(writer: StreamWriter, components: Sequence[Component], first: int) -> None:
    """All device sections, numbered from ``first``, the integrity section, EOF, description."""
    for number, component in enumerate(components, first):
        begin(
            writer, FULL, number, component.name, component.instance, component.description.version
        )
        if component.prepare is not None:
            component.prepare()
        start = writer.position
        component.description.save(writer, component.target)
        if _migration_log.enabled:
            size, version = writer.position - start, component.description.version
            _migration_log("saved %s, version %d: %d bytes", _title(component.key), version, size)
        finish(writer, number)
    _write_integrity(writer, first + len(components))
    writer.u8(EOF)
    description = json.dumps(describe(components)).encode()
    writer.u8(DESCRIPTION)
    writer.u32(len(description))
    writer.write(description)


def _write_integrity(writer: StreamWriter, number: int) -> None:
    integrity = Integrity.of(writer)
    begin(writer, FULL, number, INTEGRITY, 0, _INTEGRITY_STATE.version)
    _INTEGRITY_STATE.save(writer, integrity)
    finish(writer, number)


def describe(components: Sequence[Component]) -> dict[str, Any]:
    """The JSON description behind the stream."""
    sections = [*components, Component(INTEGRITY, _INTEGRITY_STATE, Integrity())]
    return {
        "page_size": 4096,
        "devices": [
            {
                "name": component.name,
                "instance_id": component.instance,
                **component.description.describe(component.target),
            }
            for component in sections
        ],
    }


class DeviceLoader:
    """Reads FULL sections, knows at the end whether any is missing, and loads the components.

    :meth:`read` waits for the stream and touches no component: it is for the thread that
    receives.  :meth:`finish` and :meth:`resume` are for the vCPU thread and wait for nothing.
    """

    def __init__(self, components: Sequence[Component]) -> None:
        self._components = {component.key: component for component in components}
        self._states: dict[tuple[str, int], State] = {}
        self.complete = False

    def read(self, reader: StreamReader, before: Integrity) -> None:
        """Read one section behind its kind byte; ``before`` is from in front of that byte."""
        number = reader.u32()
        key = name, _ = reader.text(), reader.u32()
        version = reader.u32()
        component = self._components.get(key)
        if component is None and name != INTEGRITY:
            raise MigrationError(f"unknown {_title(key)}")
        if key in self._states:
            raise MigrationError(f"{_title(key)} comes twice")
        with _in_section(key):
            if component is None:
                self._check_integrity(reader, version, before)
            else:
                self._states[key] = component.description.read(reader, version)
        if _migration_log.enabled:
            size = reader.position - before.length
            _migration_log("received %s, version %d: %d bytes", _title(key), version, size)
        read_footer(reader, number, name)

    def _check_integrity(self, reader: StreamReader, version: int, before: Integrity) -> None:
        found = Integrity()
        _INTEGRITY_STATE.load(reader, found, version)
        if found.length != before.length:
            raise MigrationError(
                f"{before.length} bytes came before, the source sent {found.length}"
            )
        if found != before:
            raise MigrationError("the stream is corrupt (checksum differs)")
        self.complete = True

    def finish(self) -> None:
        """Give every component its state, then let each check what it has now."""
        for key in self._components:
            if key not in self._states:
                raise MigrationError(f"{_title(key)} is missing")
        if not self.complete:
            raise MigrationError(f"section '{INTEGRITY}' is missing")
        for key, component in self._components.items():
            with _in_section(key):
                self._states[key].apply(component.target)
        for key, component in self._components.items():
            with _in_section(key):
                if component.check is not None:
                    component.check()

    def resume(self) -> None:
        """The last phase: interrupts and queues."""
        for component in self._components.values():
            if component.resume is not None:
                component.resume()


def skip_description(reader: StreamReader) -> None:
    """Read past the description."""
    if reader.u8() != DESCRIPTION:
        raise MigrationError("the description is missing behind the devices")
    length = reader.u32()
    if length > MAX_DESCRIPTION:
        raise MigrationError(f"description of {length} bytes")
    reader.read(length)
