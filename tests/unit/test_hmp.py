"""The human monitor: lines in, text out, and Ctrl-A c on the console."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from emu.chardev.config import ConfigError
from emu.chardev.memory import MemoryChardev
from emu.chardev.mux import MuxChardev
from emu.events import EventLoop
from emu.machine import Machine
from emu.monitor.hmp import PROMPT, HumanMonitor, execute
from emu.monitor.registry import COMMANDS
from emu.options import parse_command_line


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    image = tmp_path / "spin.bin"
    image.write_bytes(bytes(0x100) + bytes.fromhex("48000000"))  # b .
    argv = ["-m", "256M", "-nodefaults", "-S", "-bios", str(image)]
    argv += ["-device", "virtio-balloon-pci,id=b", "-device", "virtio-rng-pci"]
    with Machine(parse_command_line(argv)) as machine:
        machine.start()
        yield machine


def test_stop_and_cont_show_in_info_status(machine: Machine) -> None:
    assert "prelaunch" in execute(machine, "info status")
    assert execute(machine, "cont") == ""
    assert execute(machine, "info status") == "VM status: running"
    assert execute(machine, "stop") == ""
    assert execute(machine, "info status") == "VM status: paused"


def test_registers_are_those_of_the_cpu(machine: Machine) -> None:
    text = execute(machine, "info registers")
    assert "NIP 0000000000000100" in text
    assert "GPR28" in text


def test_memory_tree_has_ram_and_windows(machine: Machine) -> None:
    text = execute(machine, "info mtree")
    assert "0000000000000000-000000000fffffff (ram): ram" in text
    assert "PCI I/O" in text


def test_devices_are_listed(machine: Machine) -> None:
    assert "dev: virtio-balloon, id 'b'" in execute(machine, "info qtree")


def test_balloon_takes_mebibytes(machine: Machine) -> None:
    assert execute(machine, "info balloon") == "balloon: actual=256"
    assert execute(machine, "balloon 128") == ""
    machine.on_vcpu(lambda: None)  # behind what the command has posted
    pages = int.from_bytes(machine.devices["b"].config_read(0, 4, modern=True), "little")
    assert pages == 128 << 8


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("nonsense", "unknown command: 'nonsense'"),
        ("migrate", "Error: migrate: expected"),
        ("migrate nowhere:", "Error: unknown migration protocol"),
        ("balloon x", "Error: balloon: expected"),
        ("set_link nobody on", "Error: Device 'nobody' not found"),
        ('echo "', "Error: No closing quotation"),
        ("stop now", "Error: stop: extraneous"),
    ],
)
def test_mistakes_are_told(machine: Machine, line: str, answer: str) -> None:
    assert execute(machine, line).startswith(answer)


def test_line_can_be_edited(machine: Machine) -> None:
    chardev = MemoryChardev("monitor", None)
    monitor = HumanMonitor(machine, chardev)
    monitor.start()
    chardev.wait_for(PROMPT.strip(), 10)
    chardev.send(b"xx\x15infi\x7fo statux\x08s\r")
    chardev.wait_for("VM status", 10)
    monitor.close()


def test_ctrl_a_c_switches_to_the_monitor_and_back(machine: Machine) -> None:
    loop = EventLoop()
    loop.start()
    backend = MemoryChardev("console", None)
    guest = bytearray()
    mux = MuxChardev(backend, loop, on_monitor=lambda: machine._show_monitor(mux))

    def take(data: bytes) -> int:
        guest.extend(data)
        return len(data)

    mux.set_receiver(take)
    backend.send(b"for the guest\x01cinfo status\r")
    backend.wait_for("VM status", 10)
    backend.send(b"\x01cagain")
    backend.wait_for("\r\n", 10)
    loop.stop()
    assert guest == b"for the guestagain"


def test_monitor_option_takes_a_backend() -> None:
    config = parse_command_line(["-S", "-monitor", "unix:/tmp/m,server=on,wait=off"])
    assert config.monitors[0].mode == "readline"
    assert replace(config.monitors[0].chardev, id="").path == "/tmp/m"  # type: ignore[attr-defined]


def test_console_and_its_monitor_share_a_backend(tmp_path: Path) -> None:
    image = tmp_path / "spin.bin"
    image.write_bytes(bytes(0x100) + bytes.fromhex("48000000"))
    argv = ["-m", "256M", "-nodefaults", "-S", "-bios", str(image)]
    argv += ["-chardev", "ringbuf,id=c,size=4K,mux=on", "-serial", "chardev:c", "-mon", "chardev=c"]
    with Machine(parse_command_line(argv)) as machine:
        machine.start()
        (mux,) = machine.chardevs
        assert isinstance(mux, MuxChardev)
        assert isinstance(mux.backend, MemoryChardev)
        mux.backend.send(b"\x01cinfo status\r")
        mux.backend.wait_for("VM status: paused (prelaunch)", 10)


@pytest.mark.parametrize(
    "options",
    [
        ["-chardev", "null,id=c", "-serial", "chardev:c", "-mon", "chardev=c"],
        ["-chardev", "null,id=c,mux=on", "-serial", "chardev:c", "-qmp", "chardev:c"],
        ["-chardev", "null,id=c,mux=on", "-mon", "chardev=c", "-mon", "chardev=c"],
    ],
    ids=["no mux", "QMP", "two monitors"],
)
def test_backend_in_use(options: list[str]) -> None:
    where = " ".join(options[-2:])
    with pytest.raises(ConfigError, match=f"^{where}: chardev 'c' is in use already$"):
        parse_command_line(options)


def test_backend_of_a_monitor_is_no_port() -> None:
    port = ["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=c"]
    with pytest.raises(ConfigError, match="Device 'c' is in use"):
        parse_command_line(["-chardev", "null,id=c", "-mon", "chardev=c", *port])


@pytest.mark.parametrize("kind", ["hmp", "qmp"])
def test_a_monitor_alone_knows_every_command(kind: str) -> None:
    """Monitors are loaded when one is opened; each brings what it needs."""
    code = (
        f"from emu.monitor import {kind}; from emu.monitor.registry import COMMANDS; "
        "print(*sorted(COMMANDS))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == sorted(COMMANDS)
