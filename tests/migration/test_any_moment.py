"""A guest can move at any moment of its life: these are those that could be special."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from devices.virtio.mmio import VirtioMmioTransport
from devices.virtio.pci_legacy import LegacyRegisters
from devices.virtio.pci_modern import ModernRegisters
from emu.cpu.isa import MSR_EE, Spr
from emu.events import RunState
from emu.machine import Machine
from emu.options import parse_command_line
from machines.cpu_state import CpuImage
from tests.boot.guests import BE, BOOT_SECONDS, LE, LE_SMALL, READY, Guest, trouble_in
from tests.boot.test_slof import GREETING, SLOF, bootable_disk
from tests.boot.virtio_guest import block_options
from tests.migration.load_guest import fault_in, ticks
from tests.support import asm
from tests.support.bare import BareMachine, bare_machine
from tests.support.guest_images import missing_compilers, write_disk, write_image
from tests.support.process import Emulator
from tests.support.stream_reader import read_stream

SECONDS = 120.0
WORD = 0x2000
needs_compilers = pytest.mark.skipif(bool(missing_compilers()), reason="no cross compilers")
boots = [pytest.mark.boot, pytest.mark.timeout(600)]


# The CPU


@contextlib.contextmanager
def other_cpu(source: BareMachine, model: str = "power8") -> Iterator[BareMachine]:
    """A machine with the source's CPU state and memory."""
    image = CpuImage(source.vcpu)
    image.read()
    with bare_machine(model) as target:
        target.ram.write(0, source.ram.read(0, source.ram.size))
        image.vcpu = target.vcpu
        image.write()
        yield target


def test_reservation_is_lost_between_lwarx_and_stwcx(machine: BareMachine) -> None:
    """As an interrupt would lose it: the guest's loop tries again."""
    machine.ram.write(WORD, (5).to_bytes(4, "big"))
    machine.vcpu.set_gpr(3, WORD)
    machine.execute(asm.lwarx(4, 0, 3))
    with other_cpu(machine) as target:
        target.execute(asm.addi(4, 4, 1), asm.stwcx(4, 0, 3))
        assert target.vcpu.gpr(4) == 6
        assert target.ram.read(WORD, 4) == (5).to_bytes(4, "big")
        target.execute(asm.lwarx(4, 0, 3), asm.addi(4, 4, 1), asm.stwcx(4, 0, 3))
        assert target.ram.read(WORD, 4) == (6).to_bytes(4, "big")


def test_pending_decrementer_interrupt_comes_at_the_destination(machine: BareMachine) -> None:
    """It is due, and not taken: MSR[EE] is off."""
    machine.partition.start_clock()
    machine.execute(asm.li(3, -1), asm.mtspr(Spr.DEC, 3))
    machine.partition.stop_clock()
    with other_cpu(machine) as target:
        target.partition.start_clock()
        target.vcpu.set_gpr(3, target.vcpu.msr | MSR_EE)
        assert target.interrupt(asm.mtmsrd(3), asm.b(0)).vector == 0x900


# Devices


def options(folder: Path, board: str, **parameters: str) -> list[str]:
    """A bare-metal image and a disk whose requests all go to worker threads."""
    image = write_image(folder / "image.bin", **parameters)
    disk = folder / "disk.img"
    if not disk.exists():
        write_disk(disk, 3001)
    kind = "pci" if board == "pseries" else "device"
    memory = "256" if board == "pseries" else "32"
    found = ["-M", board, "-m", memory, "-nodefaults", "-bios", str(image)]
    found += ["-chardev", "ringbuf,id=c", "-serial", "chardev:c"]
    found += ["-drive", f"file={disk},if=none,format=raw,id=d,cache=none"]
    return [*found, "-device", f"virtio-blk-{kind},drive=d,id=disk"]


def save(machine: Machine, file: Path) -> None:
    machine.migration.migrate(f"file:{file}")
    machine.migration.wait(SECONDS)
    assert machine.migration.query()["status"] == "completed", machine.migration.query()


CELLS = [
    ("pseries", "be", "legacy"),
    ("pseries", "le", "modern"),
    ("virtmmio", "le", "legacy"),
]


@needs_compilers
@pytest.mark.parametrize(("board", "order", "interface"), CELLS)
def test_between_notification_and_completion(
    tmp_path: Path, board: str, order: str, interface: str
) -> None:
    """The request is at the host, which takes its time, while the guest is to move."""
    argv = options(tmp_path, board, test="load", order=order, interface=interface)
    arrived, go = threading.Event(), threading.Event()

    def hold(write: Callable[..., None]) -> Callable[..., None]:
        def slow(*arguments: Any, **more: Any) -> None:
            arrived.set()
            assert go.wait(SECONDS)
            write(*arguments, **more)

        return slow

    with Machine(parse_command_line(argv)) as source:
        source.start()
        source.console.wait_for("TICK 5 ", timeout=SECONDS)
        image = source.devices["disk"].image  # type: ignore[attr-defined]
        image.pwritev = hold(image.pwritev)
        assert arrived.wait(SECONDS)
        source.migration.migrate(f"file:{tmp_path}/saved")
        source.state.wait_for(RunState.FINISH_MIGRATE, timeout=SECONDS)
        go.set()
        source.migration.wait(SECONDS)
        before = source.console.text
    with Machine(parse_command_line([*argv, "-incoming", f"file:{tmp_path}/saved"])) as target:
        target.start()
        last = ticks(before)[-1]
        target.console.wait_for(f"TICK {last + 20} ", timeout=SECONDS)
        assert fault_in(before, target.console.text) == ""


class StopAt:
    """Stops a machine behind the n-th access to a virtio register."""

    HANDLERS = (LegacyRegisters, ModernRegisters, VirtioMmioTransport)

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.at = 0
        self.stop: Callable[[], None] = lambda: None
        for handler in self.HANDLERS:
            for name in ("mmio_read", "mmio_write"):
                monkeypatch.setattr(handler, name, self._counted(getattr(handler, name)))

    def _counted(self, access: Callable[..., Any]) -> Callable[..., Any]:
        def counted(handler: Any, *arguments: Any) -> Any:
            result = access(handler, *arguments)
            self.count += 1
            if self.count == self.at:
                self.stop()
            return result

        return counted


@needs_compilers
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("board", "order", "interface"), CELLS)
def test_while_a_driver_sets_a_device_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, board: str, order: str, interface: str
) -> None:
    """Behind each of some forty register accesses, from probing to DRIVER_OK."""
    stopper = StopAt(monkeypatch)
    argv = options(tmp_path, board, test="setup", order=order)
    if board == "pseries":
        other = "legacy" if interface == "modern" else "modern"
        argv[-1] += f",disable-{other}=on"
    with Machine(parse_command_line(argv)) as whole:
        whole.start()
        assert whole.wait(SECONDS) == 0
        expected = whole.console.text
    assert "DONE: passed" in expected
    accesses = stopper.count
    assert accesses > 50
    for at in range(1, accesses, accesses // 40):
        stopper.count, stopper.at = 0, at
        with Machine(parse_command_line(argv)) as source:
            stopper.stop = source.stop
            source.start()
            assert source.state.wait_for(RunState.PAUSED, timeout=SECONDS), f"access {at}"
            save(source, tmp_path / "saved")
            before = source.console.text
        stopper.at = 0
        argv_there = [*argv, "-incoming", f"file:{tmp_path}/saved"]
        with Machine(parse_command_line(argv_there)) as target:
            target.start()
            assert target.wait(SECONDS) == 0, f"access {at}"
            assert before + target.console.text == expected, f"access {at}"


@pytest.mark.skipif(not SLOF.exists(), reason=f"no {SLOF} (qemu-system-data)")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("moment", ["SLOF", "Scan", "virtio [ block ]"])
def test_during_firmware(tmp_path: Path, moment: str) -> None:
    """QEMU's firmware, between its first line and the program it loads from the disk."""
    disk = tmp_path / "disk.img"
    bootable_disk(disk)
    argv = ["-M", "pseries", "-m", "512", "-nodefaults", "-bios", str(SLOF)]
    argv += ["-chardev", "ringbuf,id=c,size=64K", "-serial", "chardev:c", *block_options(disk)]
    with Machine(parse_command_line(argv)) as source:
        source.start()
        source.console.wait_for(moment, timeout=SECONDS)
        source.stop()
        save(source, tmp_path / "saved")
        before = source.console.text
    assert GREETING.decode() not in before
    with Machine(parse_command_line([*argv, "-incoming", f"file:{tmp_path}/saved"])) as target:
        target.start()
        target.console.wait_for(GREETING.decode(), timeout=SECONDS)
        assert "E3404" not in before + target.console.text


# Linux


def start(folder: Path, guest: Guest, cpu: str, *more: str) -> Emulator:
    if guest.missing:
        pytest.skip(guest.missing)
    return Emulator(folder, "source", [*guest.arguments(cpu=cpu), *more])


def waiting(folder: Path, guest: Guest, cpu: str, *more: str) -> tuple[Emulator, str]:
    uri = f"unix:{folder}/migration"
    return Emulator(folder, "target", [*guest.arguments(cpu=cpu), *more, "-incoming", uri]), uri


def move_now(source: Emulator, uri: str) -> str:
    """Move a guest as it is at this moment; what it had said by then."""
    source.command("stop")
    text = source.text
    source.command("migrate-set-parameters", max_bandwidth=0)
    assert source.migrate(uri)["status"] == "completed"
    return text


class TestLinux:
    pytestmark = boots

    @pytest.mark.parametrize(
        ("guest", "cpu", "moment"),
        [
            (LE, "power8", ""),
            (LE, "power8", "Linux version"),
            (LE, "power9", "NET: Registered"),
            (LE, "power9", "Freeing unused"),
            (BE, "power8", ""),
            (BE, "power9", "Linux version"),
        ],
    )
    def test_during_boot(self, tmp_path: Path, guest: Guest, cpu: str, moment: str) -> None:
        """At a line of the kernel's, or before its first one."""
        with start(tmp_path, guest, cpu, "-S") as source:
            target, uri = waiting(tmp_path, guest, cpu)
            with target:
                source.command("cont")
                source.wait_for(moment, BOOT_SECONDS)
                text = move_now(source, uri)
                if guest is LE:  # the other one is there in no time
                    assert READY not in text
                if READY not in text:
                    target.wait_for(READY, BOOT_SECONDS)
                    target.wait_for("# ", BOOT_SECONDS)
                target.run("cat /proc/uptime")
                assert trouble_in(text + target.text) == []

    @pytest.mark.parametrize("seconds", [0.0, 0.1, 0.5])
    def test_during_reboot(self, tmp_path: Path, seconds: float) -> None:
        """The guest comes up again, on whichever side its reset is."""
        with start(tmp_path, LE_SMALL, "power9") as source:
            target, uri = waiting(tmp_path, LE_SMALL, "power9")
            with target:
                source.wait_for(READY, BOOT_SECONDS)
                source.wait_for("# ", BOOT_SECONDS)
                source.send("reboot\n")
                source.wait_for("reboot", BOOT_SECONDS)
                threading.Event().wait(seconds)
                text = move_now(source, uri)
                if text.count(READY) == 1:
                    target.wait_for(READY, BOOT_SECONDS)
                target.run("cat /proc/uptime")
                assert trouble_in(text + target.text) == []

    def test_halted_in_cede(self, tmp_path: Path) -> None:
        """An idle guest is; it wakes for its console and for its timers."""
        with start(tmp_path, LE_SMALL, "power9") as source:
            source.wait_for(READY, BOOT_SECONDS)
            source.run("sleep 1")
            file = tmp_path / "saved"
            assert source.migrate(f"file:{file}")["status"] == "completed"
        state = read_stream(file.read_bytes())["cpu"].state
        assert state["halted"] is True
        arguments = [*LE_SMALL.arguments(cpu="power9"), "-incoming", f"file:{file}"]
        with Emulator(tmp_path, "target", arguments) as target:
            target.run("sleep 1")

    def test_powering_off_ends_the_migration(self, tmp_path: Path) -> None:
        with start(tmp_path, LE_SMALL, "power9") as source:
            target, uri = waiting(tmp_path, LE_SMALL, "power9")
            with target:
                source.wait_for(READY, BOOT_SECONDS)
                source.wait_for("# ", BOOT_SECONDS)
                source.command("migrate-set-parameters", max_bandwidth=1 << 20)
                source.command("migrate", uri=uri)
                source.send("poweroff\n")
                assert source.wait(SECONDS) == 0
                assert target.wait(SECONDS) == 1
