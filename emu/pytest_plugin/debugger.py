"""Breakpoints, watchpoints and single steps for tests; the gdb stub's target does the work."""

from __future__ import annotations

import queue
from typing import TYPE_CHECKING

from emu.events import RunState
from emu.gdb.points import PointKind
from emu.gdb.target import Stop, StopKind, Target
from emu.pytest_plugin.console import DEFAULT_TIMEOUT

if TYPE_CHECKING:
    from emu.pytest_plugin.guest import GuestMachine

__all__ = ["Debugger", "Stop", "StopKind"]

_WATCHES = {"write": PointKind.WRITE, "read": PointKind.READ, "access": PointKind.ACCESS}


class Debugger:
    """A test's hold on the CPUs; the guest stands still from the first use of it.

    One debugger at a time: not together with gdb. Addresses are effective addresses.
    """

    def __init__(self, machine: GuestMachine) -> None:
        self._machine = machine
        self._target = Target(machine.emulator)
        self._target.attach()

    def add_breakpoint(self, place: int | str) -> None:
        """Stop before the instruction at an address, or at a symbol's.

        ValueError if there can be no instruction, LookupError if there is no such symbol.
        """
        self._target.points.insert(PointKind.HARDWARE, self._address(place), 4)

    def remove_breakpoint(self, place: int | str) -> None:
        """Stop there no more."""
        self._target.points.remove(PointKind.HARDWARE, self._address(place), 4)

    def _address(self, place: int | str) -> int:
        return self._machine.symbol(place) if isinstance(place, str) else place

    def add_watchpoint(self, address: int, size: int = 8, access: str = "write") -> None:
        """Stop before accesses to `size` bytes; `access` is "write", "read" or "access" (both)."""
        self._target.points.insert(_watch(access), address, size)

    def remove_watchpoint(self, address: int, size: int = 8, access: str = "write") -> None:
        """Stop for them no more."""
        self._target.points.remove(_watch(access), address, size)

    def run(self, timeout: float = DEFAULT_TIMEOUT) -> Stop:
        """Let the guest run up to the next breakpoint or watchpoint, and tell which.

        `Stop` has `kind`, `vcpu` (its index), `pc` and, for a watchpoint, `hit`. GuestFailure if
        the guest ends first, GuestTimeout after so many seconds (it runs on, then).
        """
        __tracebackhide__ = True
        from emu.pytest_plugin.guest import GuestFailure, GuestTimeout

        self._step_off()
        states: queue.SimpleQueue[RunState] = queue.SimpleQueue()
        unsubscribe = self._machine.emulator.state.subscribe(lambda _, new: states.put(new))
        try:
            self._target.resume()
            while True:
                state = states.get(timeout=timeout)
                if state is RunState.DEBUG:
                    return self._target.last_stop
                if self._machine.ended:
                    raise GuestFailure(f"no breakpoint was reached: {self._machine.condition}")
        except queue.Empty:
            raise GuestTimeout(f"no breakpoint was reached within {timeout:g} s") from None
        finally:
            unsubscribe()

    def step(self, cpu: int = 0) -> Stop:
        """Run one instruction of a CPU while the others stand still; no breakpoint counts."""
        points, self._target.points = self._target.points, type(self._target.points)()
        try:
            return self._target.step([cpu])
        finally:
            self._target.points = points

    def _step_off(self) -> None:
        """Leave the places where the CPUs stand, which would stop them again at once."""
        stop, vcpus = self._target.last_stop, self._machine.emulator.board.vcpus
        for index, vcpu in enumerate(vcpus):
            watched = stop.hit is not None and (stop.vcpu, stop.pc) == (index, vcpu.pc)
            if watched or vcpu.pc in self._target.points.addresses:
                self.step(index)

    def release(self) -> None:
        """Forget all breakpoints and let the guest run."""
        self._target.release()
        self._target.go_on()


def _watch(access: str) -> PointKind:
    if access not in _WATCHES:
        raise ValueError(f"access {access!r} (known: {', '.join(_WATCHES)})")
    return _WATCHES[access]
