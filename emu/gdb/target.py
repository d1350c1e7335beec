"""The machine as a debugger sees it: the one place of the stub that touches vCPUs.

Methods are called on the session's thread.  What concerns a vCPU runs on the vCPU thread, by
``Machine.on_vcpu``; letting the guest run and stopping it is ``Machine.cont`` and ``stop``.
"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emu.cpu.debug import VcpuDebug, WatchHit
from emu.cpu.mmu import debug_translate
from emu.cpu.vcpu import Vcpu
from emu.events import RunState
from emu.gdb.points import Points
from emu.gdb.registers import RegisterFile
from emu.migration.stream import MigrationError

if TYPE_CHECKING:
    from emu.machine import Machine

_PAGE = 4096
_TOP = 1 << 64
_STOP_SECONDS = 10.0
ENDED = (RunState.SHUTDOWN, RunState.GUEST_PANICKED, RunState.INTERNAL_ERROR)
#: States in which there is no guest to let run.
_NO_GUEST = (*ENDED, RunState.INMIGRATE, RunState.FINISH_MIGRATE)


class TargetError(Exception):
    """The guest cannot do that now; the text is one line."""


class MemoryFaultError(Exception):
    """An address that is not mapped, or is not RAM."""


class StopKind(enum.Enum):
    """Why a vCPU stopped."""

    PAUSED = enum.auto()  # asked to
    BREAKPOINT = enum.auto()
    WATCHPOINT = enum.auto()
    STEP = enum.auto()


@dataclass(frozen=True)
class Stop:
    """The latest stop: by which vCPU (its index), and for a watchpoint the access."""

    kind: StopKind
    vcpu: int
    pc: int = 0
    hit: WatchHit | None = None


class Target:
    """One client's hold on the machine, from :meth:`attach` to :meth:`release`."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._debugs: list[VcpuDebug] = []
        self._stepping = False
        self.points = Points()
        self.last_stop = Stop(StopKind.PAUSED, 0)
        self.step_interrupts = False  # whether a step may be the delivery of an interrupt
        self.physical: bool = False  # memory by guest real address

    @property
    def _vcpus(self) -> list[Vcpu]:
        return self._machine.board.vcpus

    @property
    def vcpu_count(self) -> int:
        """Number of vCPUs; their indexes start at 0."""
        return len(self._vcpus)

    def describe(self, index: int) -> str:
        """A vCPU in a list of threads."""
        record = self._vcpus[index].record
        state = "stopped" if record["stopped"] else "halted" if record["halted"] else "running"
        return f"CPU#{index} [{state}]"

    @property
    def running(self) -> bool:
        """Whether the guest runs at this moment."""
        return self._machine.state.state is RunState.RUNNING

    @property
    def ended(self) -> bool:
        """Whether the guest is gone for good."""
        return self._machine.state.state in ENDED

    def _call(self, work: Callable[[], Any]) -> Any:
        try:
            return self._machine.on_vcpu(work)
        except MigrationError as error:
            raise TargetError(str(error)) from error

    # Coming and going

    def attach(self) -> None:
        """Stop the guest and take hold of it; nothing if it has ended."""
        self.stop()
        with contextlib.suppress(TargetError):  # it ends at this moment
            self._call(self._take_hold)

    def _take_hold(self) -> None:
        if not self._debugs:
            self._debugs = [VcpuDebug(vcpu) for vcpu in self._vcpus]
            for vcpu in self._vcpus:
                vcpu.on_debug = self._debug_exit

    def release(self) -> None:
        """Forget breakpoints; the guest goes on or stays as it is."""
        self.points.clear()
        try:
            self._call(self._let_go)
        except TargetError:
            return  # no vCPU will run again

    def _let_go(self) -> None:
        for vcpu, debug in zip(self._vcpus, self._debugs, strict=False):
            vcpu.on_debug = None
            debug.close()
        self._debugs = []

    # Stop and go

    def stop(self) -> None:
        """Stop the guest and wait until it stands."""
        self._machine.stop()
        if self.running:
            others = [state for state in RunState if state is not RunState.RUNNING]
            self._machine.state.wait_for(*others, timeout=_STOP_SECONDS)

    def interrupt(self, then: Callable[[], None]) -> None:
        """Ask the guest to stop; ``then`` is called once it has seen that (vCPU thread)."""
        self._machine.stop()
        self._machine.post(then)

    def resume(self, step: int | None = None) -> None:
        """Let the guest run until something stops it.

        With ``step``, that vCPU has done one instruction, while the others run.
        :class:`TargetError` if there is no guest to run.
        """
        self._check_guest()
        self._call(lambda: self._prepare(step))
        try:
            self._machine.cont()
        except MigrationError as error:
            raise TargetError(str(error)) from error

    def go_on(self) -> None:
        """Let the guest run after a detach, if it can."""
        with contextlib.suppress(MigrationError):
            if self._machine.state.state not in _NO_GUEST:
                self._machine.cont()

    def _check_guest(self) -> None:
        state = self._machine.state.state
        if state in _NO_GUEST:
            raise TargetError(f"the guest cannot run now: {state.value}")

    def _prepare(self, step: int | None = None) -> None:
        self._take_hold()
        for debug in self._debugs:
            debug.set_breakpoints(self.points.addresses)
            debug.set_watchpoints(self.points.watchpoints)
        if step is not None:
            self._debugs[step].begin_step(interrupts=self.step_interrupts)

    def end_steps(self) -> None:
        """The guest has stopped for some other reason than a step."""
        if any(vcpu.record["step"] for vcpu in self._vcpus):
            self._call(self._end_steps)

    def _end_steps(self) -> None:
        for debug in self._debugs:
            debug.end_step()

    def _debug_exit(self, vcpu: Vcpu) -> None:
        """A vCPU left ``run()`` with DEBUG (vCPU thread)."""
        if not self._stepping:
            self.last_stop = self._stop_of(vcpu)
            self._end_steps()
            self._machine.debug_stop()

    def _stop_of(self, vcpu: Vcpu) -> Stop:
        debug = self._debugs[vcpu.index]
        hit = debug.take_hit()
        if hit is not None:
            return Stop(StopKind.WATCHPOINT, vcpu.index, vcpu.pc, hit)
        kind = StopKind.STEP if debug.stepped else StopKind.BREAKPOINT
        return Stop(kind, vcpu.index, vcpu.pc)

    def step(self, indexes: Collection[int]) -> Stop:
        """One instruction, or one interrupt, on each of these vCPUs; the others stand still.

        :class:`TargetError` if the guest cannot run.
        """
        self._check_guest()
        stop: Stop = self._call(lambda: self._step_all(sorted(indexes)))
        return stop

    def _step_all(self, indexes: list[int]) -> Stop:
        if self._machine.state.state in (RunState.RUNNING, RunState.POSTMIGRATE):
            raise TargetError("the guest runs, or is somewhere else")
        self._prepare()
        self._stepping = True
        stop = self.last_stop
        try:
            for index in indexes:
                stop = self._step_one(index)
                if stop.hit is not None:
                    break
        finally:
            self._stepping = False
        return stop

    @property
    def ending(self) -> bool:
        """Whether the guest has ended, or is about to."""
        return self._machine.is_over

    def _step_one(self, index: int) -> Stop:
        board, vcpu, debug = self._machine.board, self._vcpus[index], self._debugs[index]
        partition = board.partition
        debug.begin_step(interrupts=self.step_interrupts)
        hit = None
        try:
            while not (vcpu.record["stopped"] or debug.stepped or self._machine.is_leaving()):
                partition.clear_kicks()  # what they are for is seen after this work
                partition.record["favoured"] = index
                chosen = partition.next_turn()
                if chosen is not vcpu:
                    break
                board.run(vcpu)
                hit = debug.take_hit()
                if hit is not None:
                    return Stop(StopKind.WATCHPOINT, index, vcpu.pc, hit)
        finally:
            debug.end_step()
        return Stop(StopKind.STEP, index, vcpu.pc)

    def kill(self) -> None:
        """End the emulator."""
        self._machine.quit()

    def monitor(self, line: str) -> str:
        """What a command of the human monitor prints."""
        from emu.monitor.hmp import execute

        return execute(self._machine, line)

    def exit_status(self) -> int:
        """The emulator's exit status, once the guest has ended."""
        return self._machine.final_status

    @property
    def crashed(self) -> bool:
        """Whether the emulator, not the guest, is what ended."""
        return self._machine.state.state is RunState.INTERNAL_ERROR

    # Registers and memory

    def with_registers(self, index: int, work: Callable[[RegisterFile], Any]) -> Any:
        """Do something with the registers of a vCPU, and return its result."""
        return self._call(lambda: work(RegisterFile(self._vcpus[index])))

    def read_memory(self, index: int, address: int, size: int) -> bytes:
        """Bytes as a vCPU sees them; fewer where mapped RAM ends.

        :class:`MemoryFaultError` if there is none at the address.
        """
        return bytes(self._call(lambda: self._read(self._vcpus[index], address, size)))

    def _read(self, vcpu: Vcpu, address: int, size: int) -> bytes:
        dma, result = vcpu.partition.dma, bytearray()
        for start, length in _pieces(address, size):
            real = self._real(vcpu, start)
            if real is None or real + length > dma.size:
                break
            result += dma.read(real, length)
        if size and not result:
            raise MemoryFaultError(f"no RAM at {address:#x}")
        return bytes(result)

    def write_memory(self, index: int, address: int, data: bytes) -> None:
        """Write all, or nothing and raise :class:`MemoryFaultError`."""
        self._call(lambda: self._write(self._vcpus[index], address, data))

    def _write(self, vcpu: Vcpu, address: int, data: bytes) -> None:
        dma, targets = vcpu.partition.dma, []
        for start, length in _pieces(address, len(data)):
            real = self._real(vcpu, start)
            if real is None or real + length > dma.size:
                raise MemoryFaultError(f"no RAM at {start:#x}")
            targets.append((real, start - address, length))
        for real, offset, length in targets:
            dma.write(real, data[offset : offset + length])

    def _real(self, vcpu: Vcpu, address: int) -> int | None:
        if address >= _TOP:
            return None
        if self.physical:
            return address
        mapped, real = debug_translate(vcpu.address, address)
        return int(real) if mapped else None


def _pieces(address: int, size: int) -> list[tuple[int, int]]:
    """A range cut at page boundaries: addresses and lengths."""
    result, end = [], address + size
    while address < end:
        length = min(_PAGE - address % _PAGE, end - address)
        result.append((address, length))
        address += length
    return result
