"""Options for the debugger: -gdb and -s."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from emu.config import ChardevConfig, ConfigError, PtyConfig, SocketConfig, StdioConfig
from emu.options.backends import serial_from_text
from emu.options.builder import ConfigBuilder
from emu.options.table import option

_GROUP = "Debugging and help"
DEFAULT_DEVICE = "tcp::1234"
_LABEL = "gdb"


def gdb_device(text: str, chardevs: Mapping[str, ChardevConfig]) -> ChardevConfig | None:
    """Where a debugger connects, in the form of -gdb; None for "none".

    A socket is a server that does not wait, unless the text says otherwise.
    """
    if text == "none":
        return None
    if text.startswith("chardev:"):
        name = text.removeprefix("chardev:")
        if name not in chardevs:
            raise ConfigError(f"chardev '{name}' not found")
        return chardevs[name]
    if text.startswith(("tcp:", "unix:")) and ",server" not in text:
        text += ",server=on,wait=off"
    elif text.startswith(("tcp:", "unix:")) and "wait" not in text and ",server=off" not in text:
        text += ",wait=off"
    device = replace(serial_from_text(text), id=_LABEL)
    if isinstance(device, SocketConfig | StdioConfig | PtyConfig):
        return device
    raise ConfigError(f"a debugger cannot use '{text}'")


@option(
    "gdb",
    argument="tcp:[HOST]:PORT|unix:PATH|stdio|chardev:ID|none",
    help="let gdb connect there (docs/gdb.md)",
    group=_GROUP,
)
def gdb(build: ConfigBuilder, text: str) -> None:
    """-gdb: a character device."""
    build.set("gdb", gdb_device(text, build.chardevs))


@option("s", help=f"shorthand for -gdb {DEFAULT_DEVICE}", group=_GROUP)
def shorthand(build: ConfigBuilder, text: str) -> None:
    """-s."""
    build.set("gdb", gdb_device(DEFAULT_DEVICE, build.chardevs))
