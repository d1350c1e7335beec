"""A stopped guest in a file, and back: the stream of a migration, with nobody at the other end."""

from __future__ import annotations

import numpy as np

from emu.migration import sections
from emu.migration.channels import FileChannel
from emu.migration.destination import Loader
from emu.migration.machine import MigratableMachine
from emu.migration.ram import NAME, VERSION, RamSource
from emu.migration.sections import END, START, begin, finish
from emu.migration.stream import StreamReader, StreamWriter

_RAM_SECTION = 2


def save(machine: MigratableMachine, channel: FileChannel) -> None:
    """Write all of a guest that stands still; :class:`MigrationError`."""
    writer, ram = StreamWriter(channel), RamSource(machine.ram)
    iterated = list(enumerate(machine.iterated(), _RAM_SECTION + 1))
    sections.write_header(writer, machine.migration_name)
    begin(writer, START, _RAM_SECTION, NAME, 0, VERSION)
    ram.write_setup(writer)
    finish(writer, _RAM_SECTION)
    for number, part in iterated:
        begin(writer, START, number, part.name, 0, part.version)
        part.save_setup(writer)
        finish(writer, number)
    begin(writer, END, _RAM_SECTION)
    ram.write_pages(writer, np.arange(machine.ram.pages, dtype=np.int64))
    ram.end(writer)
    finish(writer, _RAM_SECTION)
    for number, part in iterated:
        begin(writer, END, number)
        part.save_end(writer)
        finish(writer, number)
    first = _RAM_SECTION + 1 + len(iterated)
    machine.on_vcpu(lambda: sections.write_devices(writer, machine.components(), first))
    writer.flush()


def load(machine: MigratableMachine, channel: FileChannel) -> None:
    """Give a guest that was reset and stands still what was saved; :class:`MigrationError`.

    If that fails, its state is neither.
    """
    loader = Loader(machine, StreamReader(channel), channel)
    try:
        loader.run()
    finally:
        loader.close()
    machine.on_vcpu(loader.devices.finish)
    machine.on_vcpu(loader.devices.resume)
