"""Breakpoints and watchpoints as gdb sets them."""

from __future__ import annotations

import enum

from emu.cpu.debug import MAX_BREAKPOINTS, MAX_WATCHPOINTS, Access, Watchpoint

_TOP = (1 << 64) - 1


class PointKind(enum.IntEnum):
    """The number in a ``Z`` packet."""

    SOFTWARE = 0
    HARDWARE = 1
    WRITE = 2
    READ = 3
    ACCESS = 4


_ACCESS = {
    PointKind.WRITE: Access.WRITE,
    PointKind.READ: Access.READ,
    PointKind.ACCESS: Access.READ | Access.WRITE,
}
#: What a stop reply calls a watchpoint.
REPLY_NAMES = {Access.WRITE: "watch", Access.READ: "rwatch", Access.READ | Access.WRITE: "awatch"}


class Points:
    """The set that a client wants; setting one twice, or removing one that is not there, is fine.

    ``ValueError`` for what cannot be: a wrong size or alignment, or too many.
    """

    def __init__(self) -> None:
        self._points: set[tuple[PointKind, int, int]] = set()

    def insert(self, kind: PointKind, address: int, size: int) -> None:
        """Add one; ``size`` is in bytes and means nothing for breakpoints."""
        point = self._point(kind, address, size)
        limit = MAX_WATCHPOINTS if kind in _ACCESS else MAX_BREAKPOINTS
        same = sum((other[0] in _ACCESS) == (kind in _ACCESS) for other in self._points)
        if point not in self._points and same >= limit:
            raise ValueError(f"at most {limit}")
        self._points.add(point)

    def remove(self, kind: PointKind, address: int, size: int) -> None:
        """Remove one."""
        self._points.discard(self._point(kind, address, size))

    def clear(self) -> None:
        """Remove all."""
        self._points.clear()

    def _point(self, kind: PointKind, address: int, size: int) -> tuple[PointKind, int, int]:
        if kind not in _ACCESS:
            if not 0 <= address <= _TOP or address & 3:
                raise ValueError("no address of an instruction")
            return kind, address, 0
        if size < 1 or not 0 <= address <= _TOP or address + size - 1 > _TOP:
            raise ValueError("no range of addresses")
        return kind, address, size

    @property
    def addresses(self) -> frozenset[int]:
        """Where instructions have breakpoints."""
        return frozenset(address for kind, address, _ in self._points if kind not in _ACCESS)

    @property
    def watchpoints(self) -> tuple[Watchpoint, ...]:
        """Ranges of data, in a stable order."""
        return tuple(
            Watchpoint(address, address + size - 1, _ACCESS[kind])
            for kind, address, size in sorted(self._points)
            if kind in _ACCESS
        )

    def has_hardware(self, address: int) -> bool:
        """Whether an instruction has a hardware breakpoint, and no software one."""
        return (PointKind.HARDWARE, address, 0) in self._points and (
            PointKind.SOFTWARE,
            address,
            0,
        ) not in self._points
