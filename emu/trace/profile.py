"""Where the guest spends its time: samples of its stacks, by function.

    machine.trace.profile.start(hz=1000)
    ...
    machine.trace.profile.stop()
    Path("guest.folded").write_text(machine.trace.profile.collapsed())

The text is what flame graph tools call collapsed stacks: functions from the outermost on, with
semicolons between them, then a blank and a number of samples.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from emu.chardev.config import ConfigError
from emu.config_trace import DEFAULT_HZ, MAX_HZ
from emu.cpu.isa import MSR_PR
from emu.events import RunState

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from emu.machine import Machine
    from emu.trace.attach import VcpuTrace
    from emu.trace.ring import Ring

_RING_WORDS = 1 << 16
_BATCH_SECONDS = 0.25
_MAX_NAMES = 1 << 17
IDLE, USER, UNKNOWN = "[idle]", "[user]", "[unknown]"


@dataclass(frozen=True)
class FunctionTime:
    """Samples in which a function was executing itself, and in which it was on the stack."""

    name: str
    self_samples: int
    total_samples: int


def frames_of(names: Sequence[str], link_name: str, link_is_new: bool) -> tuple[str, ...]:
    """The functions of a sample from the outermost on.

    ``names`` are those of NIP and of the return addresses on the stack, innermost first; an empty
    name is none of code.  The link register may hold one more return address: not when it points
    into the function itself, which has called something since, nor when it was saved already
    (``link_is_new`` is false).  If it does, the function has not saved it, and the place on the
    stack where it would be may hold an old address of the caller's, or anything.
    """
    frames = [names[0] or UNKNOWN]
    rest = list(names[1:])
    if link_is_new and link_name and link_name != names[0]:
        frames.append(link_name)
        if rest and rest[0] in ("", link_name):
            del rest[0]
    for name in rest:
        if name or frames[-1] != UNKNOWN:
            frames.append(name or UNKNOWN)
    while len(frames) > 1 and frames[-1] == UNKNOWN:
        frames.pop()
    return tuple(reversed(frames))


class Profiler:
    """The profile of one machine.  Any thread."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._lock = threading.Lock()
        self._stacks: Counter[tuple[str, ...]] = Counter()
        self._names: dict[int, str] = {}
        self._ring: Ring | None = None
        self._array: npt.NDArray[Any] | None = None
        self._thread: threading.Thread | None = None
        self._stop_fd = -1
        self._vcpus: list[VcpuTrace] = []
        self.hz = DEFAULT_HZ
        machine.state.subscribe(self._state_changed)

    @property
    def running(self) -> bool:
        """Whether samples are being taken."""
        return self._thread is not None

    def start(self, hz: int = DEFAULT_HZ) -> None:
        """Take samples ``hz`` times a second, in addition to those there are.

        Raises :class:`ConfigError` for a rate that is not possible.
        """
        if not 1 <= hz <= MAX_HZ:
            raise ConfigError(f"a profile takes 1 to {MAX_HZ} samples a second")
        self.stop()
        self.hz = hz
        self._machine.trace.symbols.load()
        self._machine.trace.on_vcpu(self._attach)
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC)
        assert self._array is not None
        record: Any = self._array[0]
        record["period_ns"] = 1_000_000_000 // hz
        record["stop_fd"] = self._stop_fd
        record["paused"] = self._machine.state.state is not RunState.RUNNING
        self._thread = threading.Thread(target=self._run, name="profile", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Take no more samples; those there are stay."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        os.eventfd_write(self._stop_fd, 1)
        thread.join()
        os.close(self._stop_fd)
        self._machine.trace.on_vcpu(self._detach)
        self._collect()

    def clear(self) -> None:
        """Forget all samples."""
        self._collect()
        with self._lock:
            self._stacks.clear()
            self._names.clear()
        if self._array is not None:
            self._array["ticks"] = self._array["idle"] = 0

    def _attach(self) -> None:
        """On the vCPU thread."""
        import numpy as np

        from emu.trace.ring import Ring
        from emu.trace.stacks import PROFILE_DTYPE

        if self._ring is None or self._array is None:
            self._ring = Ring(_RING_WORDS, self._count, on_full_drain=False)
            self._array = np.zeros(1, PROFILE_DTYPE)
            self._array["partition"] = self._machine.board.partition.address
        self._vcpus = self._machine.trace.vcpu_traces()
        for vcpu in self._vcpus:
            vcpu.profile(self._ring)

    def _detach(self) -> None:
        """On the vCPU thread, or after its end."""
        for vcpu in self._vcpus:
            vcpu.profile(None)

    def _state_changed(self, _old: RunState, new: RunState) -> None:
        if self._array is not None:
            self._array["paused"] = new is not RunState.RUNNING

    def _run(self) -> None:
        from emu.trace.stacks import run_timer

        assert self._array is not None
        address = self._array.ctypes.data
        batch = max(1, int(self.hz * _BATCH_SECONDS))
        while not run_timer(address, batch):
            self._collect()

    def _collect(self) -> None:
        if self._ring is not None:
            self._ring.drain()

    def _count(self, words: npt.NDArray[np.uint64]) -> None:
        values: list[int] = words.tolist()
        many = len(self._machine.board.vcpus) > 1
        at = 0
        with self._lock:
            while at < len(values):
                header = values[at]
                length = max(header >> 16 & 0xFFFF, 1)
                stack = self._stack(values[at + 1 : at + length])
                if many:
                    stack = (f"cpu{header >> 8 & 0xFF}", *stack)
                self._stacks[stack] += header >> 32
                at += length

    def _stack(self, sample: list[int]) -> tuple[str, ...]:
        nip, msr, link, _pid = sample[:4]
        returns = sample[4:]
        # A return address is behind the call, which may be the last instruction of its function
        names = [self._name(nip), *(self._name(address - 4) for address in returns)]
        stack = frames_of(names, self._name(link - 4), link not in returns[:1])
        if msr & MSR_PR:
            # Without symbols of programs, one frame says it all
            return tuple(USER if name == UNKNOWN else name for name in stack)
        return stack

    def _name(self, address: int) -> str:
        address &= (1 << 64) - 1
        name = self._names.get(address)
        if name is None:
            symbol = self._machine.trace.symbols.find(address)
            name = symbol.name if symbol is not None and symbol.code else ""
            if len(self._names) >= _MAX_NAMES:
                self._names.clear()
            self._names[address] = name
        return name

    def _snapshot(self) -> Counter[tuple[str, ...]]:
        self._collect()
        with self._lock:
            stacks = Counter(self._stacks)
        if self._array is not None and self._array[0]["idle"]:
            stacks[(IDLE,)] = int(self._array[0]["idle"])
        return stacks

    @property
    def samples(self) -> int:
        """Ticks in samples so far, idle ones too."""
        return sum(self._snapshot().values())

    def collapsed(self) -> str:
        """The stacks, one a line, for flame graph tools."""
        stacks = self._snapshot()
        return "".join(f"{';'.join(stack)} {count}\n" for stack, count in sorted(stacks.items()))

    def top(self, count: int = 20) -> list[FunctionTime]:
        """The functions that were executing most often."""
        own: Counter[str] = Counter()
        total: Counter[str] = Counter()
        for stack, samples in self._snapshot().items():
            own[stack[-1]] += samples
            for name in set(stack):
                total[name] += samples
        return [FunctionTime(name, n, total[name]) for name, n in own.most_common(count)]

    def save(self, path: str) -> None:
        """Write :meth:`collapsed` to a file; :class:`ConfigError` if that fails."""
        try:
            with open(path, "w") as file:
                file.write(self.collapsed())
        except OSError as error:
            raise ConfigError(f"could not write '{path}': {error.strerror}", "profile") from error
