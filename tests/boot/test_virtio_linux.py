"""Linux's own drivers and our virtio devices: both byte orders, with legacy and modern devices.

Every guest has all devices at once. Debian's kernel is little-endian and has 64 KiB pages, the
small one is big-endian and has pages of 4 KiB.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.boot.guests import Guest
from tests.boot.virtio_guest import (
    INTERFACES,
    MIB,
    VERSION_1,
    VirtioGuest,
    block_options,
    network_options,
    other_options,
    pattern,
    take,
)
from tests.boot.virtio_host import (
    check_ext4,
    free_port,
    make_ext4,
    read_ext4,
    require_e2fsprogs,
    tcp_send,
    tcp_sink,
)

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]

DISK_SIZE, RANDOM_SIZE, KNOWN_SIZE = 160 * MIB, 64 * MIB, 4 * MIB
KNOWN_SEED, RANDOM_SEED, PORT_SEED = 1, 2, 3
GUEST_PORT = 7000
DEVICES = range(5)
PORT = "/dev/vport4p1"
CPUS = {"legacy": "power8", "transitional": "power9", "modern": "power8"}
CELLS = [(name, interface) for name in ("le", "be") for interface in INTERFACES]


@dataclass
class Cell:
    """A running guest and what the host keeps for it."""

    guest: VirtioGuest
    interface: str
    disk: Path
    forwarded_port: int

    @contextlib.contextmanager
    def mounted(self) -> Iterator[VirtioGuest]:
        """The guest with its disk mounted on /mnt; nothing of it is cached at the start."""
        self.guest.drop_caches()
        self.guest.mount()
        yield self.guest
        self.guest.run("umount /mnt")


@pytest.fixture(scope="module", params=CELLS, ids="-".join)
def cell(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Cell]:
    """A guest at its shell, with all devices and a disk with an ext4 file system."""
    name, interface = request.param
    image: Guest = request.getfixturevalue(name)
    require_e2fsprogs()
    disk = tmp_path_factory.mktemp("virtio") / "disk.img"
    make_ext4(disk, DISK_SIZE, {"known": pattern(KNOWN_SIZE, KNOWN_SEED)})
    port = free_port()
    options = [
        *block_options(disk, INTERFACES[interface]),
        *network_options(f"user,hostfwd=tcp:127.0.0.1:{port}-:{GUEST_PORT}", INTERFACES[interface]),
        *other_options(INTERFACES[interface]),
    ]
    append = "" if image.name == "le" else "ip=dhcp"
    with VirtioGuest(image, options, CPUS[interface], append) as guest:
        guest.get_address()
        yield Cell(guest, interface, disk, port)
    disk.unlink()


def test_drivers_use_the_interface_that_the_devices_have(cell: Cell) -> None:
    modern = "0" if cell.interface == "legacy" else "1"
    assert [cell.guest.features(device)[VERSION_1] for device in DEVICES] == [modern] * 5


def test_ext4_image_made_by_the_host_is_read_intact(cell: Cell) -> None:
    with cell.mounted() as guest:
        guest.verify("/mnt/known", KNOWN_SIZE, KNOWN_SEED)


def test_random_data_written_with_fsync_reads_back_from_the_disk(cell: Cell) -> None:
    with cell.mounted() as guest:
        guest.make_data("/mnt/random", RANDOM_SIZE, RANDOM_SEED)
        digest = guest.sha256("/mnt/random")
        guest.drop_caches()
        assert guest.sha256("/mnt/random") == digest
        guest.run("rm /mnt/random")


def test_user_network_answers_ping(cell: Cell) -> None:
    cell.guest.ping()


def test_tcp_from_the_guest_reaches_a_server_of_the_host_intact(cell: Cell) -> None:
    cell.guest.make_data("/tmp/sent", 4 * MIB, RANDOM_SEED)
    with tcp_sink() as (port, received):
        cell.guest.send(port, "/tmp/sent")
        data = received.result(60)
    assert len(data) == 4 * MIB
    assert hashlib.sha256(data).hexdigest() == cell.guest.sha256("/tmp/sent")


def test_tcp_to_a_forwarded_port_reaches_the_guest_intact(cell: Cell) -> None:
    cell.guest.start_receiving(GUEST_PORT, "/tmp/received")
    data = pattern(4 * MIB, RANDOM_SEED + 1)
    tcp_send(cell.forwarded_port, data)
    cell.guest.finish()
    assert cell.guest.sha256("/tmp/received") == hashlib.sha256(data).hexdigest()


def test_hwrng_gives_bytes_that_do_not_repeat(cell: Cell) -> None:
    numbers = {cell.guest.random_numbers() for _ in range(3)}
    assert len(numbers) == 3
    assert hashlib.sha256(bytes(1024)).hexdigest() not in numbers


def send_to_port(guest: VirtioGuest) -> None:
    """1 MiB from the host through the serial port."""
    guest.chardev("port").send(pattern(MIB, PORT_SEED))
    guest.verify(PORT, MIB, PORT_SEED)


def receive_from_port(guest: VirtioGuest) -> None:
    """1 MiB from the guest through the serial port."""
    guest.make_data("/tmp/port", MIB, PORT_SEED + 1)
    guest.copy("/tmp/port", PORT)
    digest = hashlib.sha256(take(guest.chardev("port"), MIB)).hexdigest()
    assert digest == guest.sha256("/tmp/port")


def test_serial_port_has_its_name(cell: Cell) -> None:
    assert cell.guest.run("cat /sys/class/virtio-ports/vport4p1/name").strip() == "org.test"


def test_serial_port_carries_a_mebibyte_to_the_guest_intact(cell: Cell) -> None:
    send_to_port(cell.guest)


def test_serial_port_carries_a_mebibyte_to_the_host_intact(cell: Cell) -> None:
    receive_from_port(cell.guest)


def test_virtconsole_is_a_second_terminal(cell: Cell) -> None:
    terminal, guest = cell.guest.chardev("hvc"), cell.guest
    if guest.debian:
        guest.type("read line < /dev/hvc1; echo guest has $line > /dev/hvc1")
    else:
        guest.type("copy /dev/hvc1 /dev/hvc1 64 1")
    terminal.send("a line\n")
    guest.finish()
    terminal.wait_for("a line\r\n", timeout=60)  # the terminal's echo
    terminal.wait_for("guest has a line\r\n" if guest.debian else "a line\r\n", timeout=60)


def test_balloon_takes_half_of_the_memory_and_gives_it_back(cell: Cell) -> None:
    guest = cell.guest
    size = guest.guest.ram_size
    guest.touch_memory(size * 7 // 16)
    total = guest.memory()
    assert guest.resident_memory() > size * 13 // 32
    guest.set_memory(size // 2)
    assert guest.memory() == total - size // 2
    assert guest.memory("MemFree") < size // 2
    guest.set_memory(size * 3 // 8)
    assert guest.resident_memory() <= size * 3 // 8
    guest.set_memory(size)
    assert guest.memory() == total


def test_kernel_log_has_no_fault(cell: Cell) -> None:
    assert cell.guest.trouble() == []


def test_devices_work_again_after_a_reboot_from_inside(cell: Cell) -> None:
    guest = cell.guest
    guest.reboot()
    guest.get_address()
    guest.ping()
    with cell.mounted():
        guest.verify("/mnt/known", KNOWN_SIZE, KNOWN_SEED)
    send_to_port(guest)
    receive_from_port(guest)
    assert guest.random_numbers() != guest.random_numbers()
    guest.set_memory(guest.guest.ram_size * 3 // 4)
    assert guest.trouble() == []


def test_host_finds_on_the_image_what_the_guest_wrote(cell: Cell) -> None:
    with cell.mounted() as guest:
        guest.make_data("/mnt/written", 16 * MIB, RANDOM_SEED)
        digest = guest.sha256("/mnt/written")
    guest.power_off()
    guest.machine.close()  # lets go of the image
    check_ext4(cell.disk)
    assert hashlib.sha256(read_ext4(cell.disk, "written")).hexdigest() == digest
    assert read_ext4(cell.disk, "known") == pattern(KNOWN_SIZE, KNOWN_SEED)
