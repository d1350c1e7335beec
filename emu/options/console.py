"""Options for consoles: -serial, -chardev, -monitor, -nographic and displays."""

from __future__ import annotations

from emu.config import ConfigError
from emu.options.backends import BACKENDS, chardev_from_keyvals, serial_from_text
from emu.options.builder import ConfigBuilder
from emu.options.syntax import parse_keyvals, wants_help
from emu.options.table import HelpRequested, option

_GROUP = "Console"


@option(
    "nographic",
    help="no display; the console is on the terminal with Ctrl-A keys, as -serial mon:stdio",
    group=_GROUP,
)
def nographic(build: ConfigBuilder, text: str) -> None:
    """-nographic: only changes what the default console is."""
    build.nographic = True


@option(
    "serial",
    argument="dev",
    help="virtual terminal (may be repeated), on: stdio, mon:stdio, file:PATH, pipe:PATH, pty, "
    "null, none, ringbuf, chardev:ID, unix:PATH[,server=on|off][,wait=on|off], "
    "tcp:HOST:PORT[,server=on|off][,wait=on|off]",
    group=_GROUP,
)
def serial(build: ConfigBuilder, text: str) -> None:
    """-serial: a backend in its short form."""
    if text == "none":
        build.add_serial(None)
    elif text.startswith("chardev:"):
        build.add_serial(text.removeprefix("chardev:"))
    else:
        build.add_serial(serial_from_text(text))


@option(
    "chardev",
    argument="backend,id=id[,prop=value...]",
    help="character device, for -serial chardev:ID and -device ('-chardev help' for a list)",
    group=_GROUP,
)
def chardev(build: ConfigBuilder, text: str) -> None:
    """-chardev: a backend with an id."""
    if wants_help(text):
        lines = (f"  {name:8} {entry.form}" for name, entry in BACKENDS.items())
        raise HelpRequested("Available chardev backend types:\n" + "\n".join(lines))
    build.add_chardev(chardev_from_keyvals(parse_keyvals(text, implied="backend")))


@option("display", argument="none", help="there is no display", group=_GROUP)
def display(build: ConfigBuilder, text: str) -> None:
    """-display: none."""
    _only_none(text, "display")


@option("vga", argument="none", help="there is no graphics adapter", group=_GROUP)
def vga(build: ConfigBuilder, text: str) -> None:
    """-vga: none."""
    _only_none(text, "vga type")


@option("parallel", argument="none", help="there is no parallel port", group=_GROUP)
def parallel(build: ConfigBuilder, text: str) -> None:
    """-parallel: none."""
    _only_none(text, "parallel port")


def _only_none(text: str, what: str) -> None:
    if text in ("help", "?"):
        raise HelpRequested("none")
    if text != "none":
        raise ConfigError(f"{what} '{text}' is not supported (only none is)")
