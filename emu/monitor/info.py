"""What `info ...` of the human monitor prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from emu.cpu.isa import Spr
from emu.cpu.registers import read_state
from emu.cpu.vcpu import Vcpu
from emu.events import RunState
from emu.monitor import inspect
from emu.monitor.registry import COMMANDS
from emu.snapshots import directory, list_snapshots

if TYPE_CHECKING:
    from devices.virtio.device import VirtioDevice
    from emu.machine import Machine

Topic = Callable[["Machine", list[str]], str]


def status(machine: Machine, _words: list[str]) -> str:
    """Run state."""
    state = machine.state.state
    if state is RunState.RUNNING:
        return "VM status: running"
    return (
        f"VM status: paused ({state.value})"
        if state is not RunState.PAUSED
        else ("VM status: paused")
    )


def registers(machine: Machine, _words: list[str]) -> str:
    """Registers of every vCPU, which stands still meanwhile."""
    return str(machine.on_vcpu(lambda: "\n".join(_registers(machine))))


def _registers(machine: Machine) -> Iterator[str]:
    for vcpu in machine.board.vcpus:
        yield from vcpu_lines(vcpu)


def vcpu_lines(vcpu: Vcpu) -> list[str]:
    """The registers of a vCPU that does not run."""
    state = read_state(vcpu)
    lines = [
        f"CPU#{vcpu.index}",
        f"NIP {state.nip:016x}   LR {state.lr:016x} CTR {state.ctr:016x} XER {state.xer:016x}",
        f"MSR {state.msr:016x}   CR {state.cr:08x} CFAR {state.cfar:016x}",
        f"TB {state.timebase:016x} DEC {state.decrementer}",
    ]
    for first in range(0, 32, 4):
        values = " ".join(f"{value:016x}" for value in state.gpr[first : first + 4])
        lines.append(f"GPR{first:02} {values}")
    lines += [
        f"SRR0 {state.sprs['SRR0']:016x}  SRR1 {state.sprs['SRR1']:016x}"
        f"  PVR {vcpu.spr(Spr.PVR):016x}",
        f"SPRG0 {state.sprs['SPRG0']:016x} SPRG1 {state.sprs['SPRG1']:016x}"
        f"  SPRG2 {state.sprs['SPRG2']:016x}  SPRG3 {state.sprs['SPRG3']:016x}",
        f"DAR {state.sprs['DAR']:016x} DSISR {state.sprs['DSISR']:08x}"
        f" LPCR {state.sprs['LPCR']:016x} PID {state.sprs['PID']:x}",
    ]
    return lines


def migrate(machine: Machine, _words: list[str]) -> str:
    """Progress of the migration."""
    answer = machine.migration.query()
    if not answer:
        return "no migration has been started"
    lines = [f"Migration status: {answer['status']}"]
    if "error-desc" in answer:
        lines.append(f"Error: {answer['error-desc']}")
    for name in ("total-time", "downtime", "expected-downtime", "setup-time"):
        if name in answer:
            lines.append(f"{name.replace('-', ' ')}: {answer[name]} ms")
    ram = answer.get("ram", {})
    for name in ("transferred", "remaining", "total", "normal-bytes"):
        if name in ram:
            lines.append(f"{name.replace('-', ' ')} ram: {ram[name] >> 10} kbytes")
    for name in ("duplicate", "normal"):
        if name in ram:
            lines.append(f"{name}: {ram[name]} pages")
    if ram.get("postcopy-requests"):
        lines.append(f"postcopy request count: {ram['postcopy-requests']}")
    return "\n".join(lines)


def mtree(machine: Machine, _words: list[str]) -> str:
    """Guest real address space."""
    size = machine.board.partition.ram.size
    lines = [f"{0:016x}-{size - 1:016x} (ram): ram"]
    for window in sorted(machine.board.partition.bus.windows, key=lambda window: window.base):
        end = window.base + window.size - 1
        lines.append(f"{window.base:016x}-{end:016x} (i/o): {window.name}")
    return "\n".join(lines)


def qtree(machine: Machine, _words: list[str]) -> str:
    """Virtio devices with their state and queues."""
    return str(machine.on_vcpu(lambda: "\n".join(_device(*item) for item in _devices(machine))))


def _devices(machine: Machine) -> list[tuple[str, VirtioDevice]]:
    return list(machine.devices.items())


def _device(name: str, device: VirtioDevice) -> str:
    mode = "modern" if device.modern else f"legacy, {device.latched_endian.order}-endian"
    lines = [
        f"dev: virtio-{device.DEVICE_ID.name.lower()}, id {name!r}",
        f"  status {int(device.status):#x}, features {device.features:#x} ({mode})"
        + (", broken" if device.broken else ""),
    ]
    for queue in device.queues:
        if queue.enabled:
            record = queue.record
            lines.append(
                f"  queue {queue.index}: size {queue.size}, desc {int(record['desc']):#x},"
                f" last_avail {int(record['last_avail'])}, used {int(record['used_idx'])},"
                f" in use {int(record['inuse'])}"
            )
    return "\n".join(lines)


def balloon(machine: Machine, _words: list[str]) -> str:
    """Size of the guest's RAM."""
    return f"balloon: actual={COMMANDS['query-balloon'].handler(machine, {})['actual'] >> 20}"


def chardev(machine: Machine, _words: list[str]) -> str:
    """Host sides of consoles and monitors."""
    return "\n".join(f"{device.label}: {type(device).__name__}" for device in machine.chardevs)


def saved(_machine: Machine, _words: list[str]) -> str:
    """Snapshots with plain names."""
    found = list_snapshots()
    if not found:
        return f"There are no snapshots in {directory()}"
    lines = [f"{'TAG':<30} {'VM SIZE':>10}  DATE"]
    for snapshot in found:
        size = f"{snapshot.size / (1 << 20):.1f} MiB"
        lines.append(f"{snapshot.name:<30} {size:>10}  {snapshot.saved:%Y-%m-%d %H:%M:%S}")
    return "\n".join(lines)


TOPICS: dict[str, tuple[Topic, str]] = {
    "status": (status, "whether the guest runs"),
    "registers": (registers, "registers of the CPUs"),
    "migrate": (migrate, "progress of the migration"),
    "mtree": (mtree, "guest real address space"),
    "qtree": (qtree, "virtio devices, their state and queues"),
    "snapshots": (saved, "guests that savevm has saved by name"),
    "balloon": (balloon, "RAM the guest has, in MiB"),
    "chardev": (chardev, "character devices"),
    **inspect.TOPICS,
}
