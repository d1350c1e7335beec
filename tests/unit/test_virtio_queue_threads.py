"""Two machines in one process: their vCPU threads use their queues at the same time."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest

from devices.virtio import ring
from devices.virtio.queue import Element, VirtQueue
from emu.memory.dma import Dma
from emu.memory.ram import GuestRam

SIZE = 8
DESC, AVAIL, USED, DATA = 0x1000, 0x2000, 0x3000, 0x8000


class Pausing:
    """The ring processor; right before and after native code the other thread gets its turn."""

    def __init__(self, turn: Callable[[], None]) -> None:
        self._turn = turn

    def pop(self, *arguments: int) -> int:
        """Pop, then let the other thread run before the result is looked at."""
        count: int = ring.pop(*arguments)
        self._turn()
        return count

    def push(self, *arguments: int) -> int:
        """Let the other thread run after the arguments were prepared."""
        self._turn()
        wants: int = ring.push(*arguments)
        return wants


class Machine:
    """A queue in RAM of its own, with as many one-byte buffers as are asked for."""

    def __init__(self, first_address: int, heads: list[int]) -> None:
        self.ram = GuestRam(65536)
        self.queue = VirtQueue(Dma(self.ram, lambda address, size: None), 0, SIZE)
        self.addresses = [first_address + head for head in heads]
        self.heads = heads
        for head in heads:
            self.ram.write(DESC + 16 * head, struct.pack("<QIHH", first_address + head, 1, 2, 0))
        self.ram.write(AVAIL, struct.pack(f"<HH{len(heads)}H", 0, len(heads), *heads))
        self.queue.place(DESC, AVAIL, USED)
        self.queue.enable()

    def returned(self) -> list[tuple[int, int]]:
        """Entries of the used ring: head and bytes written."""
        count = int(struct.unpack("<H", self.ram.read(USED + 2, 2))[0])
        return [struct.unpack("<II", self.ram.read(USED + 4 + 8 * n, 8)) for n in range(count)]


@pytest.fixture
def machines() -> tuple[Machine, Machine]:
    return Machine(DATA, [0, 1, 2]), Machine(DATA + 0x100, [5, 6, 7])


def elsewhere(work: Callable[[], Any]) -> Any:
    """Run something on another thread to its end."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()))
    thread.start()
    thread.join(30)
    return results[0]


def test_elements_are_of_the_own_queue(machines: tuple[Machine, Machine]) -> None:
    here, there = machines
    others: list[list[Element]] = []
    here.queue._ring = Pausing(lambda: others.append(elsewhere(there.queue.pop)))
    elements = here.queue.pop()
    for machine, popped in ((here, elements), (there, others[0])):
        assert [element.head for element in popped] == machine.heads
        assert [element.writable for element in popped] == [[(at, 1)] for at in machine.addresses]


def test_entries_go_back_to_the_own_queue(machines: tuple[Machine, Machine]) -> None:
    here, there = machines
    mine = [(element, 1) for element in here.queue.pop()]
    theirs = [(element, 0) for element in elsewhere(there.queue.pop)]
    here.queue._ring = Pausing(lambda: elsewhere(lambda: there.queue.push(theirs)))
    here.queue.push(mine)
    assert here.returned() == [(head, 1) for head in here.heads]
    assert there.returned() == [(head, 0) for head in there.heads]
