"""Options for the machine itself: type, CPU, memory, accelerator."""

from __future__ import annotations

import re
from uuid import UUID

from emu.config import (
    ACCELERATORS,
    CPU_ALIASES,
    MACHINES,
    MIB,
    ConfigError,
    canonical_cpu,
    check_smp,
)
from emu.options.builder import ConfigBuilder
from emu.options.machine_properties import describe_properties, set_property
from emu.options.syntax import parse_bool, parse_keyvals, parse_number, parse_size, wants_help
from emu.options.table import HelpRequested, option

_GROUP = "Machine"

#: QEMU's CPU properties that change nothing here (they adapt migration to old versions).
_CPU_PROPERTIES = ("pre-2.8-migration", "pre-2.10-migration", "pre-3.0-migration")

#: QEMU's properties of tcg, all about how it runs and not what it does.
_TCG_PROPERTIES = ("accel", "thread", "tb-size", "split-wx", "one-insn-per-tb")


@option(
    "machine",
    "M",
    argument="[type=]name[,prop=value...]",
    help="machine type ('-machine help' for a list), and its properties ('-machine pseries,help')",
    group=_GROUP,
)
def machine(build: ConfigBuilder, text: str) -> None:
    """-machine: the type, and properties one by one."""
    properties = parse_keyvals(text, implied="type")
    name = properties.pop("type", None)
    if name in ("help", "?"):
        raise HelpRequested(_machine_list())
    if name is not None:
        # QEMU's versioned names differ in details that only its own migration needs.
        name = re.sub(r"^(pseries)-\d+\.\d+$", r"\1", name)
        if name not in MACHINES:
            raise ConfigError(
                f"unsupported machine type '{name}' (use -machine help to list the machines)"
            )
        build.set("machine", name)
    if wants_help(text):
        raise HelpRequested(describe_properties(build.machine))
    for key, value in properties.items():
        set_property(build, key, value)


@option(
    "cpu",
    argument="model[,prop=value...]",
    help="CPU model: power8 (the default) or power9 ('-cpu help' for all names)",
    group=_GROUP,
)
def cpu(build: ConfigBuilder, text: str) -> None:
    """-cpu: model and properties."""
    if wants_help(text):
        raise HelpRequested(_cpu_list())
    properties = parse_keyvals(text, implied="model")
    name = properties.pop("model", "")
    if name.lower() == "host":
        raise ConfigError("CPU model 'host' requires KVM")
    build.set("cpu", canonical_cpu(name))
    for key, value in properties.items():
        if key not in _CPU_PROPERTIES:
            raise ConfigError(f"Property '{name}-powerpc64-cpu.{key}' not found")
        parse_bool(key, value)
    build.set("cpu_properties", properties)


@option(
    "smp",
    argument="[cpus=]n[,maxcpus=n][,sockets=n][,cores=n][,threads=n]",
    help="number of CPUs, each a core with one thread: 1 to 16 on pseries",
    group=_GROUP,
)
def smp(build: ConfigBuilder, text: str) -> None:
    """-smp: the number of CPUs and their topology, which must agree."""
    known = ("cpus", "maxcpus", "sockets", "dies", "clusters", "cores", "threads")
    given = {
        key: parse_number(key, value)
        for key, value in parse_keyvals(text, implied="cpus", known=known).items()
    }
    for key, number in given.items():
        if number == 0:
            raise ConfigError(f"'{key}' must be greater than zero")
    product = 1
    for key in ("sockets", "dies", "clusters", "cores", "threads"):
        product *= given.get(key, 1)
    cpus = given.get("cpus", given.get("maxcpus", product))
    maximum = given.get("maxcpus", cpus)
    # As in QEMU, the levels that are not given are derived; all that is left is divisibility.
    if maximum < cpus:
        raise ConfigError(f"maxcpus ({maximum}) must not be less than cpus ({cpus})")
    if maximum % product:
        raise ConfigError(f"the topology's {product} CPUs do not match maxcpus ({maximum})")
    check_smp(cpus)
    if given.get("threads", 1) > 1:
        raise ConfigError("a core has one thread (threads must be 1)")
    if maximum > cpus:
        raise ConfigError(f"CPU hotplug is not supported (maxcpus must be {cpus})")
    build.set("smp", cpus)


@option(
    "m",
    argument="[size=]megs[,slots=n,maxmem=size]",
    help="RAM size, in MiB or with a suffix (K, M, G, T): a multiple of 256 MiB up to 16 GiB, "
    "512 by default; on virtmmio any number of MiB from 16",
    group=_GROUP,
)
def memory(build: ConfigBuilder, text: str) -> None:
    """-m: the size of RAM; memory hotplug is accepted and has no effect."""
    given = parse_keyvals(text, implied="size", known=("size", "slots", "maxmem"))
    if "size" in given:
        size = parse_size("size", given["size"], MIB)
        build.set("ram_size", size)
    else:
        raise ConfigError("missing 'size'")
    slots = parse_number("slots", given.get("slots", "0"))
    maximum = parse_size("maxmem", given.get("maxmem", str(size)))
    if maximum < size:
        raise ConfigError(f"maxmem ({maximum:#x}) must be at least the memory size ({size:#x})")
    if slots and maximum == size:
        raise ConfigError("slots specified but no maxmem")
    if maximum > size:
        build.warn("memory hotplug is not supported; slots and maxmem are ignored")


@option(
    "accel",
    argument="name[,prop=value...]",
    help="accelerator: only tcg; its properties have no effect",
    group=_GROUP,
)
def accel(build: ConfigBuilder, text: str) -> None:
    """-accel: tcg only."""
    if wants_help(text):
        names = "\n".join(f"{name:8} {what}" for name, what in ACCELERATORS.items())
        raise HelpRequested(f"Accelerators:\n{names}")
    given = parse_keyvals(text, implied="accel")
    name = given.get("accel", "")
    if name not in ACCELERATORS:
        raise ConfigError(f"invalid accelerator '{name}' (only tcg is supported)")
    for key in given:
        if key not in _TCG_PROPERTIES:
            raise ConfigError(f"Property 'tcg-accel.{key}' not found")
    build.set("accel", name)


@option("enable-kvm", help="refused: only tcg is supported", group=_GROUP)
def enable_kvm(build: ConfigBuilder, text: str) -> None:
    """-enable-kvm: an error that says so."""
    raise ConfigError("invalid accelerator 'kvm' (only tcg is supported)")


@option(
    "name",
    argument="string[,process=string][,debug-threads=on|off]",
    help="name of the guest",
    group=_GROUP,
)
def name(build: ConfigBuilder, text: str) -> None:
    """-name: the guest's name."""
    known = ("guest", "process", "debug-threads")
    given = parse_keyvals(text, implied="guest", known=known)
    parse_bool("debug-threads", given.get("debug-threads", "off"))
    build.set("name", given.get("guest", ""))


@option("uuid", argument="uuid", help="UUID of the machine", group=_GROUP)
def uuid(build: ConfigBuilder, text: str) -> None:
    """-uuid: 32 hexadecimal digits in the usual groups."""
    try:
        value = UUID(text)
    except ValueError:
        value = None
    if value is None or str(value) != text.lower():
        raise ConfigError("failed to parse UUID string: wrong format")
    build.set("uuid", value)


def _machine_list() -> str:
    lines = [f"{name:20} {machine.description}" for name, machine in MACHINES.items()]
    lines[0] += " (default)"
    return "\n".join(["Supported machines are:", *lines])


def _cpu_list() -> str:
    lines = [
        f"  {name:16} {'' if name == model else '(alias for ' + model + ')'}".rstrip()
        for name, model in CPU_ALIASES.items()
    ]
    return "Available CPUs (upper case is fine, too):\n" + "\n".join(lines)
