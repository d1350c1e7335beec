"""Options for logs, help and version."""

from __future__ import annotations

from emu.config import ConfigError
from emu.log import DESCRIPTIONS, check_items
from emu.options.builder import ConfigBuilder
from emu.options.help import full_help
from emu.options.table import HelpRequested, option

_GROUP = "Debugging and help"


@option(
    "d",
    argument="item[,...]",
    help="log these items ('-d help' for a list)",
    group=_GROUP,
)
def log_items(build: ConfigBuilder, text: str) -> None:
    """-d: log items, added to those of earlier -d."""
    items = [item for item in text.split(",") if item]
    if "help" in items or "?" in items:
        raise HelpRequested(_item_list())
    if not items:
        raise ConfigError("no log item (use -d help for a list)")
    build.log_items |= check_items(items)


@option("D", argument="logfile", help="write the log to a file, not to stderr", group=_GROUP)
def log_file(build: ConfigBuilder, text: str) -> None:
    """-D: the log's file, which is opened before the machine starts."""
    build.set("log_file", text)


@option("h", "help", "?", help="show this help", group=_GROUP)
def show_help(build: ConfigBuilder, text: str) -> None:
    """-help."""
    raise HelpRequested(full_help())


@option("version", help="show the version", group=_GROUP)
def show_version(build: ConfigBuilder, text: str) -> None:
    """-version: with QEMU's, whose command line this is, for scripts that look for it."""
    raise HelpRequested(f"ppc64emu version {_version()}\nOptions of QEMU emulator version 7.2.0")


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("ppc64emu")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _item_list() -> str:
    lines = (f"{name:14} {what}" for name, what in {**DESCRIPTIONS, "all": "all items"}.items())
    return "Log items (comma separated):\n" + "\n".join(lines)
