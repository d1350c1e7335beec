"""Virtio block device: what workers do, in which order it comes back, faults and resets."""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from devices.block.image import Views
from devices.block.open import open_image
from devices.virtio.block import VirtioBlock
from devices.virtio.block_options import BlockFeature, BlockOptions
from devices.virtio.constants import Feature
from tests.support.block import MemoryImage, numbered
from tests.support.virtio import KINDS, FakeHost, MockDriver

IN, OUT, FLUSH = 0, 1, 4
OK, IOERR = 0, 1
FEATURES = BlockFeature.FLUSH.mask | BlockFeature.CONFIG_WCE.mask | Feature.VERSION_1.mask


class Disk:
    """A device on an image in memory."""

    def __init__(self, image: MemoryImage) -> None:
        self.host = FakeHost()
        self.image = image
        self.device = VirtioBlock("disk", self.host, BlockOptions(), image)
        self.driver = MockDriver(self.device, KINDS[0][0], FEATURES)
        self.driver.setup()

    def read(self, sector: int, size: int = 512) -> int:
        return self.driver.submit(0, [self.driver.pack("IIQ", IN, 0, sector)], [size, 1])

    def write(self, sector: int, data: bytes = bytes(512)) -> int:
        return self.driver.submit(0, [self.driver.pack("IIQ", OUT, 0, sector), data], [1])

    def flush(self) -> int:
        return self.driver.submit(0, [self.driver.pack("IIQ", FLUSH, 0, 0)], [1])

    def wait_arrived(self, count: int) -> None:
        self.host.run_until(lambda: len(self.image.arrived) >= count)

    def statuses(self, count: int) -> dict[int, int]:
        """Status bytes of the next requests that come back, by token."""
        return {token: data[-1] for token, _, data in self.driver.wait_used(0, count)}


@pytest.fixture
def disk() -> Iterator[Disk]:
    disk = Disk(MemoryImage())
    yield disk
    disk.image.gate.set()
    disk.device.close()
    assert disk.image.closed
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("disk-")]


def test_the_notification_does_not_wait_for_the_disk(disk: Disk) -> None:
    disk.image.gate.clear()
    start = time.monotonic()
    tokens = [disk.read(0), disk.write(1), disk.flush(), disk.write(0, bytes(512 * 1024))]
    assert time.monotonic() - start < 2.0
    assert not disk.driver.used(0)
    disk.image.gate.set()
    assert disk.statuses(4) == dict.fromkeys(tokens, OK)
    assert not disk.device.flight.requests


def test_a_slow_request_does_not_hold_up_the_others(disk: Disk) -> None:
    slow = threading.Event()
    plain = disk.image.preadv

    def preadv(views: list[memoryview], offset: int) -> None:
        if offset == 0:
            assert slow.wait(20)
        plain(views, offset)

    disk.image.preadv = preadv  # type: ignore[method-assign, assignment]
    first = disk.read(0)
    others = [disk.read(n) for n in (1, 2, 3)]
    assert disk.statuses(3) == dict.fromkeys(others, OK)
    slow.set()
    assert disk.statuses(1) == {first: OK}


def test_what_is_done_together_is_posted_and_pushed_once(disk: Disk) -> None:
    disk.image.gate.clear()
    tokens = [disk.read(n) for n in range(3)]
    disk.wait_arrived(3)
    disk.image.gate.set()
    deadline = time.monotonic() + 20
    while disk.device.flight._workers._done.qsize() < 3:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(0.02)
    assert len(disk.host.posted) == 1
    disk.host.run_posted()
    assert {token for token, _, _ in disk.driver.used(0)} == set(tokens)
    assert disk.driver.transport.queue_interrupts == [0]


def test_a_flush_waits_for_the_writes_before_it_only(disk: Disk) -> None:
    disk.image.gate.clear()
    before = [disk.write(0), disk.write(1)]
    flush = disk.flush()
    after = disk.write(2)
    disk.wait_arrived(3)
    assert "flush" not in disk.image.arrived
    disk.image.gate.set()
    assert disk.statuses(4) == dict.fromkeys([*before, flush, after], OK)
    assert disk.image.log.index("flush") >= 2


def test_two_flushes_behind_one_write(disk: Disk) -> None:
    disk.image.gate.clear()
    write, flushes = disk.write(0), [disk.flush(), disk.flush()]
    disk.wait_arrived(1)
    disk.image.gate.set()
    assert disk.statuses(3) == dict.fromkeys([write, *flushes], OK)
    assert disk.image.log == ["write", "flush", "flush"]


def test_a_flush_does_not_wait_for_reads(disk: Disk) -> None:
    disk.image.gate.clear()
    disk.read(0)
    disk.flush()
    disk.wait_arrived(2)
    assert sorted(disk.image.arrived) == ["flush", "read"]


FAULTS = [
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.ENOSPC, "No space left on device"),
    ValueError("a mistake in the image"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=["EIO", "ENOSPC", "ValueError"])
def test_a_host_error_reaches_the_guest_and_is_logged_once(
    disk: Disk, fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    disk.image.fault = fault
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            tokens = [disk.read(0), disk.write(0), disk.flush()]
            assert disk.statuses(3) == dict.fromkeys(tokens, IOERR)
    assert len(caplog.records) == 3
    for what in ("read", "write", "flush"):
        assert caplog.text.count(f"{what} of 'memory' failed") == 1
    disk.image.fault = None
    token = disk.read(0)
    assert disk.statuses(1) == {token: OK}


def test_a_reset_waits_for_what_writes_into_guest_memory(disk: Disk) -> None:
    disk.image.data[:512] = b"\xaa" * 512
    disk.image.gate.clear()
    disk.read(0)
    disk.wait_arrived(1)
    threading.Timer(0.1, disk.image.gate.set).start()
    disk.device.set_status(0)
    assert disk.image.log == ["read"]
    assert not disk.device.flight.requests
    ram = disk.host.ram.memory.tobytes()
    time.sleep(0.05)
    disk.host.run_posted()
    assert disk.host.ram.memory.tobytes() == ram
    assert not disk.driver.transport.queue_interrupts


def test_requests_of_before_a_reset_do_not_come_back_after_it(disk: Disk) -> None:
    disk.image.gate.clear()
    disk.write(0)
    disk.flush()
    disk.read(1)
    disk.wait_arrived(2)
    threading.Timer(0.05, disk.image.gate.set).start()
    disk.driver.setup()
    token = disk.read(0)
    assert disk.statuses(1) == {token: OK}
    disk.host.run_posted()
    assert not disk.driver.used(0)
    assert sorted(disk.image.log) == ["flush", "read", "read", "write"]


def test_drain_returns_everything(disk: Disk) -> None:
    disk.image.gate.clear()
    tokens = [disk.write(0), disk.flush(), disk.read(1)]
    threading.Timer(0.05, disk.image.gate.set).start()
    disk.device.drain()
    assert not disk.device.flight.requests
    assert {token for token, _, _ in disk.driver.used(0)} == set(tokens)


def test_a_queue_reset_completes_its_requests(disk: Disk) -> None:
    disk.image.gate.clear()
    disk.read(0)
    threading.Timer(0.05, disk.image.gate.set).start()
    disk.device.reset_queue(disk.device.queues[0])
    assert not disk.device.flight.requests
    assert not disk.device.queues[0].enabled


def test_a_device_that_broke_drops_late_results(disk: Disk) -> None:
    disk.image.gate.clear()
    disk.read(0)
    disk.driver.submit(0, [bytes(3)], [1])
    assert disk.device.broken
    disk.image.gate.set()
    disk.host.run_until(lambda: not disk.device.flight.requests)
    assert not disk.driver.used(0)


def test_large_writes_come_back_in_the_notification_if_they_are_quick(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(bytes(2 << 20))
    host = FakeHost()
    image = open_image(str(path))
    device = VirtioBlock("disk", host, BlockOptions(), image)
    device.record["write_nowait"] = 0  # as on a file system that has no such writes
    driver = MockDriver(device, KINDS[0][0], FEATURES)
    driver.setup()
    device.record["write_nowait"] = 0
    workers, plain_write = device.flight._workers, image.pwritev
    plain = workers.wait  # however slow the host is now
    workers.wait = lambda seconds=None: plain(20.0)  # type: ignore[method-assign]

    def pwritev(views: Views, offset: int, *, durable: bool = False) -> None:
        while not workers._waiting:  # nor quicker than the notification
            time.sleep(0.001)
        plain_write(views, offset, durable=durable)

    image.pwritev = pwritev  # type: ignore[method-assign]
    token = driver.submit(0, [driver.pack("IIQ", OUT, 0, 0), b"\x55" * (1 << 20)], [1])
    assert [(used, data) for used, _, data in driver.used(0)] == [(token, b"\0")]
    assert not host.posted
    device.close()


def test_reads_of_the_page_cache_are_done_in_the_notification(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(numbered(64))
    host = FakeHost()
    device = VirtioBlock("disk", host, BlockOptions(), open_image(str(path)))
    if not _has_nowait(path):
        pytest.skip("this file system has no RWF_NOWAIT")
    driver = MockDriver(device, KINDS[0][0], FEATURES)
    driver.setup()
    driver.submit(0, [driver.pack("IIQ", IN, 0, 4)], [512, 1])
    assert [data for _, _, data in driver.used(0)] == [numbered(5)[2048:] + b"\0"]
    assert not device.flight._workers._threads
    device.close()


def _has_nowait(path: Path) -> bool:
    with open(path, "rb") as file:
        try:
            return os.preadv(file.fileno(), [bytearray(512)], 0, os.RWF_NOWAIT) == 512
        except OSError:
            return False


def test_a_file_system_without_nowait_is_remembered() -> None:
    path = Path("/dev/shm/ppc64emu-test-disk")
    if not path.parent.is_dir():
        pytest.skip("no tmpfs")
    path.write_bytes(numbered(64))
    try:
        host = FakeHost()
        device = VirtioBlock("disk", host, BlockOptions(), open_image(str(path)))
        if _has_nowait(path):
            pytest.skip("tmpfs has RWF_NOWAIT here")
        driver = MockDriver(device, KINDS[0][0], FEATURES)
        driver.setup()
        driver.submit(0, [driver.pack("IIQ", IN, 0, 4)], [512, 1])
        assert driver.wait_used(0)[0][2] == numbered(5)[2048:] + b"\0"
        assert device.record["read_nowait"] == 0
        device.close()
    finally:
        path.unlink()


def test_an_image_that_became_shorter_reads_as_zeroes(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(numbered(64))
    host = FakeHost()
    device = VirtioBlock("disk", host, BlockOptions(), open_image(str(path)))
    driver = MockDriver(device, KINDS[0][0], FEATURES)
    driver.setup()
    with open(path, "r+b") as file:
        file.truncate(512 * 8)
    driver.submit(0, [driver.pack("IIQ", IN, 0, 7)], [1024, 1])
    assert driver.wait_used(0)[0][2] == numbered(8)[7 * 512 :] + bytes(513)
    device.close()
