"""The text of -help, from the table of options."""

from __future__ import annotations

import textwrap

from emu.options.table import GROUPS, Option, all_options

_INDENT = 16
_WIDTH = 79

_INTRODUCTION = """\
usage: ppc64emu [options] -kernel FILE

Runs a ppc64 or ppc64le kernel on an emulated POWER machine. The options are
QEMU's: '-opt value', with one dash or two. In lists of key=value a comma within
a value is written twice; on/off options may be given as the bare key."""

_EPILOGUE = """\
The console is on the terminal unless -serial, -nodefaults or -device spapr-vty
say otherwise: Ctrl-C then ends the emulator. With -nographic or -serial
mon:stdio Ctrl-C goes to the guest, Ctrl-A x ends the emulator and Ctrl-A h
shows the other keys.

The console is the only default device: where QEMU's pseries adds a network
adapter, disk controllers and an empty CD-ROM, here nothing is added, with or
without -nodefaults."""


def full_help() -> str:
    """Return the help on all options, grouped as they are declared."""
    parts = [_INTRODUCTION]
    for group in GROUPS:
        parts.append(f"\n{group}:")
        parts += [_describe(entry) for entry in all_options() if entry.group == group]
    return "\n".join([*parts, "", _EPILOGUE])


def _describe(entry: Option) -> str:
    head = ", ".join(f"-{name}" for name in entry.names)
    if entry.argument:
        head = f"{head} {entry.argument}"
    text = textwrap.wrap(entry.help, _WIDTH - _INDENT, break_on_hyphens=False)
    if len(head) < _INDENT - 1:
        first = f"{head:{_INDENT}}{text.pop(0)}"
        return "\n".join([first, *(" " * _INDENT + line for line in text)])
    return "\n".join([head, *(" " * _INDENT + line for line in text)])
