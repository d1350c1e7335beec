"""What to trace and where names come from: plain data for `MachineConfig.trace`."""

from __future__ import annotations

from dataclasses import dataclass

#: First and last effective address, both inclusive
Range = tuple[int, int]

DEFAULT_HZ, MAX_HZ = 997, 10_000


@dataclass(frozen=True)
class SymbolFile:
    """`-symbols FILE[@ADDRESS]`: an ELF file or a list like /proc/kallsyms, moved to an address."""

    path: str
    address: int | None = None


@dataclass(frozen=True)
class ProfileConfig:
    """`-profile FILE[,hz=N]`: collapsed stacks, written when the machine ends."""

    path: str
    hz: int = DEFAULT_HZ


@dataclass(frozen=True)
class TraceConfig:
    """`ranges` are those of -dfilter (none: everything); `symbols` are read besides the images."""

    ranges: tuple[Range, ...] = ()
    symbols: tuple[SymbolFile, ...] = ()
    profile: ProfileConfig | None = None
