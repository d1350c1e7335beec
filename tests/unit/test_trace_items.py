"""virtio, irq and migration in the log: what devices, controllers and streams do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from devices.virtio.constants import Feature
from emu.events import RunState
from emu.log import configure_logging
from emu.machine import Machine
from emu.memory.endian import GuestEndian
from emu.monitor.hmp import execute
from emu.options import parse_command_line

BALLOON_ACTUAL = 4


def options(tmp_path: Path) -> list[str]:
    image = tmp_path / "spin.bin"
    image.write_bytes(bytes(0x100) + bytes.fromhex("48000000"))  # b .
    argv = ["-m", "256M", "-nodefaults", "-S", "-bios", str(image)]
    return [*argv, "-device", "virtio-balloon-pci,id=b"]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A machine that stands still, its log in tmp_path/log."""
    configure_logging((), str(tmp_path / "log"))
    with Machine(parse_command_line(options(tmp_path))) as machine:
        machine.start()
        yield machine
    configure_logging()


def lines(tmp_path: Path) -> list[str]:
    return (tmp_path / "log").read_text().splitlines()


def test_virtio_shows_what_a_driver_does(machine: Machine, tmp_path: Path) -> None:
    device = machine.devices["b"]
    machine.trace.set_items({"virtio"})
    device.reset()
    device.latched_endian = GuestEndian.LITTLE
    device.set_status(3)
    device.set_features(Feature.RING_EVENT_IDX.mask | 2, modern=False)
    queue = device.queues[0]
    queue.place(0x10000, 0x11000, 0x12000)
    device.enable_queue(queue)
    device.config_write(BALLOON_ACTUAL, b"\x01\x00\x00\x00", modern=False)
    device.notify(0)
    device.reset_queue(queue)
    offered = device.offered_features(False)
    assert lines(tmp_path) == [
        "virtio: b: reset, big-endian",
        "virtio: b: status 0x3 features 0x0",
        f"virtio: b: features 0x20000002 of {offered:#x}, legacy",
        "virtio: b: queue 0 enabled, 128 entries, split, little-endian,"
        " at 0x10000, 0x11000, 0x12000",
        "virtio: b: config 0x4 := 01000000 (little-endian)",
        "virtio: b: notify queue 0",
        "virtio: b: queue 0 reset",
    ]
    machine.trace.set_items(())
    device.reset()
    assert len(lines(tmp_path)) == 7


def test_irq_shows_sources(machine: Machine, tmp_path: Path) -> None:
    machine.trace.set_items({"irq"})
    xics = machine.board.xics  # type: ignore[attr-defined]
    xics.set_irq(0x10FF, 1)
    xics.set_xive(0x10FF, 0, 5)
    assert lines(tmp_path) == [
        "irq: source 0x10ff (nvram): 1",
        "irq: source 0x10ff: server 0, priority 0x5",
    ]


def test_migration_shows_sections(machine: Machine, tmp_path: Path) -> None:
    machine.trace.set_items({"migration"})
    assert "completed" in execute(machine, f"migrate file:{tmp_path / 'state'}")
    text = lines(tmp_path)
    assert any(line.startswith("migration: saved section 'cpu'") for line in text)
    saved = [line.removeprefix("migration: saved ") for line in text if "saved section" in line]
    assert len(saved) > 5
    argv = [*options(tmp_path), "-incoming", f"file:{tmp_path / 'state'}"]
    with Machine(parse_command_line(argv)) as other:
        other.start()
        assert other.state.wait_for(RunState.PAUSED, timeout=60)
    text = lines(tmp_path)
    received = [line.removeprefix("migration: received ") for line in text if "received" in line]
    assert [line.split(":")[0] for line in received[: len(saved)]] == [
        line.split(":")[0] for line in saved
    ]
