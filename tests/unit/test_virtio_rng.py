"""Virtio entropy device: bytes arrive, in time, within quota, and hostile buffers do no harm."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from devices.virtio.constants import Status
from devices.virtio.rng import MAX_REQUEST, RngOptions, VirtioRng
from emu.chardev.config import ConfigError
from emu.memory.endian import GuestEndian
from tests.unit.virtio_mock import KIND_NAMES, KINDS, MockDriver, MockHost


@pytest.fixture
def host() -> Iterator[MockHost]:
    with MockHost() as host:
        yield host


def make(
    host: MockHost,
    kind: tuple[GuestEndian, bool] = KINDS[0],
    *,
    max_bytes: int = (1 << 63) - 1,
    period: int = 1 << 16,
    filename: str | None = None,
) -> MockDriver:
    options = RngOptions(max_bytes=max_bytes, period=period, filename=filename)
    return MockDriver(host, VirtioRng("rng0", host, options), *kind)


def wait_posted(host: MockHost, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not host.posted:
        assert time.monotonic() < deadline, "nothing was posted"
        time.sleep(0.002)
    host.run()


@pytest.mark.parametrize("kind", KINDS, ids=KIND_NAMES)
def test_buffers_are_filled_with_random_bytes(
    host: MockHost, kind: tuple[GuestEndian, bool]
) -> None:
    driver = make(host, kind)
    queue = driver.queues[0]
    assert queue.size == 8
    queue.add(writable=32)
    queue.add(writable=64)
    queue.kick()
    first, second = queue.data()
    assert (len(first), len(second)) == (32, 64)
    assert first != bytes(32)
    assert first != second[:32]
    assert driver.transport.queue_interrupts


def test_huge_buffers_get_a_bounded_number_of_bytes(host: MockHost) -> None:
    queue = make(host).queues[0]
    queue.send(writable=1 << 20)
    ((_, written),) = queue.take()
    assert written == MAX_REQUEST


def test_quota_stops_and_the_next_period_goes_on(host: MockHost) -> None:
    queue = make(host, max_bytes=48, period=20).queues[0]
    queue.add(writable=32)
    queue.add(writable=32)
    queue.add(writable=32)
    queue.kick()
    assert [written for _, written in queue.take()] == [32, 16]
    queue.kick()
    assert not queue.take()
    wait_posted(host)
    assert [written for _, written in queue.take()] == [32]


def test_quota_survives_a_reset(host: MockHost) -> None:
    driver = make(host, max_bytes=16, period=60_000)
    driver.queues[0].send(writable=16)
    again = MockDriver(host, driver.device, GuestEndian.LITTLE, False)
    again.queues[0].send(writable=16)
    assert not again.queues[0].take()
    driver.device.close()


def test_no_quota_at_all_gives_nothing(host: MockHost) -> None:
    queue = make(host, max_bytes=0).queues[0]
    queue.send(writable=16)
    assert not queue.take()


def test_bytes_come_from_the_file(host: MockHost, tmp_path: Path) -> None:
    path = tmp_path / "entropy"
    path.write_bytes(bytes(range(64)))
    queue = make(host, filename=str(path)).queues[0]
    queue.add(writable=40)
    queue.add(writable=40)
    queue.add(writable=40)
    queue.kick()
    assert queue.data() == [bytes(range(40)), bytes(range(40, 64))]


def test_file_at_its_end_is_tried_again(
    host: MockHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("devices.virtio.entropy._RETRY_SECONDS", 0.01)
    path = tmp_path / "entropy"
    path.write_bytes(b"")
    queue = make(host, filename=str(path)).queues[0]
    queue.send(writable=8)
    assert not queue.take()
    path.write_bytes(b"12345678")
    deadline = time.monotonic() + 10
    data: list[bytes] = []
    while not data and time.monotonic() < deadline:
        wait_posted(host)
        data = queue.data()
    assert data == [b"12345678"]


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[tuple[str, int]]:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    yield str(path), fd
    os.close(fd)


def test_slow_source_does_not_block_and_is_waited_for(
    host: MockHost, pipe: tuple[str, int]
) -> None:
    path, fd = pipe
    driver = make(host, filename=path)
    queue = driver.queues[0]
    queue.send(writable=8)
    queue.kick()
    assert not queue.take()
    os.write(fd, b"entropy!")
    wait_posted(host)
    assert queue.data() == [b"entropy!"]
    driver.device.close()


def test_bytes_of_before_a_reset_reach_no_old_buffer(host: MockHost, pipe: tuple[str, int]) -> None:
    path, fd = pipe
    driver = make(host, filename=path)
    old = driver.queues[0]
    old.send(writable=8)
    again = MockDriver(host, driver.device, GuestEndian.LITTLE, True)
    os.write(fd, b"entropy!")
    wait_posted(host)
    assert not again.queues[0].take()
    again.queues[0].send(writable=8)
    assert again.queues[0].data() == [b"entropy!"]
    driver.device.close()


def test_buffer_without_room_is_returned_empty(host: MockHost) -> None:
    queue = make(host).queues[0]
    queue.add(readable=b"what is this")
    queue.add(writable=4)
    queue.kick()
    assert [written for _, written in queue.take()] == [0, 4]


@pytest.mark.parametrize("kind", KINDS, ids=KIND_NAMES)
def test_bad_ring_breaks_the_device_until_reset(
    host: MockHost, kind: tuple[GuestEndian, bool]
) -> None:
    driver = make(host, kind)
    driver.queues[0].send(writable=16, address=(1 << 63) + 5)
    assert driver.device.broken
    assert bool(driver.device.status & Status.NEEDS_RESET) == kind[1]
    again = MockDriver(host, driver.device, *kind)
    again.queues[0].send(writable=16)
    assert [written for _, written in again.queues[0].take()] == [16]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"period": 0}, "'period'"),
        ({"period": -5}, "'period'"),
        ({"max_bytes": -1}, "'max-bytes'"),
        ({"max_bytes": 1 << 63}, "'max-bytes'"),
    ],
)
def test_options_are_checked(options: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RngOptions(**options)  # type: ignore[arg-type]


def test_missing_file_is_one_clear_line(host: MockHost) -> None:
    with pytest.raises(ConfigError, match=r"could not open '/nonexistent/rng': No such file"):
        VirtioRng("rng0", host, RngOptions(filename="/nonexistent/rng"))
