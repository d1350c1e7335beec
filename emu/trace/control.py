"""A machine's tracing as seen from Python, the command line and the monitors.

    machine.trace.set_items({"in_asm", "int"}, ranges=parse_ranges("0xc000000000000000+0x10000"))
    ...
    machine.trace.set_items(())

The text goes to the log (``-D``) unless ``machine.trace.output`` is something else.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from emu import log
from emu.chardev.config import ConfigError
from emu.config_trace import Range
from emu.events import RunState
from emu.migration.stream import MigrationError
from emu.trace.guest_symbols import GuestSymbols
from emu.trace.profile import Profiler

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from emu.machine import Machine
    from emu.trace.attach import VcpuTrace
    from emu.trace.lines import LineMaker
    from emu.trace.ring import Ring

_cpu_reset_log = log.log("cpu_reset")
_OVER = (RunState.SHUTDOWN, RunState.GUEST_PANICKED, RunState.INTERNAL_ERROR)
_RING_WORDS = 1 << 18
_DRAIN_SECONDS = 0.1


class Tracer:
    """The traces of one machine.  Any thread, if not said otherwise.

    Nothing of it touches the guest's CPUs until an item of :data:`emu.log.NATIVE` is on.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.symbols = GuestSymbols(machine.config)
        self.output: Callable[[str], None] = log.write_text
        self.ranges: tuple[Range, ...] = machine.config.trace.ranges
        self._vcpus: list[VcpuTrace] = []
        self._ring: Ring | None = None
        self._lines: LineMaker | None = None
        self._watcher: threading.Thread | None = None
        self._closing = threading.Event()
        self.profile = Profiler(machine)
        self._profile_to = machine.config.trace.profile
        if self._profile_to is not None:
            self.profile.save(self._profile_to.path)  # before the guest runs in vain

    def attach(self) -> None:
        """The board is there, and its vCPUs do not run yet."""
        self.symbols.set_ram(self._machine.board.partition.ram)
        self.refresh()
        self.note_reset()
        if self._profile_to is not None:
            self.profile.start(self._profile_to.hz)

    def set_items(self, items: Iterable[str], ranges: Iterable[Range] | None = None) -> None:
        """Log exactly these items from now on; ConfigError for an unknown one.

        ``ranges`` replaces those of ``-dfilter``.
        """
        log.set_items(items)
        if ranges is not None:
            self.ranges = tuple(ranges)
        self.refresh()

    def refresh(self) -> None:
        """Do what the log's items (:func:`emu.log.enabled_items`) ask for now."""
        names = log.enabled_items()
        native = bool(names & log.NATIVE)
        if native:
            self.symbols.load()
        if native or self._vcpus:
            self.on_vcpu(lambda: self._apply(names))
        record = getattr(self._machine.board, "record", None)
        if record is not None and "trace_hcalls" in record.dtype.names:
            record["trace_hcalls"] = "hcall" in names
        if native and self._watcher is None:
            self._watcher = threading.Thread(target=self._watch, name="trace", daemon=True)
            self._watcher.start()

    def on_vcpu(self, work: Callable[[], None]) -> None:
        """Run work on the vCPU thread, or here when the guest has ended."""
        try:
            self._machine.on_vcpu(work)
        except MigrationError:
            if self._machine.state.state not in _OVER:
                raise
            work()

    def _apply(self, names: frozenset[str]) -> None:
        """On the vCPU thread."""
        from emu.trace.record import Item

        wanted = Item(0)
        for name in names & log.NATIVE:
            wanted |= Item[name.upper()]
        for vcpu in self.vcpu_traces():
            vcpu.set_items(wanted, self.ranges)
        self.drain()

    def vcpu_traces(self) -> list[VcpuTrace]:
        """One for each vCPU, made when first needed; on the vCPU thread."""
        from emu.trace.attach import VcpuTrace

        if not self._vcpus:
            ring = self._make_ring()
            self._vcpus = [VcpuTrace(vcpu, ring) for vcpu in self._machine.board.vcpus]
        return self._vcpus

    def _make_ring(self) -> Ring:
        from emu.trace.lines import LineMaker
        from emu.trace.ring import Ring

        many = len(self._machine.board.vcpus) > 1
        self._lines = LineMaker(self.symbols.find, many=many)
        self._ring = Ring(_RING_WORDS, self._consume, on_full_drain=True)
        log.add_source(self.drain)
        return self._ring

    def _consume(self, words: npt.NDArray[np.uint64]) -> None:
        assert self._lines is not None
        self.output(self._lines.text(words))

    def note_reset(self) -> None:
        """The machine was reset: show the CPUs if ``cpu_reset`` is on.  On the vCPU thread."""
        if _cpu_reset_log.enabled:
            from emu.monitor.info import vcpu_lines

            for vcpu in self._machine.board.vcpus:
                for line in vcpu_lines(vcpu):
                    _cpu_reset_log("%s", line)

    def drain(self) -> None:
        """Write what was recorded up to now."""
        if self._ring is not None:
            self._ring.drain()

    def _save_profile(self) -> None:
        if self.profile.running:
            self.profile.stop()
        if self._profile_to is not None and self._vcpus:
            try:
                self.profile.save(self._profile_to.path)
            except ConfigError as error:
                print(f"ppc64emu: {error}", file=sys.stderr)

    def forget_names(self) -> None:
        """Symbols have changed."""
        if self._lines is not None:
            self._lines.forget()

    def _watch(self) -> None:
        """Have what lies in the ring for a while written: by the vCPU thread.

        It makes the text itself because two threads that want the GIL all the time delay each
        other far more than the work takes.
        """
        while not self._closing.wait(_DRAIN_SECONDS):
            if self._ring is not None and self._ring.waiting:
                self._machine.post(self.drain)

    def close(self) -> None:
        """Write the rest and let go of the vCPUs, which do not run any more."""
        self._closing.set()
        if self._watcher is not None:
            self._watcher.join()
        self._save_profile()
        for vcpu in self._vcpus:
            vcpu.close()
        self._vcpus = []
        self.drain()
        log.remove_source(self.drain)
