"""Linux's virtio_mmio driver on the pseries machine, which has slots for such devices."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.boot.guests import Guest
from tests.boot.virtio_guest import MIB, VERSION_1, VirtioGuest, pattern

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]
SIZE = 8 * MIB


def slot_options(disk: Path, legacy: bool) -> list[str]:
    """The devices of a test on virtio-mmio slots."""
    return [
        *("-global", f"virtio-mmio.force-legacy={str(legacy).lower()}"),
        *("-drive", f"file={disk},if=none,id=disk,format=raw"),
        *("-device", "virtio-blk-device,drive=disk"),
        *("-netdev", "user,id=net", "-device", "virtio-net-device,netdev=net"),
        *("-device", "virtio-rng-device"),
        *("-device", "virtio-balloon-device,id=balloon"),
        *("-device", "virtio-serial-device", "-chardev", "ringbuf,id=port,size=4M"),
        *("-device", "virtserialport,chardev=port,name=org.test"),
    ]


def device_numbers(guest: VirtioGuest) -> dict[str, int]:
    """Numbers of the virtio devices by the name of their driver."""
    numbers = {}
    for number in range(5):
        uevent = guest.run(f"cat /sys/bus/virtio/devices/virtio{number}/uevent")
        numbers[uevent.partition("DRIVER=")[2].partition("\n")[0]] = number
    return numbers


@pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "modern"])
@pytest.mark.parametrize("name", ["le", "be"])
def test_linux_drives_all_devices_on_virtio_mmio_slots(
    name: str, legacy: bool, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    image: Guest = request.getfixturevalue(name)
    disk = tmp_path / "disk.img"
    disk.write_bytes(pattern(SIZE, 1))
    with VirtioGuest(image, slot_options(disk, legacy)) as guest:
        numbers = device_numbers(guest)
        assert set(numbers) == {
            f"virtio_{kind}" for kind in ("blk", "net", "rng", "balloon", "console")
        }
        for number in numbers.values():
            assert guest.features(number)[VERSION_1] == ("0" if legacy else "1")
        guest.verify("/dev/vda", SIZE, 1)
        guest.make_data("/dev/vda", SIZE, 2)
        digest = guest.sha256("/dev/vda")
        guest.drop_caches()
        assert guest.sha256("/dev/vda") == digest
        guest.set_address()
        guest.ping()
        guest.chardev("port").send(pattern(MIB, 3))
        guest.verify(f"/dev/vport{numbers['virtio_console']}p1", MIB, 3)
        assert guest.random_numbers() != guest.random_numbers()
        guest.set_memory(image.ram_size // 2)
        assert guest.trouble() == []
        guest.power_off()
