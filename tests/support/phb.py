"""A PCI host bridge without a machine, and RTAS calls to it as a guest makes them."""

from __future__ import annotations

import struct
from typing import cast

from emu.cpu.partition import Partition
from emu.cpu.vcpu import Vcpu
from emu.memory.ram import GuestRam
from machines.pseries import papr, phb_rtas
from machines.pseries.phb import BUID, Phb
from machines.pseries.rtas import Rtas, RtasContext, rtas_calls
from machines.pseries.tce import TceTables
from machines.pseries.xics import Xics

RAM_SIZE = 1 << 20
_ARGUMENTS = 0x8000
_HIGH, _LOW = BUID >> 32, BUID & 0xFFFFFFFF
assert phb_rtas  # registers the services


class PhbMachine:
    """RAM, a vCPU that does not run, the interrupt controller and the bridge."""

    def __init__(self) -> None:
        self.partition = Partition(GuestRam(RAM_SIZE))
        self.vcpu = Vcpu(self.partition, 0, "power8")
        self.dma = self.partition.dma
        self.renew()

    def renew(self) -> None:
        """Everything but the vCPU as new."""
        self.partition.bus.windows.clear()
        self.partition.record["mmio_count"] = 0
        vcpus, self.partition.vcpus = self.partition.vcpus, []  # Unicorn has no use for windows
        self.xics = Xics(self.partition)
        self.tces = TceTables()
        self.phb = Phb(self.partition, self.xics, self.tces)
        self.partition.vcpus = vcpus
        self.rtas = Rtas(cast(RtasContext, self))

    def call(self, name: str, *inputs: int, outputs: int) -> tuple[int, ...]:
        """Make an RTAS call; the outputs, the status signed."""
        words = (dict(rtas_calls())[name], len(inputs), outputs, *inputs)
        self.dma.write(_ARGUMENTS, struct.pack(f">{len(words)}I", *words))
        assert self.rtas.call(self.vcpu, _ARGUMENTS) == papr.H_SUCCESS
        data = self.dma.read(_ARGUMENTS + 4 * len(words), 4 * outputs)
        return struct.unpack(f">i{outputs - 1}I", data)

    def pci(
        self, name: str, devfn: int, *inputs: int, outputs: int, register: int = 0
    ) -> tuple[int, ...]:
        """Make a call about a function of the bridge."""
        address = devfn << 8 | register
        return self.call(name, address, _HIGH, _LOW, *inputs, outputs=outputs)

    def read(self, address: int, size: int) -> bytes:
        """A load of the guest from a window of the bridge."""
        found = self.partition.bus.find(address, size)
        assert found is not None
        return found[0].handler.mmio_read(found[1], size)

    def write(self, address: int, data: bytes) -> None:
        """A store of the guest to a window of the bridge."""
        found = self.partition.bus.find(address, len(data))
        assert found is not None
        found[0].handler.mmio_write(found[1], data)

    def source_status(self, irq: int) -> int:
        """Status bits of a XICS source."""
        return self.xics.save_state()["sources"][irq][3]

    def close(self) -> None:
        """Release everything."""
        self.partition.close()
