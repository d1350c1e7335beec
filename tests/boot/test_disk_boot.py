"""A machine with firmware and a disk: SLOF, GRUB and Linux read it one after the other.

SLOF's driver, which GRUB uses, is big-endian; Linux resets the device and has either byte order.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from firmware.guests.errors import GuestError
from tests.boot.guests import READY, Guest, trouble_in
from tests.boot.test_slof import SECONDS, SLOF, slof
from tests.boot.virtio_guest import INTERFACES, block_options
from tests.boot.virtio_host import check_ext4, require_e2fsprogs
from tests.support.grub import boot_disk, core_image

pytestmark = [
    pytest.mark.boot,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not SLOF.exists(), reason=f"no {SLOF} (qemu-system-data)"),
]
MIB = 1 << 20
COMMANDS = """\
echo GRUB-IS-HERE
search --no-floppy --file /vmlinux --set=root
linux /vmlinux console=hvc0 autotest=poweroff
initrd /initramfs.cpio.gz
boot
"""


@pytest.fixture
def grub(tmp_path: Path) -> bytes:
    """GRUB's image for the boot partition."""
    require_e2fsprogs()
    try:
        return core_image(tmp_path, COMMANDS)
    except GuestError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    ("name", "cpu", "interface"),
    [("le_small", "power8", "transitional"), ("be", "power9", "modern")],
)
def test_boots_from_a_disk_alone(
    name: str,
    cpu: str,
    interface: str,
    grub: bytes,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    guest: Guest = request.getfixturevalue(name)
    disk = tmp_path / "disk.img"
    files = {"vmlinux": guest.kernel, "initramfs.cpio.gz": guest.initrd}
    contents = {name: path.read_bytes() for name, path in files.items()}
    boot_disk(disk, grub, 128 * MIB, contents)
    with slof(block_options(disk, INTERFACES[interface]), cpu) as machine:
        console = machine.console
        console.wait_for("Trying to load:  from: /pci@800000020000000/scsi@0", timeout=SECONDS)
        console.wait_for("GRUB-IS-HERE", timeout=SECONDS)
        console.wait_for("ibm,client-architecture-support... done", timeout=SECONDS)
        console.wait_for(f"{cpu.upper()} (architected)", timeout=SECONDS)
        console.wait_for("vda: vda1 vda2", timeout=SECONDS)
        console.wait_for(READY, timeout=SECONDS)
        assert machine.wait(SECONDS) == 0
        assert trouble_in(console.text) == []
    partition = tmp_path / "partition.img"
    partition.write_bytes(disk.read_bytes()[9 * MIB :])
    check_ext4(partition)
