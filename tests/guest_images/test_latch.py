"""Without the latch the matrix fails: for each device, at least one cell.

The emulator runs in this process with one rule of the devices changed.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from devices.virtio.device import VirtioDevice
from emu.machine import Machine
from emu.memory.endian import GuestEndian
from emu.options import parse_command_line
from tests.guest_images.runner import (
    DEVICES,
    DISK_SECTORS,
    ON_QEMU,
    Result,
    device_arguments,
    echo_server,
)
from tests.support.guest_images import missing_compilers, write_disk, write_image

pytestmark = [
    pytest.mark.skipif(ON_QEMU, reason="changes our devices"),
    pytest.mark.skipif(bool(missing_compilers()), reason="no cross compilers"),
]
ORDERS = {GuestEndian.LITTLE: "be", GuestEndian.BIG: "le"}
PATIENCE = 6.0


def _run(directory: Path, transport: str, device: str, order: str) -> Result:
    """One device driven by a legacy driver of one order; cut short if it does not end."""
    image = write_image(
        directory / "image.bin", test="matrix", order=order, only=device, emulator="own"
    )
    disk = write_disk(directory / "disk.img", DISK_SECTORS)
    board = "pseries" if transport == "pci" else "virtmmio"
    with echo_server(directory / "echo"):
        options = device_arguments(transport, "legacy", disk, directory / "echo")
        argv = ["-M", board, "-nodefaults", "-bios", str(image), *options]
        config = parse_command_line([*argv, "-chardev", "ringbuf,id=c", "-serial", "chardev:c"])
        with Machine(config) as machine:
            machine.start()
            with contextlib.suppress(TimeoutError):
                machine.wait(PATIENCE)
            return Result(machine.console.text, 0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("transport", ["pci", "mmio"])
def test_unchanged_rule_passes(tmp_path: Path, transport: str, device: str) -> None:
    result = _run(tmp_path, transport, device, "be")
    assert result.done
    assert result.passed
    assert not result.failed


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("fixed", list(ORDERS), ids=["always-little", "always-big"])
def test_fixed_byte_order_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fixed: GuestEndian, device: str
) -> None:
    reset = VirtioDevice.reset

    def fixed_reset(self: VirtioDevice) -> None:
        reset(self)
        self.latched_endian = fixed

    monkeypatch.setattr(VirtioDevice, "reset", fixed_reset)
    result = _run(tmp_path, "mmio", device, ORDERS[fixed])
    assert result.failed or not result.done
