"""What a device asks of the machine around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from emu.events import EventLoop
from emu.memory.dma import Dma
from emu.memory.endian import GuestEndian


class DeviceHost(Protocol):
    """The machine as its devices see it."""

    @property
    def dma(self) -> Dma:
        """Guest RAM.  vCPU thread."""

    @property
    def loop(self) -> EventLoop:
        """The event loop for host descriptors and timers.  Any thread."""

    def current_endian(self) -> GuestEndian:
        """MSR[LE] of the CPU whose access is being served; the platform's big-endian without one.

        vCPU thread.
        """

    def post(self, work: Callable[[], None]) -> None:
        """Run work on the vCPU thread, between two instructions of the guest.  Any thread."""
