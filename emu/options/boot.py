"""Options about what boots, when, and what happens at the end."""

from __future__ import annotations

from emu.config import ConfigError, parse_rtc_base
from emu.options.builder import ConfigBuilder
from emu.options.files import readable_file
from emu.options.syntax import parse_keyvals
from emu.options.table import option

_GROUP = "Boot"


@option("kernel", argument="file", help="kernel image (vmlinux, an ELF file)", group=_GROUP)
def kernel(build: ConfigBuilder, text: str) -> None:
    """-kernel: a file that can be read."""
    build.set("kernel", text)
    # Test scripts give a kernel that is not there to see whether the other options are refused.
    build.check_last(lambda: readable_file(text, "kernel"))


@option("initrd", argument="file", help="initial RAM disk", group=_GROUP)
def initrd(build: ConfigBuilder, text: str) -> None:
    """-initrd: a file that can be read."""
    build.set("initrd", readable_file(text))


@option("append", argument="cmdline", help="kernel command line", group=_GROUP)
def append(build: ConfigBuilder, text: str) -> None:
    """-append: taken as it is, commas and all."""
    build.set("append", text)


@option("bios", argument="file", help="firmware image", group=_GROUP)
def bios(build: ConfigBuilder, text: str) -> None:
    """-bios: a file that can be read."""
    build.set("bios", readable_file(text))


@option(
    "rtc",
    argument="[base=utc|localtime|datetime][,clock=host|rt|vm]",
    help="what the clock shows at start: UTC (the default), local time, or a date such as "
    "2006-06-17T16:01:21",
    group=_GROUP,
)
def rtc(build: ConfigBuilder, text: str) -> None:
    """-rtc: the base; the clock is the host's."""
    given = parse_keyvals(text, implied="base", known=("base", "clock", "driftfix"))
    clock = given.get("clock", "host")
    if clock not in ("host", "rt", "vm"):
        raise ConfigError(f"invalid option value '{clock}' for 'clock' (host, rt or vm)")
    if clock != "host":
        build.warn(f"clock={clock} is ignored; the clock follows the host's")
    driftfix = given.get("driftfix", "none")
    if driftfix not in ("none", "slew"):
        raise ConfigError(f"invalid option value '{driftfix}' for 'driftfix' (none or slew)")
    build.set("rtc_base", parse_rtc_base(given.get("base", "utc")))


@option(
    "icount",
    argument="[shift=]N|auto[,align=on|off][,sleep=on|off]",
    help="accepted; the guest's clock follows the host's, not a count of instructions",
    group=_GROUP,
)
def icount(build: ConfigBuilder, text: str) -> None:
    """-icount: no effect."""
    known = ("shift", "align", "sleep", "rr", "rrfile", "rrsnapshot")
    given = parse_keyvals(text, implied="shift", known=known)
    if {"rr", "rrfile", "rrsnapshot"} & given.keys():
        raise ConfigError("record and replay are not supported")
    build.warn("instructions are not counted; the clock follows the host's")


@option("no-reboot", help="exit instead of rebooting", group=_GROUP)
def no_reboot(build: ConfigBuilder, text: str) -> None:
    """-no-reboot."""
    build.set("no_reboot", True)


@option("no-shutdown", help="stop, but do not exit, when the guest powers off", group=_GROUP)
def no_shutdown(build: ConfigBuilder, text: str) -> None:
    """-no-shutdown."""
    build.set("no_shutdown", True)


@option("S", help="do not start the CPU", group=_GROUP)
def start_paused(build: ConfigBuilder, text: str) -> None:
    """-S."""
    build.set("start_paused", True)


@option("nodefaults", help="no default devices: no console unless asked for", group=_GROUP)
def nodefaults(build: ConfigBuilder, text: str) -> None:
    """-nodefaults."""
    build.set("nodefaults", True)


@option(
    "no-user-config",
    "nodefconfig",
    help="accepted; there are no configuration files",
    group=_GROUP,
)
def no_user_config(build: ConfigBuilder, text: str) -> None:
    """-no-user-config: nothing to do."""
