"""Hypercalls on memory: pages, bytes of RAM or device windows (LoPAPR 1.1, 14.5.4 and QEMU's)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emu.cpu.vcpu import Vcpu
from machines.pseries import papr
from machines.pseries.hcalls import Reply, hypercall
from machines.pseries.papr import HcallNumber

if TYPE_CHECKING:
    from machines.pseries.machine import PseriesMachine

_PAGE = 4096
_PAGE_ZERO, _PAGE_COPY = 1 << 15, 1 << 14
_PAGE_ICACHE = (1 << 23) | (1 << 22)
_MEMOP_LIMIT = 1 << 24


@hypercall(HcallNumber.H_PAGE_INIT)
def _page_init(machine: PseriesMachine, _vcpu: Vcpu, args: list[int]) -> int:
    flags, destination, source = args[:3]
    if flags & ~(_PAGE_ZERO | _PAGE_COPY | _PAGE_ICACHE) or destination % _PAGE:
        return papr.H_PARAMETER
    if flags & _PAGE_COPY:
        if source % _PAGE:
            return papr.H_PARAMETER
        machine.dma.write(destination, machine.dma.read(source, _PAGE))
    elif flags & _PAGE_ZERO:
        machine.dma.fill(destination, _PAGE)
    else:
        machine.dma.read(destination, _PAGE)
    return papr.H_SUCCESS


@hypercall(HcallNumber.H_LOGICAL_CI_LOAD)
@hypercall(HcallNumber.H_LOGICAL_CACHE_LOAD)
def _logical_load(machine: PseriesMachine, _vcpu: Vcpu, args: list[int]) -> int | Reply:
    size, address = args[:2]
    if size not in (1, 2, 4, 8):
        return papr.H_PARAMETER
    return Reply(papr.H_SUCCESS, [int.from_bytes(_read(machine, address, size), "big")])


@hypercall(HcallNumber.H_LOGICAL_CI_STORE)
@hypercall(HcallNumber.H_LOGICAL_CACHE_STORE)
def _logical_store(machine: PseriesMachine, _vcpu: Vcpu, args: list[int]) -> int:
    size, address, value = args[:3]
    if size not in (1, 2, 4, 8):
        return papr.H_PARAMETER
    _write(machine, address, (value & ((1 << (8 * size)) - 1)).to_bytes(size, "big"))
    return papr.H_SUCCESS


def _read(machine: PseriesMachine, address: int, size: int) -> bytes:
    """Bytes from RAM or a device window; DmaError if there is neither."""
    if size <= 4 and (found := machine.partition.bus.find(address, size)):
        return found[0].handler.mmio_read(found[1], size)
    if size == 8 and (found := machine.partition.bus.find(address, size)):
        window, offset = found
        return window.handler.mmio_read(offset, 4) + window.handler.mmio_read(offset + 4, 4)
    return machine.dma.read(address, size)


def _write(machine: PseriesMachine, address: int, data: bytes) -> None:
    found = machine.partition.bus.find(address, len(data))
    if found is None:
        machine.dma.write(address, data)
        return
    window, offset = found
    for start in range(0, len(data), 4):
        window.handler.mmio_write(offset + start, data[start : start + 4])


@hypercall(HcallNumber.H_LOGICAL_MEMOP)
def _logical_memop(machine: PseriesMachine, _vcpu: Vcpu, args: list[int]) -> int:
    """Copy (op 0) or copy inverted (op 1) ``count`` elements of ``1 << esize`` bytes."""
    destination, source, esize, count, operation = args[:5]
    if esize > 3 or operation > 1 or count << esize > _MEMOP_LIMIT:
        return papr.H_PARAMETER
    size = 1 << esize
    if destination % size or source % size:
        return papr.H_PARAMETER
    positions = range(0, count << esize, size)
    overlapping = source < destination < source + (count << esize)
    for offset in reversed(positions) if overlapping else positions:
        data = _read(machine, source + offset, size)
        if operation:
            data = bytes(byte ^ 0xFF for byte in data)
        _write(machine, destination + offset, data)
    return papr.H_SUCCESS


@hypercall(HcallNumber.H_LOGICAL_ICBI)
@hypercall(HcallNumber.H_LOGICAL_DCBF)
def _logical_cache(_machine: PseriesMachine, _vcpu: Vcpu, _args: list[int]) -> int:
    """Translated code follows memory by itself; there is nothing to do."""
    return papr.H_SUCCESS
