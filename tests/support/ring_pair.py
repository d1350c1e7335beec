"""The native ring processor and the model side by side: every step must agree, byte for byte."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from devices.virtio.records import PACKED
from tests.support.ring_harness import Ring
from tests.support.ring_model import Model, Popped, Returned, State
from tests.support.ring_model_packed import PackedModel
from tests.support.ring_model_split import SplitModel

_T = TypeVar("_T")


class Pair:
    """Runs each operation on both and compares results, records, RAM and the write log."""

    def __init__(self, ring: Ring, state: State) -> None:
        self.ring = ring
        ring.load(state)
        self.state = ring.state  # as far as the record's fields can hold it

    def pop(self, max_elements: int = 512, max_segments: int = 32768) -> list[Popped]:
        """Take elements."""
        return self._both(
            lambda: self.ring.pop(max_elements, max_segments),
            lambda model: model.pop(max_elements, max_segments),
        )

    def push(self, used: Sequence[Returned]) -> bool:
        """Return elements; at most two entries in the write log."""
        result = self._both(lambda: self.ring.push(used), lambda model: model.push(used))
        assert len(self.ring.log) <= 2
        return result

    def has_work(self) -> bool:
        """Whether there is something to take; writes nothing."""
        result = self._both(self.ring.has_work, lambda model: model.has_work())
        assert not self.ring.log
        return result

    def set_notification(self, enable: bool) -> bool:
        """Ask for notifications or not."""
        return self._both(
            lambda: self.ring.set_notification(enable),
            lambda model: model.set_notification(enable),
        )

    def _both(self, native: Callable[[], _T], modelled: Callable[[Model], _T]) -> _T:
        before = self.ring.ram.view.copy()
        self.ring.log.clear()
        result = native()
        kind = PackedModel if self.state.flags & PACKED else SplitModel
        model = kind(bytearray(before.tobytes()), self.state)
        expected = modelled(model)
        assert result == expected
        assert self.ring.state == self.state
        assert self.ring.ram.view.tobytes() == model.memory
        self._check_log(before)
        return result

    def _check_log(self, before: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> None:
        """Every byte that changed is logged, and only what a device may write."""
        changed = self.ring.ram.view != before
        for address, size in self.ring.log:
            assert self._owns(address, size), (hex(address), size)
            changed[address : address + size] = False
        assert not changed.any()

    def _owns(self, address: int, size: int) -> bool:
        state = self.state
        areas = [(state.device, 4 if state.flags & PACKED else 6 + 8 * state.size)]
        if state.flags & PACKED:
            areas.append((state.desc, 16 * state.size))
        return any(a <= address and address + size <= a + length for a, length in areas)
