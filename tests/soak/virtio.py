"""Much data through the virtio devices of a Linux guest: disk, network, console port, balloon."""

from __future__ import annotations

import hashlib
import tempfile
import time
from pathlib import Path

from emu.chardev.memory import ConsoleError
from tests.boot.guests import Guest
from tests.boot.virtio_guest import (
    INTERFACES,
    MIB,
    VirtioGuest,
    block_options,
    network_options,
    other_options,
    pattern,
    take,
)
from tests.boot.virtio_host import check_ext4, make_ext4, read_ext4, tcp_sink
from tests.soak.result import Result

_FILE_SIZE = 64 * MIB
_NETWORK_SIZE = 64 * MIB
_PORT_PIECES, _BALLOON_ROUNDS = 16, 20
_SPARE = 256 * MIB  # for what ext4 keeps for itself
_SECONDS = 600.0


def virtio(guest: Guest, cpu: str, mib: int, interface: str) -> Result:
    """Write and read `mib` MiB on ext4, and exercise the other devices; all data must agree."""
    name = f"virtio {guest.name} {interface} {cpu}"
    with tempfile.TemporaryDirectory(prefix="soak-virtio-") as folder:
        disk = Path(folder) / "disk.img"
        count = -(-mib * MIB // _FILE_SIZE)
        make_ext4(disk, count * _FILE_SIZE + _SPARE, {})
        properties = INTERFACES[interface]
        options = [
            *block_options(disk, properties),
            *network_options("user", properties),
            *other_options(properties),
        ]
        started = time.monotonic()
        try:
            with VirtioGuest(guest, options, cpu) as running:
                digests = _fill_disk(running, count)
                _network(running)
                _port(running)
                _balloon(running)
                faults = running.trouble()
                running.power_off()
            _check_image(disk, digests)
        except (AssertionError, ConsoleError, TimeoutError) as error:
            return Result(name, False, " | ".join(str(error).splitlines()))
        seconds = time.monotonic() - started
        detail = " | ".join(faults) or f"{count * _FILE_SIZE // MIB} MiB in {seconds:.0f} s"
        return Result(name, not faults, detail)


def _fill_disk(guest: VirtioGuest, count: int) -> dict[str, str]:
    """Write files with fsync and read them from the disk; the checksums from before that."""
    guest.mount()
    digests = {}
    for number in range(count):
        name = f"random{number}"
        guest.make_data(f"/mnt/{name}", _FILE_SIZE, number + 1, _SECONDS)
        digests[name] = guest.sha256(f"/mnt/{name}", _SECONDS)
    guest.drop_caches()
    for name, digest in digests.items():
        assert guest.sha256(f"/mnt/{name}", _SECONDS) == digest, f"{name} has changed"
    guest.run("umount /mnt")
    return digests


def _check_image(disk: Path, digests: dict[str, str]) -> None:
    check_ext4(disk)
    for name, digest in digests.items():
        found = hashlib.sha256(read_ext4(disk, name)).hexdigest()
        assert found == digest, f"{name} is different on the image"


def _network(guest: VirtioGuest) -> None:
    guest.set_address()
    guest.ping(count=100)
    guest.make_data("/tmp/sent", _NETWORK_SIZE, 1, _SECONDS)
    with tcp_sink() as (port, received):
        guest.send(port, "/tmp/sent", seconds=_SECONDS)
        digest = hashlib.sha256(received.result(_SECONDS)).hexdigest()
    assert digest == guest.sha256("/tmp/sent", _SECONDS), "TCP data has changed"
    guest.run("rm /tmp/sent")


def _port(guest: VirtioGuest) -> None:
    """Console port: 1 MiB pieces to the guest and back."""
    port = guest.chardev("port")
    for number in range(_PORT_PIECES):
        port.send(pattern(MIB, number))
        guest.verify("/dev/vport4p1", MIB, number)
        guest.make_data("/tmp/port", MIB, number)
        guest.copy("/tmp/port", "/dev/vport4p1")
        digest = hashlib.sha256(take(port, MIB)).hexdigest()
        assert digest == guest.sha256("/tmp/port"), "data of the port has changed"


def _balloon(guest: VirtioGuest) -> None:
    size = guest.guest.ram_size
    for _ in range(_BALLOON_ROUNDS):
        guest.set_memory(size // 2)
        guest.set_memory(size)
        guest.touch_memory(size // 4)
