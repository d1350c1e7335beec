"""Virtio balloon: pages go back to the host, sizes and statistics are right in both orders."""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.virtio.balloon import (
    DEFLATE,
    F_DEFLATE_ON_OOM,
    F_PAGE_POISON,
    F_REPORTING,
    F_STATS_VQ,
    INFLATE,
    MAX_PFN_BYTES,
    PAGE_SIZE,
    REPORTING,
    STATS,
    BalloonOptions,
    VirtioBalloon,
)
from devices.virtio.balloon_stats import StatsError
from emu.chardev.config import ConfigError
from emu.memory.dma import DmaError
from emu.memory.endian import GuestEndian
from tests.unit.virtio_mock import KIND_NAMES, KINDS, RAM_SIZE, MockDriver, MockHost

RAM_PAGES = RAM_SIZE // PAGE_SIZE
TOP = RAM_PAGES // 2  # the mock driver's own memory is below
Kind = tuple[GuestEndian, bool]


@pytest.fixture
def host() -> Iterator[MockHost]:
    with MockHost() as host:
        yield host


def make(
    host: MockHost, kind: Kind = KINDS[0], features: int = 1 << F_STATS_VQ, **options: int
) -> MockDriver:
    device = VirtioBalloon("balloon0", host, BalloonOptions(**options))  # type: ignore[arg-type]
    return MockDriver(host, device, *kind, features=features)


def balloon(driver: MockDriver) -> VirtioBalloon:
    assert isinstance(driver.device, VirtioBalloon)
    return driver.device


def fill(host: MockHost) -> None:
    """Something that is not zero in the upper half of RAM."""
    host.ram.view[TOP * PAGE_SIZE :] = 0xA5


def lost_pages(host: MockHost) -> list[int]:
    """Pages of the upper half that are zero now."""
    pages = host.ram.view[TOP * PAGE_SIZE :].reshape(-1, PAGE_SIZE)
    return [TOP + page for page in range(len(pages)) if not pages[page].any()]


def inflate(driver: MockDriver, pfns: list[int]) -> None:
    queue = driver.queues[INFLATE]
    queue.send(queue.pack(f"{len(pfns)}I", *pfns))


# RAM


def test_discard_zeroes_whole_host_pages_only(host: MockHost) -> None:
    fill(host)
    start = TOP * PAGE_SIZE
    assert host.dma.discard(start + 1, 3 * mmap.PAGESIZE) == 2 * mmap.PAGESIZE
    assert host.writes == [(start + mmap.PAGESIZE, 2 * mmap.PAGESIZE)]
    zeros = host.ram.read(start, 4 * mmap.PAGESIZE)
    assert zeros[: mmap.PAGESIZE] == b"\xa5" * mmap.PAGESIZE
    assert zeros[mmap.PAGESIZE : 3 * mmap.PAGESIZE] == bytes(2 * mmap.PAGESIZE)
    assert zeros[3 * mmap.PAGESIZE :] == b"\xa5" * mmap.PAGESIZE


def test_discard_of_less_than_a_page_does_nothing(host: MockHost) -> None:
    assert host.dma.discard(TOP * PAGE_SIZE + 8, mmap.PAGESIZE) == 0
    assert host.dma.discard(TOP * PAGE_SIZE, 0) == 0
    assert not host.writes


@pytest.mark.parametrize("address", [RAM_SIZE, -PAGE_SIZE, RAM_SIZE - PAGE_SIZE + 1])
def test_discard_outside_ram_is_refused(host: MockHost, address: int) -> None:
    with pytest.raises(DmaError):
        host.dma.discard(address, PAGE_SIZE)


# Pages


@pytest.mark.parametrize("kind", KINDS, ids=KIND_NAMES)
def test_inflated_pages_are_given_back(host: MockHost, kind: Kind) -> None:
    driver = make(host, kind)
    fill(host)
    pages = [TOP + 5, TOP + 3, TOP + 4, TOP + 100, TOP + 5]
    inflate(driver, pages)
    assert lost_pages(host) == [TOP + 3, TOP + 4, TOP + 5, TOP + 100]
    assert [written for _, written in driver.queues[INFLATE].take()] == [0]


def test_neighbouring_pages_are_given_back_in_one_go(host: MockHost) -> None:
    driver = make(host)
    fill(host)
    host.writes.clear()
    inflate(driver, [*range(TOP + 15, TOP - 1, -1), TOP + 32])
    discards = [write for write in host.writes if write[0] >= TOP * PAGE_SIZE]
    assert discards == [(TOP * PAGE_SIZE, 16 * PAGE_SIZE), ((TOP + 32) * PAGE_SIZE, PAGE_SIZE)]


def test_larger_host_pages_are_given_back_only_as_a_whole(
    host: MockHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = make(host)
    fill(host)
    monkeypatch.setattr(mmap, "PAGESIZE", 64 * 1024)
    inflate(driver, [*range(TOP + 8, TOP + 40), TOP + 50])
    assert lost_pages(host) == list(range(TOP + 16, TOP + 32))


def test_deflated_pages_stay_as_they_are(host: MockHost) -> None:
    driver = make(host)
    fill(host)
    queue = driver.queues[DEFLATE]
    queue.send(queue.pack("I", TOP))
    assert not lost_pages(host)
    assert len(queue.take()) == 1


@pytest.mark.parametrize("kind", KINDS, ids=KIND_NAMES)
def test_pages_outside_ram_are_ignored(host: MockHost, kind: Kind) -> None:
    driver = make(host, kind)
    fill(host)
    inflate(driver, [RAM_PAGES, 0xFFFFFFFF, TOP + 1, 0x80000000, 1 << 20])
    assert lost_pages(host) == [TOP + 1]
    assert not driver.device.broken


def test_too_many_page_numbers_are_cut(host: MockHost) -> None:
    driver = make(host)
    fill(host)
    count = MAX_PFN_BYTES // 4
    inflate(driver, [TOP] * count + [TOP + 1])
    assert lost_pages(host) == [TOP]


@given(data=st.binary(max_size=64), writable=st.integers(0, 64), queue=st.integers(0, 3))
def test_any_bytes_on_any_queue_do_no_harm(data: bytes, writable: int, queue: int) -> None:
    host = MockHost()
    driver = make(host, features=1 << F_STATS_VQ | 1 << F_REPORTING, free_page_reporting=True)
    if not data and not writable:
        return
    driver.queues[queue].send(data, writable)
    assert not driver.device.broken


# Free page reporting


@pytest.mark.parametrize("kind", KINDS, ids=KIND_NAMES)
def test_reported_pages_are_given_back(host: MockHost, kind: Kind) -> None:
    driver = make(host, kind, 1 << F_REPORTING, free_page_reporting=True)
    fill(host)
    start = (TOP + 16) * PAGE_SIZE
    driver.queues[REPORTING].send(writable=16 * PAGE_SIZE, address=start)
    assert lost_pages(host) == list(range(TOP + 16, TOP + 32))
    driver.queues[REPORTING].send(writable=2 * PAGE_SIZE, address=TOP * PAGE_SIZE + 4)
    assert lost_pages(host) == [TOP + 1, *range(TOP + 16, TOP + 32)]


def test_poisoned_pages_are_kept(host: MockHost) -> None:
    features = 1 << F_REPORTING | 1 << F_PAGE_POISON
    driver = make(host, KINDS[3], features, free_page_reporting=True)
    driver.write_config(12, struct.pack("<I", 0xAAAAAAAA))
    fill(host)
    driver.queues[REPORTING].send(writable=PAGE_SIZE, address=TOP * PAGE_SIZE)
    assert not lost_pages(host)
    assert len(driver.queues[REPORTING].take()) == 1
    again = MockDriver(host, driver.device, *KINDS[3], features=features)
    fill(host)
    again.queues[REPORTING].send(writable=PAGE_SIZE, address=TOP * PAGE_SIZE)
    assert lost_pages(host) == [TOP]


# Configuration space


@pytest.mark.parametrize("kind", KINDS, ids=KIND_NAMES)
def test_configuration_is_little_endian_for_everybody(host: MockHost, kind: Kind) -> None:
    driver = make(host, kind)
    device = balloon(driver)
    device.set_target(RAM_SIZE - 0x123 * PAGE_SIZE)
    host.run()
    assert driver.read_config(0, 4) == struct.pack("<I", 0x123)
    assert driver.transport.config_interrupts == 1
    driver.write_config(4, struct.pack("<I", 0x122))
    assert driver.read_config(0, 8) == struct.pack("<II", 0x123, 0x122)
    assert device.actual == RAM_SIZE - 0x122 * PAGE_SIZE


def test_size_written_byte_by_byte_arrives_whole(host: MockHost) -> None:
    sizes: list[int] = []
    device = VirtioBalloon("balloon0", host, BalloonOptions(), sizes.append)
    driver = MockDriver(host, device, *KINDS[0])
    for pages in (RAM_PAGES, RAM_PAGES - 1, 0xFF):
        for position, byte in enumerate(struct.pack("<I", pages)):
            driver.write_config(4 + position, bytes([byte]))
        assert device.actual == RAM_SIZE - pages * PAGE_SIZE
        assert sizes[-1] == device.actual


def test_balloon_larger_than_ram_leaves_nothing(host: MockHost) -> None:
    driver = make(host)
    driver.write_config(4, b"\xff" * 4)
    assert balloon(driver).actual == 0


@pytest.mark.parametrize(
    ("offset", "data"), [(0, b"\xff" * 4), (8, b"\x01" * 4), (16, b"x"), (4000, b"y" * 8), (6, b"")]
)
def test_other_writes_change_nothing(host: MockHost, offset: int, data: bytes) -> None:
    driver = make(host)
    before = driver.read_config(0, 16)
    driver.write_config(offset, data)
    assert driver.read_config(0, 16) == before


def test_targets_are_clamped_and_checked(host: MockHost) -> None:
    driver = make(host)
    device = balloon(driver)
    device.set_target(RAM_SIZE // 2)
    device.set_target(RAM_SIZE * 2)
    host.run()
    assert device.num_pages == 0
    with pytest.raises(ValueError, match="positive"):
        device.set_target(0)


def test_same_target_does_not_interrupt_again(host: MockHost) -> None:
    driver = make(host)
    for _ in range(2):
        balloon(driver).set_target(RAM_SIZE // 2)
        host.run()
    assert driver.transport.config_interrupts == 1


def test_reset_keeps_the_target_and_empties_the_balloon(host: MockHost) -> None:
    driver = make(host)
    balloon(driver).set_target(RAM_SIZE // 2)
    host.run()
    driver.write_config(4, struct.pack("<I", RAM_PAGES // 2))
    again = MockDriver(host, driver.device, GuestEndian.LITTLE, False)
    assert again.read_config(0, 8) == struct.pack("<II", RAM_PAGES // 2, 0)
    assert balloon(driver).actual == RAM_SIZE


def test_features_and_sizes_follow_the_options(host: MockHost) -> None:
    plain = VirtioBalloon("b", host, BalloonOptions(page_poison=False))
    assert plain.device_features == 1 << F_STATS_VQ
    assert len(plain.config_space(GuestEndian.LITTLE)) == 8
    assert len(plain.queues) == 3
    options = BalloonOptions(deflate_on_oom=True, free_page_reporting=True)
    full = VirtioBalloon("b", host, options)
    assert full.device_features == (
        1 << F_STATS_VQ | 1 << F_DEFLATE_ON_OOM | 1 << F_PAGE_POISON | 1 << F_REPORTING
    )
    assert len(full.config_space(GuestEndian.LITTLE)) == 16
    assert [queue.max_size for queue in full.queues] == [128] * 4
    with pytest.raises(ConfigError, match="polling-interval"):
        BalloonOptions(guest_stats_polling_interval=-1)


# Statistics


@pytest.mark.parametrize("kind", KINDS, ids=KIND_NAMES)
def test_statistics_arrive_when_asked_for(host: MockHost, kind: Kind) -> None:
    driver = make(host, kind)
    device, queue = balloon(driver), driver.queues[STATS]
    queue.send(queue.pack("HQ", 4, 1000))
    assert device.stats == {"stat-free-memory": 1000}
    assert not queue.take()  # kept until the host asks
    answer = device.request_stats()
    host.run()
    assert queue.take() == [(0, 0)]
    assert not answer.done()
    queue.send(queue.pack("HQ", 4, 900) + queue.pack("HQ", 5, 1 << 40) + queue.pack("HQ", 99, 1))
    assert answer.result(0) == {"stat-free-memory": 900, "stat-total-memory": 1 << 40}
    assert abs(device.stats_last_update - time.time()) < 60


def test_request_before_the_first_buffer_is_answered_by_it(host: MockHost) -> None:
    driver = make(host)
    answer = balloon(driver).request_stats()
    host.run()
    queue = driver.queues[STATS]
    queue.send(queue.pack("HQ", 0, 7))
    assert answer.result(0) == {"stat-swap-in": 7}


def test_truncated_statistics_are_cut(host: MockHost) -> None:
    driver = make(host)
    queue = driver.queues[STATS]
    queue.send(queue.pack("HQ", 0, 7) + b"\0\1\0")
    assert balloon(driver).stats == {"stat-swap-in": 7}


def test_second_statistics_buffer_gives_the_first_back(host: MockHost) -> None:
    driver = make(host)
    queue = driver.queues[STATS]
    heads = [queue.add(queue.pack("HQ", 0, value)) for value in (1, 2, 3)]
    queue.kick()
    assert [head for head, _ in queue.take()] == heads[:2]
    heads.append(queue.send(queue.pack("HQ", 0, 4)))
    assert [head for head, _ in queue.take()] == heads[2:3]
    assert balloon(driver).stats == {"stat-swap-in": 4}


def test_request_without_a_driver_fails(host: MockHost) -> None:
    driver = make(host, features=0)
    answer = balloon(driver).request_stats()
    host.run()
    with pytest.raises(StatsError, match="no balloon driver"):
        answer.result(0)


def test_reset_fails_requests_and_forgets_the_buffer(host: MockHost) -> None:
    driver = make(host)
    queue = driver.queues[STATS]
    queue.send(queue.pack("HQ", 0, 1))
    answer = balloon(driver).request_stats()
    host.run()
    queue.send(queue.pack("HQ", 0, 1))
    assert answer.result(0)
    waiting = balloon(driver).request_stats()
    host.run()
    again = MockDriver(host, driver.device, GuestEndian.LITTLE, False, 1 << F_STATS_VQ)
    with pytest.raises(StatsError, match="reset"):
        waiting.result(0)
    balloon(driver).request_stats()
    host.run()
    assert not again.queues[STATS].take()


def test_polling_asks_again_and_again(host: MockHost) -> None:
    driver = make(host, guest_stats_polling_interval=1)
    queue = driver.queues[STATS]
    for value in (1, 2):
        queue.send(queue.pack("HQ", 0, value))
        deadline = time.monotonic() + 20
        while not queue.take():
            assert time.monotonic() < deadline
            time.sleep(0.005)
            host.run()
    balloon(driver).close()
    assert balloon(driver).stats_polling_interval == 0
