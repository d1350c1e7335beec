"""The whole machine configuration, as frozen dataclasses.

A configuration is plain data: it opens no file and starts no thread. It is checked when it is
built; a mistake raises `ConfigError`, whose message is one line a user can act on.

    MachineConfig(kernel="vmlinux", initrd="initrd.img", append="console=hvc0")

The command line (`emu.options`) builds the same objects from QEMU's syntax.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from uuid import UUID

from emu.chardev.config import (
    ChardevConfig,
    ConfigError,
    FileConfig,
    MemoryConfig,
    NullConfig,
    PtyConfig,
    SocketConfig,
    StdioConfig,
)

__all__ = [
    "ChardevConfig",
    "ConfigError",
    "DeviceConfig",
    "FileConfig",
    "MachineConfig",
    "MemoryConfig",
    "MonitorConfig",
    "NullConfig",
    "PtyConfig",
    "SocketConfig",
    "StdioConfig",
    "VtyConfig",
]

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

#: QEMU's default for pseries.
DEFAULT_RAM_SIZE = 512 * MIB
MIN_RAM_SIZE = 256 * MIB
MAX_RAM_SIZE = 16 * GIB
#: The size of a PAPR logical memory block (SPAPR_MEMORY_BLOCK_SIZE in QEMU): RAM is a whole number.
MEMORY_BLOCK_SIZE = 256 * MIB

#: Unit address of the first virtual terminal on the VIO bus, as in QEMU's pseries.
FIRST_VTY_REG = 0x7100_0000

StrPath = str | os.PathLike[str]


MACHINES: Mapping[str, str] = MappingProxyType(
    {"pseries": "pSeries Logical Partition (PAPR compliant)"}
)

#: Accepted CPU names, in lower case, and the model each one stands for.
CPU_ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "power8": "power8",
        "power8_v2.0": "power8",
        "power9": "power9",
        "power9_v2.0": "power9",
    }
)

ACCELERATORS: Mapping[str, str] = MappingProxyType({"tcg": "Unicorn's code translator"})


def canonical_cpu(name: str) -> str:
    """Return the CPU model that `name` stands for ("POWER8" -> "power8")."""
    try:
        return CPU_ALIASES[name.lower()]
    except KeyError:
        raise ConfigError(
            f"unable to find CPU model '{name}' (known: {', '.join(sorted(CPU_ALIASES))})",
            "cpu",
        ) from None


def check_ram_size(size: int) -> int:
    """Return `size` (bytes) if a machine can have that much RAM."""
    if not MIN_RAM_SIZE <= size <= MAX_RAM_SIZE:
        raise ConfigError(
            f"RAM size must be between {MIN_RAM_SIZE // MIB} MiB and {MAX_RAM_SIZE // GIB} GiB, "
            f"not {size / MIB:g} MiB",
            "ram_size",
        )
    if size % MEMORY_BLOCK_SIZE:
        raise ConfigError(f"RAM size {size / MIB:g} MiB is not a multiple of 256 MiB", "ram_size")
    return size


def check_smp(cpus: int) -> int:
    """Return `cpus` if a machine can have that many CPUs."""
    if cpus < 1:
        raise ConfigError("the number of CPUs must be greater than zero", "smp")
    if cpus > 1:
        raise ConfigError("only 1 CPU is supported", "smp")
    return cpus


def parse_rtc_base(base: str | datetime) -> str | datetime:
    """Return "utc", "localtime", or the date and time that `base` says in ISO format."""
    if isinstance(base, datetime):
        if base.tzinfo is not None:
            raise ConfigError("a date and time must have no time zone (it is UTC)", "rtc_base")
        return base
    if base in ("utc", "localtime"):
        return base
    try:
        return parse_rtc_base(datetime.fromisoformat(base))
    except ValueError:
        raise ConfigError(
            f"invalid datetime '{base}' (valid: utc, localtime, 2006-06-17T16:01:21, 2006-06-17)",
            "rtc_base",
        ) from None


@dataclass(frozen=True)
class DeviceConfig:
    """A device asked for by name: `driver`, optional `id`, and properties as written."""

    driver: str
    properties: Mapping[str, str] = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True)
class VtyConfig:
    """One virtual terminal: `reg` is its unit address, `chardev` the host side."""

    reg: int
    chardev: ChardevConfig


@dataclass(frozen=True)
class MonitorConfig:
    """A monitor on a character device: `mode` is "control" (QMP) or "readline"."""

    chardev: ChardevConfig
    mode: str = "control"


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    """Everything needed to build and start a machine.

    `serial` are the virtual terminals from FIRST_VTY_REG on (default: one, in memory, which is
    `Machine.console`); `chardevs` are backends that `devices` refer to by id. `ram_size` is in
    bytes. `rtc_base` is "utc", "localtime", or a naive datetime taken as UTC (also in ISO format).
    `incoming` is where a migrating guest comes from, or "defer". `log_items` are names from
    `emu.log`. `dumpdtb` is a file for the device tree, written instead of running the guest.
    """

    machine: str = "pseries"
    machine_options: Mapping[str, str] = field(default_factory=dict)
    cpu: str = "power8"
    cpu_properties: Mapping[str, str] = field(default_factory=dict)
    smp: int = 1
    ram_size: int = DEFAULT_RAM_SIZE
    kernel: StrPath | None = None
    initrd: StrPath | None = None
    append: str = ""
    bios: StrPath | None = None
    dumpdtb: StrPath | None = None
    nodefaults: bool = False
    serial: tuple[ChardevConfig, ...] = (MemoryConfig(id="serial0"),)
    chardevs: Mapping[str, ChardevConfig] = field(default_factory=dict)
    devices: tuple[DeviceConfig, ...] = ()
    rtc_base: str | datetime = "utc"
    no_reboot: bool = False
    no_shutdown: bool = False
    start_paused: bool = False
    incoming: str | None = None
    monitors: tuple[MonitorConfig, ...] = ()
    name: str = ""
    uuid: UUID | None = None
    accel: str = "tcg"
    log_items: frozenset[str] = frozenset()
    log_file: StrPath | None = None

    def __post_init__(self) -> None:
        """Check every field, and the fields against each other."""
        if self.machine not in MACHINES:
            raise ConfigError(
                f"unsupported machine type '{self.machine}' (supported: {', '.join(MACHINES)})",
                "machine",
            )
        object.__setattr__(self, "cpu", canonical_cpu(self.cpu))
        object.__setattr__(self, "rtc_base", parse_rtc_base(self.rtc_base))
        check_smp(self.smp)
        check_ram_size(self.ram_size)
        if self.accel not in ACCELERATORS:
            raise ConfigError(f"invalid accelerator '{self.accel}' (only tcg is known)", "accel")
        if self.initrd is not None and self.kernel is None:
            raise ConfigError("an initrd needs a kernel", "initrd")
        if self.append and self.kernel is None:
            raise ConfigError("a kernel command line needs a kernel", "append")
        if "\0" in self.append:
            raise ConfigError("the kernel command line contains a NUL character", "append")
        self._check_chardevs()

    def _check_chardevs(self) -> None:
        backends = {f"chardevs[{key}]": chardev for key, chardev in self.chardevs.items()}
        for index, chardev in enumerate(self.serial):
            if not any(chardev is c for c in self.chardevs.values()):
                backends[f"serial[{index}]"] = chardev
        stdio = [where for where, c in backends.items() if isinstance(c, StdioConfig)]
        if len(stdio) > 1:
            raise ConfigError("cannot use stdio by multiple character devices", stdio[1])
        self.vtys()

    def vtys(self) -> tuple[VtyConfig, ...]:
        """All virtual terminals: those of `serial` first, then the spapr-vty devices."""
        devices = {
            f"devices[{index}]": device
            for index, device in enumerate(self.devices)
            if device.driver == "spapr-vty"
        }
        asked = {where: parse_reg(device, where) for where, device in devices.items()}
        terminals = [
            (f"serial[{index}]", VtyConfig(FIRST_VTY_REG + index, chardev))
            for index, chardev in enumerate(self.serial)
        ]
        taken = {vty.reg for _, vty in terminals} | set(asked.values())
        free = (reg for reg in itertools.count(FIRST_VTY_REG) if reg not in taken)
        for where, device in devices.items():
            reg = asked[where]
            vty = VtyConfig(next(free) if reg is None else reg, self._vty_chardev(device, where))
            terminals.append((where, vty))
        _check_vtys(terminals)
        return tuple(vty for _, vty in terminals)

    def _vty_chardev(self, device: DeviceConfig, where: str) -> ChardevConfig:
        name = device.properties.get("chardev")
        if name is None:
            raise ConfigError("spapr-vty needs a chardev property", where)
        try:
            return self.chardevs[name]
        except KeyError:
            raise ConfigError(
                f"property 'spapr-vty.chardev' can't find value '{name}'", where
            ) from None


def _check_vtys(terminals: list[tuple[str, VtyConfig]]) -> None:
    regs: set[int] = set()
    users: set[int] = set()
    for where, vty in terminals:
        if vty.reg in regs:
            raise ConfigError(f"spapr-vty devices conflict at address {vty.reg:#x}", where)
        if id(vty.chardev) in users:
            raise ConfigError(f"chardev '{vty.chardev.id}' is in use already", where)
        regs.add(vty.reg)
        users.add(id(vty.chardev))


def parse_reg(device: DeviceConfig, where: str = "") -> int | None:
    """Return the `reg` property (a 32-bit unit address) of a VIO device, or None if not given."""
    text = device.properties.get("reg")
    if text is None:
        return None
    try:
        reg = int(text, 0)
    except ValueError:
        raise ConfigError(f"property '{device.driver}.reg': '{text}' is no number", where) from None
    if not 0 <= reg < 1 << 32:
        raise ConfigError(f"property '{device.driver}.reg' value {text} is out of range", where)
    return reg
