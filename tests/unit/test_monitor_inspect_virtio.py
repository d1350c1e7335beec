"""QEMU's x-query-virtio family and info virtio, on queues of every kind in guest RAM."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from devices.virtio.constants import Feature, Status
from devices.virtio.device import VirtioDevice
from emu.machine import Machine
from emu.memory.endian import GuestEndian
from emu.monitor.hmp import execute
from emu.monitor.registry import COMMANDS, QmpError
from emu.options import parse_command_line

DESC, AVAIL, USED, TABLE = 0x10000, 0x11000, 0x12000, 0x13000
PATH = "/machine/peripheral/r/virtio-backend"
BALLOON = "/machine/peripheral-anon/device[0]/virtio-backend"
NEXT, WRITE, INDIRECT = 1, 2, 4


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    image = tmp_path / "spin.bin"
    image.write_bytes(bytes(0x100) + bytes.fromhex("48000000"))  # b .
    argv = ["-m", "256M", "-nodefaults", "-S", "-bios", str(image)]
    argv += ["-device", "virtio-rng-pci,id=r", "-device", "virtio-balloon-pci"]
    with Machine(parse_command_line(argv)) as machine:
        machine.start()
        yield machine


def ask(machine: Machine, name: str, **arguments: Any) -> Any:
    entry = COMMANDS[name]
    return entry.handler(machine, entry.check(arguments))


def set_up(machine: Machine, order: str = "<", *, packed: bool = False) -> VirtioDevice:
    """Queue 0 of the generator in RAM, as a driver would place it."""
    device = machine.devices["r"]
    device.latched_endian = GuestEndian.LITTLE if order == "<" else GuestEndian.BIG
    device.features = Feature.RING_PACKED.mask | Feature.VERSION_1.mask if packed else 0
    device.status = Status.ACKNOWLEDGE | Status.DRIVER | Status.DRIVER_OK
    queue = device.queues[0]
    queue.place(DESC, AVAIL, USED)
    device.enable_queue(queue)
    return device


def put(machine: Machine, address: int, form: str, *values: int) -> None:
    machine.board.dma.write(address, struct.pack(form, *values))


def test_devices_have_qemus_paths(machine: Machine) -> None:
    assert ask(machine, "x-query-virtio") == [
        {"path": PATH, "name": "virtio-rng"},
        {"path": BALLOON, "name": "virtio-balloon"},
    ]
    assert execute(machine, "info virtio").splitlines() == [
        f"{PATH} [virtio-rng]",
        f"{BALLOON} [virtio-balloon]",
    ]


def test_status_shows_features_and_byte_order(machine: Machine) -> None:
    device = set_up(machine, ">")
    device.features = Feature.RING_EVENT_IDX.mask
    status = ask(machine, "x-query-virtio-status", path=PATH)
    assert status["device-endian"] == "big"
    assert status["device-id"] == 4
    assert status["num-vqs"] == 1
    assert status["guest-features"]["transports"] == ["VIRTIO_RING_F_EVENT_IDX"]
    assert "VIRTIO_F_VERSION_1" in status["host-features"]["transports"]
    assert status["status"]["statuses"] == [
        "VIRTIO_CONFIG_S_ACKNOWLEDGE",
        "VIRTIO_CONFIG_S_DRIVER",
        "VIRTIO_CONFIG_S_DRIVER_OK",
    ]
    assert (status["started"], status["broken"], status["vm-running"]) == (True, False, False)
    device.fail("test")
    assert ask(machine, "x-query-virtio-status", path=PATH)["broken"]
    text = execute(machine, "info virtio-status r")
    assert "device_endian:  big" in text
    assert "broken:  true" in text


def test_device_features_have_names(machine: Machine) -> None:
    status = ask(machine, "x-query-virtio-status", path=BALLOON)
    assert "VIRTIO_BALLOON_F_STATS_VQ" in status["host-features"]["dev-features"]
    assert "unknown-dev-features" not in status["host-features"]


def test_queue_status_is_that_of_the_device(machine: Machine) -> None:
    device = set_up(machine)
    record = device.queues[0].record
    record["last_avail"], record["used_idx"], record["inuse"] = 7, 5, 2
    status = ask(machine, "x-query-virtio-queue-status", path=PATH, queue=0)
    assert status["vring-desc"] == DESC
    assert (status["vring-avail"], status["vring-used"]) == (AVAIL, USED)
    assert (status["last-avail-idx"], status["used-idx"], status["inuse"]) == (7, 5, 2)
    assert status["vring-num"] == device.queues[0].size
    assert status["vring-align"] == 4096
    text = execute(machine, f"info virtio-queue-status {PATH} 0")
    assert "  vring_desc: 0x0000000000010000" in text.splitlines()
    assert "  last_avail_idx: 7" in text.splitlines()


@pytest.mark.parametrize("order", ["<", ">"])
def test_elements_are_read_in_the_devices_order(machine: Machine, order: str) -> None:
    device = set_up(machine, order)
    device.queues[0].record["last_avail"] = 1
    put(machine, AVAIL, order + "HHHH", 1, 2, 9, 3)  # entry 1 is descriptor 3
    put(machine, USED, order + "HH", 0, 1)
    put(machine, DESC + 16 * 3, order + "QIHH", 0x5000, 64, NEXT, 6)
    put(machine, DESC + 16 * 6, order + "QIHH", 0x6000, 128, WRITE, 0)
    element = ask(machine, "x-query-virtio-queue-element", path=PATH, queue=0)
    assert element == {
        "name": "virtio-rng",
        "index": 3,
        "descs": [
            {"addr": 0x5000, "len": 64, "flags": ["next"]},
            {"addr": 0x6000, "len": 128, "flags": ["write"]},
        ],
        "avail": {"flags": 1, "idx": 2, "ring": 3},
        "used": {"flags": 0, "idx": 1},
    }
    assert ask(machine, "x-query-virtio-queue-element", path="r", queue=0, index=0)["index"] == 9
    text = execute(machine, "info virtio-queue-element r 0 1")
    assert "    addr 0x5000 len 64 (next)" in text
    assert "  avail: flags 1 idx 2 ring 3" in text


def test_indirect_tables_are_shown(machine: Machine) -> None:
    set_up(machine)
    put(machine, AVAIL, "<HHH", 0, 1, 0)
    put(machine, DESC, "<QIHH", TABLE, 32, INDIRECT, 0)
    put(machine, TABLE, "<QIHH", 0x7000, 1, NEXT, 1)
    put(machine, TABLE + 16, "<QIHH", 0x8000, 2, WRITE, 0)
    element = ask(machine, "x-query-virtio-queue-element", path=PATH, queue=0)
    assert [(desc["addr"], desc["len"]) for desc in element["descs"]] == [(0x7000, 1), (0x8000, 2)]


def test_packed_rings_are_read(machine: Machine) -> None:
    set_up(machine, packed=True)
    put(machine, DESC, "<QIHH", 0x5000, 64, 5, NEXT | 1 << 7)
    put(machine, DESC + 16, "<QIHH", 0x6000, 65, 5, WRITE | 1 << 7)
    element = ask(machine, "x-query-virtio-queue-element", path=PATH, queue=0)
    assert element["descs"] == [
        {"addr": 0x5000, "len": 64, "flags": ["next", "avail"]},
        {"addr": 0x6000, "len": 65, "flags": ["write", "avail"]},
    ]


def test_circles_end(machine: Machine) -> None:
    device = set_up(machine)
    put(machine, AVAIL, "<HHH", 0, 1, 0)
    put(machine, DESC, "<QIHH", 1, 1, NEXT, 1)
    put(machine, DESC + 16, "<QIHH", 2, 1, NEXT, 0)
    element = ask(machine, "x-query-virtio-queue-element", path=PATH, queue=0)
    assert len(element["descs"]) == device.queues[0].size
    put(machine, DESC, "<QIHH", TABLE, 1 << 31, INDIRECT, 0)
    put(machine, TABLE, "<QIHH", 1, 1, NEXT, 0)
    element = ask(machine, "x-query-virtio-queue-element", path=PATH, queue=0)
    assert len(element["descs"]) == 1024


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("status", {"path": "/machine"}, "is not a VirtIODevice"),
        ("queue-status", {"path": PATH, "queue": 1}, "Invalid virtqueue number 1"),
        ("queue-status", {"path": PATH, "queue": -1}, "Invalid virtqueue number -1"),
        ("queue-element", {"path": PATH, "queue": 0}, "not set up"),
        ("queue-element", {"path": PATH, "queue": 0, "index": 1 << 16}, "16-bit"),
        ("queue-status", {"path": PATH}, "Parameter 'queue' is missing"),
    ],
)
def test_mistakes_are_told(
    machine: Machine, name: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(QmpError, match=message):
        ask(machine, f"x-query-virtio-{name}", **arguments)


@pytest.mark.parametrize(
    "line",
    ["info virtio x", "info virtio-status", "info virtio-status nobody",
     "info virtio-queue-status r", "info virtio-queue-status r x",
     "info virtio-queue-element r 0 70000", "info virtio-queue-element r 9"],
)  # fmt: skip
def test_mistakes_in_the_human_monitor_are_one_line(machine: Machine, line: str) -> None:
    answer = execute(machine, line)
    assert answer.startswith("Error: ")
    assert "\n" not in answer


@pytest.mark.parametrize("packed", [False, True])
def test_rings_of_anything_are_survived(machine: Machine, packed: bool) -> None:
    device = set_up(machine, packed=packed)
    queue = device.queues[0]
    rng = random.Random(2)
    for _ in range(300):
        machine.board.dma.write(DESC, rng.randbytes(0x4000))
        for name in ("desc", "driver", "device"):
            queue.record[name] = rng.choice(
                [DESC, AVAIL, USED, rng.getrandbits(64), (256 << 20) - 2]
            )
        try:
            element = ask(machine, "x-query-virtio-queue-element", path=PATH, queue=0)
        except QmpError as error:
            assert "cannot be read" in str(error)  # noqa: PT017 (either is fine)
        else:
            assert len(element["descs"]) <= 1024
