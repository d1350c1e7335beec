"""A bare guest with a trace: what its compiled code notes, as lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from emu.config_trace import Range
from emu.trace.attach import VcpuTrace
from emu.trace.lines import LineMaker
from emu.trace.record import Item
from emu.trace.ring import Ring
from emu.trace.symbols import Symbol
from tests.support.bare import BareMachine


class Traced:
    """The trace of every vCPU of a bare machine."""

    def __init__(self, machine: BareMachine, symbols: Sequence[Symbol] = ()) -> None:
        self.machine = machine
        self.symbols = list(symbols)
        self._text: list[str] = []
        vcpus = machine.partition.vcpus
        lines = LineMaker(self._find, many=len(vcpus) > 1)
        self.ring = Ring(1 << 16, lambda words: self._text.append(lines.text(words)),
                         on_full_drain=True)  # fmt: skip
        self.vcpus = [VcpuTrace(vcpu, self.ring) for vcpu in vcpus]

    def _find(self, address: int) -> Symbol | None:
        return next((s for s in self.symbols if s.start <= address < s.end), None)

    def items(self, items: Item, ranges: Sequence[Range] = ()) -> None:
        """Trace exactly these items."""
        for vcpu in self.vcpus:
            vcpu.set_items(items, ranges)

    def text(self) -> str:
        """Everything since the last call."""
        self.ring.drain()
        text = "".join(self._text)
        self._text.clear()
        return text

    def lines(self, start: str = "") -> list[str]:
        """The lines since the last call that begin so."""
        return [line for line in self.text().splitlines() if line.startswith(start)]

    def close(self) -> None:
        """Take the trace out."""
        for vcpu in self.vcpus:
            vcpu.close()


@contextmanager
def traced(
    machine: BareMachine,
    items: Item,
    ranges: Sequence[Range] = (),
    symbols: Sequence[Symbol] = (),
) -> Iterator[Traced]:
    """Trace a bare machine for the length of a ``with`` block."""
    trace = Traced(machine, symbols)
    try:
        trace.items(items, ranges)
        yield trace
    finally:
        trace.close()
