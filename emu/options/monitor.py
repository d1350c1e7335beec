"""Options for monitors and migration: -qmp, -mon, -incoming, -loadvm."""

from __future__ import annotations

from dataclasses import replace

from emu.config import ChardevConfig, ConfigError, MonitorConfig
from emu.migration.channels import check_uri
from emu.migration.stream import MigrationError
from emu.options.backends import serial_from_text
from emu.options.builder import ConfigBuilder
from emu.options.syntax import parse_keyvals
from emu.options.table import option
from emu.snapshots import path_of

_GROUP = "Debugging and help"


@option(
    "qmp",
    "qmp-pretty",
    argument="dev",
    help="QMP monitor on a character device, in the form that -serial takes",
    group=_GROUP,
)
def qmp(build: ConfigBuilder, text: str) -> None:
    """-qmp: a backend in its short form."""
    label = f"compat_monitor{len(build.monitors)}"
    if text.startswith("chardev:"):
        chardev = _named(build, text.removeprefix("chardev:"))
    else:
        chardev = replace(serial_from_text(text), id=label)
    build.add_monitor(MonitorConfig(chardev, "control"))


@option(
    "monitor",
    argument="dev",
    help="human monitor on a character device, in the form that -serial takes, or none",
    group=_GROUP,
)
def monitor(build: ConfigBuilder, text: str) -> None:
    """-monitor: none, a chardev, or a backend in its short form."""
    build.monitor_given = True
    if text in ("none", "null"):
        return
    if text.startswith("chardev:"):
        chardev = _named(build, text.removeprefix("chardev:"))
    else:
        chardev = replace(serial_from_text(text), id=f"compat_monitor{len(build.monitors)}")
    build.add_monitor(MonitorConfig(chardev, "readline"))


@option(
    "mon",
    argument="[chardev=]id[,mode=readline|control][,pretty=on|off]",
    help="monitor on a character device given with -chardev",
    group=_GROUP,
)
def mon(build: ConfigBuilder, text: str) -> None:
    """-mon: mode control is QMP."""
    given = parse_keyvals(text, implied="chardev", known=("chardev", "mode", "pretty"))
    mode = given.get("mode", "readline")
    if mode not in ("readline", "control"):
        raise ConfigError(f"invalid monitor mode '{mode}' (readline or control)")
    if "chardev" not in given:
        raise ConfigError("Parameter 'chardev' is missing")
    build.add_monitor(MonitorConfig(_named(build, given["chardev"]), mode))


def _named(build: ConfigBuilder, name: str) -> ChardevConfig:
    try:
        return build.chardevs[name]
    except KeyError:
        raise ConfigError(f"chardev '{name}' not found") from None


@option(
    "incoming",
    argument="tcp:HOST:PORT|unix:PATH|exec:COMMAND|fd:N|file:PATH|defer",
    help="wait for a guest that migrates here",
    group=_GROUP,
)
def incoming(build: ConfigBuilder, text: str) -> None:
    """-incoming: the machine stays empty until a guest comes."""
    build.set("incoming", text if text == "defer" else check_uri(text))


@option(
    "loadvm",
    argument="name|file",
    help="go on where savevm has saved a guest",
    group=_GROUP,
)
def loadvm(build: ConfigBuilder, text: str) -> None:
    """-loadvm: a guest that comes in from a file."""
    try:
        build.set("incoming", f"file:{path_of(text)}")
    except MigrationError as error:
        raise ConfigError(str(error)) from error
