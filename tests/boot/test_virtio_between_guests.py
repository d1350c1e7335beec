"""Guests of different byte order share a disk, one after the other, and a network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.boot.guests import Guest
from tests.boot.virtio_guest import (
    INTERFACES,
    MIB,
    VirtioGuest,
    block_options,
    network_options,
    pattern,
)
from tests.boot.virtio_host import check_ext4, make_ext4, read_ext4, require_e2fsprogs

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]
SIZE = 16 * MIB
PORT = 7000
LE_ADDRESS, BE_ADDRESS = "10.1.0.1", "10.1.0.2"

interfaces = pytest.mark.parametrize("interface", ["legacy", "modern"])


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    """An image with an empty ext4 file system."""
    require_e2fsprogs()
    image = tmp_path / "disk.img"
    make_ext4(image, 64 * MIB, {})
    return image


def written(guest: VirtioGuest, name: str) -> str:
    """Write a file on the disk; the checksum the guest has of it."""
    guest.make_data(f"/mnt/{name}", SIZE, seed=len(name))
    return guest.sha256(f"/mnt/{name}")


@interfaces
def test_disk_goes_back_and_forth_between_guests_of_both_byte_orders(
    be: Guest, le: Guest, disk: Path, interface: str
) -> None:
    digests: dict[str, str] = {}
    for guest, name in ((be, "from-be"), (le, "from-le"), (be, "from-be-again")):
        with VirtioGuest(guest, block_options(disk, INTERFACES[interface])) as running:
            running.mount()
            assert {old: running.sha256(f"/mnt/{old}") for old in digests} == digests
            digests[name] = written(running, name)
            running.run("umount /mnt")
            assert running.trouble() == []
            running.power_off()
    check_ext4(disk)
    assert {n: hashlib.sha256(read_ext4(disk, n)).hexdigest() for n in digests} == digests


def test_raw_blocks_mean_the_same_to_both_guests_and_the_host(
    be: Guest, le_small: Guest, tmp_path: Path
) -> None:
    image = tmp_path / "raw.img"
    image.write_bytes(bytes(SIZE))
    for writer, reader, seed in ((be, le_small, 1), (le_small, be, 2)):
        for guest, verb in ((writer, "write"), (reader, "verify")):
            options = block_options(image, INTERFACES["legacy"])
            with VirtioGuest(guest, options) as running:
                running.run(f"{verb} /dev/vda {SIZE} {seed}")
                running.power_off()
        assert image.read_bytes() == pattern(SIZE, seed)


@pytest.fixture(
    params=[("modern", "legacy"), ("legacy", "modern")], ids=lambda pair: "-".join(pair)
)
def pair(
    request: pytest.FixtureRequest, le: Guest, be: Guest, tmp_path: Path
) -> Iterator[tuple[VirtioGuest, VirtioGuest]]:
    """A little-endian and a big-endian guest on one network, their cards as the test says."""
    wire = f"addr.type=unix,addr.path={tmp_path / 'wire'}"
    ends = (
        (le, f"stream,server=on,{wire}", LE_ADDRESS, "52:54:00:00:00:01", request.param[0]),
        (be, f"stream,server=off,{wire}", BE_ADDRESS, "52:54:00:00:00:02", request.param[1]),
    )
    with ExitStack() as stack:
        guests = []
        for image, netdev, address, mac, interface in ends:
            options = network_options(netdev, INTERFACES[interface], mac)
            guest = stack.enter_context(VirtioGuest(image, options))
            guest.set_address(address)
            guests.append(guest)
        yield guests[0], guests[1]
        for guest in guests:
            assert guest.trouble() == []


def exchange(sender: VirtioGuest, receiver: VirtioGuest, address: str) -> None:
    """Send random data over TCP to the receiver; checksums of both must agree."""
    sender.make_data("/tmp/out", 4 * MIB, seed=5)
    receiver.start_receiving(PORT, "/tmp/in")
    sender.send(PORT, "/tmp/out", address)
    receiver.finish()
    assert receiver.sha256("/tmp/in") == sender.sha256("/tmp/out")


def test_guests_of_both_byte_orders_exchange_data_over_a_socket(
    pair: tuple[VirtioGuest, VirtioGuest],
) -> None:
    little, big = pair
    little.ping(BE_ADDRESS)
    big.ping(LE_ADDRESS)
    exchange(little, big, BE_ADDRESS)
    exchange(big, little, LE_ADDRESS)
