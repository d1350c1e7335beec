"""What machines, CPUs and sizes there are, and the checks of each."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from emu.chardev.config import ConfigError
from machines.virtmmio import layout

KIB = 1 << 10
MIB = 1 << 20
GIB = 1 << 30

#: QEMU's default for pseries.
DEFAULT_RAM_SIZE = 512 * MIB
MIN_RAM_SIZE = 256 * MIB
MAX_RAM_SIZE = 16 * GIB
#: The size of a PAPR logical memory block (SPAPR_MEMORY_BLOCK_SIZE in QEMU): RAM is a whole number.
MEMORY_BLOCK_SIZE = 256 * MIB
#: As in machines.pseries.virtio_mmio, whose import would take long.
_PSERIES_SLOTS = 8
#: As MAX_VCPUS in emu.cpu.record.
_PSERIES_CPUS = 16

StrPath = str | os.PathLike[str]


@dataclass(frozen=True)
class MachineType:
    """A machine: what it is, its RAM in bytes, and the buses its virtio devices are on.

    `slots` is the number of virtio-mmio slots; `max_cpus` limits `-smp`.
    """

    description: str
    min_ram: int
    max_ram: int
    ram_unit: int
    slots: int
    pci: bool
    max_cpus: int


MACHINES: Mapping[str, MachineType] = MappingProxyType(
    {
        "pseries": MachineType(
            "pSeries Logical Partition (PAPR compliant)",
            MIN_RAM_SIZE,
            MAX_RAM_SIZE,
            MEMORY_BLOCK_SIZE,
            _PSERIES_SLOTS,
            pci=True,
            max_cpus=_PSERIES_CPUS,
        ),
        "virtmmio": MachineType(
            "flat board with virtio-mmio slots, for test images",
            layout.MIN_RAM_SIZE,
            layout.MAX_RAM_SIZE,
            layout.RAM_UNIT,
            layout.SLOT_COUNT,
            pci=False,
            max_cpus=1,
        ),
    }
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


def check_machine(name: str) -> MachineType:
    """Return the machine with that name."""
    try:
        return MACHINES[name]
    except KeyError:
        raise ConfigError(
            f"unsupported machine type '{name}' (supported: {', '.join(MACHINES)})", "machine"
        ) from None


def check_ram_size(size: int, machine: str = "pseries") -> int:
    """Return `size` (bytes) if that machine can have that much RAM."""
    limits = MACHINES[machine]
    if not limits.min_ram <= size <= limits.max_ram:
        raise ConfigError(
            f"RAM size must be between {limits.min_ram // MIB} MiB and "
            f"{limits.max_ram // GIB} GiB, not {size / MIB:g} MiB",
            "ram_size",
        )
    if size % limits.ram_unit:
        raise ConfigError(
            f"RAM size {size / MIB:g} MiB is not a multiple of {limits.ram_unit // MIB} MiB",
            "ram_size",
        )
    return size


def check_smp(cpus: int, machine: str = "pseries") -> int:
    """Return `cpus` if that machine can have that many CPUs."""
    if cpus < 1:
        raise ConfigError("the number of CPUs must be greater than zero", "smp")
    limit = MACHINES[machine].max_cpus
    if cpus > limit:
        raise ConfigError(
            f"Invalid SMP CPUs {cpus}. The max CPUs supported by machine '{machine}' is {limit}",
            "smp",
        )
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
