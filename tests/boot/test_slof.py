"""The SLOF firmware, as Debian ships it, drives our devices: legacy virtio, big-endian."""

from __future__ import annotations

from pathlib import Path

import pytest

from emu.machine import Machine
from emu.options import parse_command_line

SLOF = Path("/usr/share/qemu/slof.bin")
pytestmark = [
    pytest.mark.boot,
    pytest.mark.skipif(not SLOF.exists(), reason="no slof.bin (Debian: qemu-system-data)"),
]
PATIENCE = 90.0


def test_firmware_finds_the_disk_reads_it_and_reaches_its_prompt(tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    argv = ["-M", "pseries", "-m", "512M", "-nodefaults", "-bios", str(SLOF)]
    argv += ["-drive", f"file={disk},if=none,id=d,format=raw", "-device", "virtio-blk-pci,drive=d"]
    config = parse_command_line([*argv, "-chardev", "ringbuf,id=c,size=1M", "-serial", "chardev:c"])
    with Machine(config) as machine:
        machine.start()
        machine.console.wait_for("virtio [ block ]", timeout=PATIENCE)
        machine.console.wait_for("from: /pci@800000020000000/scsi@0", timeout=PATIENCE)
        machine.console.wait_for("Not a bootable device", timeout=PATIENCE)
        machine.console.wait_for("Ready!", timeout=PATIENCE)
        machine.console.wait_for("0 > ", timeout=PATIENCE)
        machine.console.send("2 3 + .\r")
        machine.console.wait_for("5  ok", timeout=PATIENCE)
        assert not machine.devices["virtio-blk-pci.0"].broken
