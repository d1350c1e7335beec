"""Options for traces and profiles: -dfilter, -symbols, -profile."""

from __future__ import annotations

import os
from dataclasses import replace

from emu.config import ConfigError
from emu.config_trace import DEFAULT_HZ, MAX_HZ, ProfileConfig, SymbolFile
from emu.options.builder import ConfigBuilder
from emu.options.syntax import parse_keyvals
from emu.options.table import option
from emu.trace.filter import parse_number, parse_ranges

_GROUP = "Debugging and help"


@option(
    "dfilter",
    argument="range[,...]",
    help="log blocks in these ranges only: START+LENGTH, START-LENGTH or START..END",
    group=_GROUP,
)
def log_filter(build: ConfigBuilder, text: str) -> None:
    """-dfilter: the last one counts, as in QEMU."""
    build.trace = replace(build.trace, ranges=parse_ranges(text))


@option(
    "symbols",
    argument="file[@address]",
    help="names for the log, besides those of -kernel and -bios: an ELF file or a kallsyms list",
    group=_GROUP,
)
def symbols(build: ConfigBuilder, text: str) -> None:
    """-symbols: may be given many times."""
    path, at, address = text.rpartition("@")
    if at and not os.path.exists(text):
        try:
            file = SymbolFile(path, parse_number(address))
        except ValueError:
            raise ConfigError(f"'{address}' is not an address") from None
    else:
        file = SymbolFile(text)
    if not os.path.exists(file.path):
        raise ConfigError(f"{file.path}: No such file or directory")
    build.trace = replace(build.trace, symbols=(*build.trace.symbols, file))


@option(
    "profile",
    argument="file[,hz=N]",
    help="sample what the guest executes N times a second, and write collapsed stacks at the end",
    group=_GROUP,
)
def profile(build: ConfigBuilder, text: str) -> None:
    """-profile: for flame graphs."""
    given = parse_keyvals(text, implied="file", known=("file", "hz"))
    if not given.get("file"):
        raise ConfigError("Parameter 'file' is missing")
    rate = given.get("hz", str(DEFAULT_HZ))
    if not rate.isdigit() or not 1 <= int(rate) <= MAX_HZ:
        raise ConfigError(f"hz is a number from 1 to {MAX_HZ}")
    build.trace = replace(build.trace, profile=ProfileConfig(given["file"], int(rate)))
