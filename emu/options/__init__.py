"""The command line, in QEMU's syntax.

Each option is declared once, next to its handler, in the modules imported below.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from emu.config import ConfigError, MachineConfig
from emu.options import (  # noqa: F401 (they declare)
    block,
    boot,
    console,
    debug,
    devices,
    gdb,
    machine,
    monitor,
    network,
    objects,
    trace,
)
from emu.options.builder import ConfigBuilder
from emu.options.table import HelpRequested, find_option

__all__ = ["HelpRequested", "parse_command_line"]


def parse_command_line(
    argv: Sequence[str], warn: Callable[[str], object] | None = None
) -> MachineConfig:
    """Return the configuration that the arguments (without the program's name) describe.

    ConfigError with "-opt value: reason" for a mistake; HelpRequested with the text to show for
    -help and the like. `warn` gets one line for each option without effect (default: stderr).
    """
    build = ConfigBuilder(_warn_on_stderr if warn is None else warn)
    arguments = iter(argv)
    for word in arguments:
        name = word[2:] if word.startswith("--") else word[1:]
        entry = find_option(name) if word.startswith("-") else None
        if entry is None:
            kind = "invalid option" if word.startswith("-") else "unexpected argument"
            raise ConfigError(f"{word}: {kind}")
        value = ""
        if entry.argument:
            following = next(arguments, None)
            if following is None:
                raise ConfigError(f"{word}: requires an argument")
            value = following
        build.where = f"{word} {value}".rstrip()
        try:
            entry.handler(build, value)
        except ConfigError as error:
            raise ConfigError(f"{build.where}: {error}", error.field) from error
    return build.build()


def _warn_on_stderr(message: str) -> None:
    print(f"ppc64emu: warning: {message}", file=sys.stderr)
