"""What every machine gives to the program around it, and to its devices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

from devices.virtio.device import VirtioDevice
from emu.cpu.partition import Partition
from emu.cpu.record import ExitReason
from emu.cpu.vcpu import Vcpu
from emu.events import EventLoop
from emu.memory.dma import Dma
from emu.memory.endian import GuestEndian
from emu.migration.machine import Iterated
from emu.migration.sections import Component


class HostServices(Protocol):
    """What a machine asks of the program around it; on the vCPU thread if not said otherwise."""

    @property
    def loop(self) -> EventLoop:
        """The event loop for host descriptors and timers.  Any thread."""

    def request_shutdown(self) -> None:
        """The guest powered off."""

    def request_reset(self) -> None:
        """The guest asked for a reboot."""

    def guest_panicked(self, message: str) -> None:
        """The guest's kernel gave up, for this reason."""

    def post(self, work: Callable[[], None]) -> None:
        """Run work on the vCPU thread soon.  Any thread."""

    def unknown_hypercall(self, number: int) -> None:
        """The guest made a hypercall that does not exist."""

    def is_ending(self) -> bool:
        """Whether the vCPU thread is wanted for something else than the guest."""


class Board(ABC):
    """A machine: a partition with its vCPUs and devices; it is its devices' ``DeviceHost``.

    Methods run on the vCPU thread, or before it starts.
    """

    partition: Partition
    vcpus: list[Vcpu]
    fdt: bytes  # flattened device tree

    def __init__(self, host: HostServices) -> None:
        self.host = host
        self.current_vcpu: Vcpu | None = None

    def run(self, vcpu: Vcpu) -> None:
        """Run a vCPU until something needs attention, and give it that."""
        self.current_vcpu = vcpu
        try:
            self.handle_exit(vcpu, vcpu.run())
        finally:
            self.current_vcpu = None

    @abstractmethod
    def handle_exit(self, vcpu: Vcpu, reason: ExitReason) -> None:
        """Serve what a vCPU left ``run()`` for."""

    @abstractmethod
    def reset(self) -> None:
        """Bring the guest to its first instruction; no vCPU is being served."""

    @abstractmethod
    def flush_consoles(self, seconds: float) -> None:
        """Wait until the host has taken what the guest printed, for so long at most."""

    @abstractmethod
    def close(self) -> None:
        """Release everything; no vCPU is running."""

    @abstractmethod
    def components(self) -> Sequence[Component]:
        """Everything with a section in a state stream, in the order of saving."""

    def iterated(self) -> Sequence[Iterated]:
        """State besides RAM with sections of a form of its own."""
        return ()

    def press_power_button(self) -> None:
        """Ask the guest to shut down; nothing happens on a board without such a button."""
        return

    def virtio_devices(self) -> Sequence[VirtioDevice]:
        """Every virtio device on the board."""
        return ()

    def drain(self) -> None:
        """Let no device have host I/O under way for the guest, which stands still."""
        for device in self.virtio_devices():
            device.freeze()

    def undrain(self) -> None:
        """The guest goes on here: devices look at their queues again."""
        for device in self.virtio_devices():
            device.resume()

    def expect_missing_memory(self, missing: bool) -> None:
        """Whether RAM may have to be waited for: the GIL is not held for it then."""
        for device in self.virtio_devices():
            for queue in device.queues:
                queue.release_gil(missing)

    def claim_host(self) -> None:
        """Take what only one process may use; ConfigError if another one does, with none taken."""
        taken: list[VirtioDevice] = []
        try:
            for device in self.virtio_devices():
                device.claim_host()
                taken.append(device)
        except BaseException:
            for device in taken:
                device.release_host()
            raise

    def release_host(self) -> None:
        """Let another process have the host's things; the guest stands still."""
        for device in self.virtio_devices():
            device.release_host()

    @property
    def dma(self) -> Dma:
        """Guest RAM for devices."""
        return self.partition.dma

    @property
    def loop(self) -> EventLoop:
        """The event loop for host descriptors and timers.  Any thread."""
        return self.host.loop

    def current_endian(self) -> GuestEndian:
        """MSR[LE] of the vCPU being served; big-endian, the platform's order, without one."""
        return GuestEndian.BIG if self.current_vcpu is None else self.current_vcpu.guest_endian

    def post(self, work: Callable[[], None]) -> None:
        """Run work on the vCPU thread soon.  Any thread."""
        self.host.post(work)
