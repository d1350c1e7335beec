"""virtio-mmio queues: sizes, placement, moving, reset, and buffers that go through."""

from __future__ import annotations

import logging

import pytest

from devices.virtio.constants import Feature
from devices.virtio.mmio import Register
from emu.memory.endian import GuestEndian
from tests.support.ring_driver import Areas, Buffer, SplitDriver
from tests.unit.virtio_mmio_tools import QUEUE_SIZE, Bench, both, orders


@pytest.fixture
def warnings(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    """What is logged; kinds that other tests have seen count anew."""
    monkeypatch.setattr("emu.log._seen", set())
    monkeypatch.setattr(logging.getLogger("ppc64emu"), "propagate", True)
    return caplog


@both
def test_queue_num_max_is_the_devices_own(legacy: bool) -> None:
    """CVE-2026-50626: a fixed 1024 let a driver choose more than there is."""
    bench = Bench(legacy=legacy)
    for index, expected in ((0, QUEUE_SIZE), (1, QUEUE_SIZE), (2, 0), (0xFFFFFFFF, 0)):
        bench.write(Register.QUEUE_SEL, index)
        assert bench.read(Register.QUEUE_NUM_MAX) == expected


@both
@pytest.mark.parametrize("value", [0, 3, QUEUE_SIZE + 1, 2 * QUEUE_SIZE, 0x80000000])
def test_bad_queue_sizes_are_ignored(
    legacy: bool, value: int, warnings: pytest.LogCaptureFixture
) -> None:
    bench = Bench(legacy=legacy)
    bench.start()
    bench.write(Register.QUEUE_SEL, 0)
    bench.write(Register.QUEUE_NUM, 16)
    bench.write(Register.QUEUE_NUM, value)
    assert "queue size" in warnings.text
    if legacy:
        bench.write(Register.QUEUE_PFN, 1)
    else:
        bench.write(Register.QUEUE_READY, 1)
    assert bench.device.queues[0].size == 16


def test_packed_ring_may_have_any_size() -> None:
    bench = Bench(legacy=False, features=Feature.RING_PACKED.mask)
    bench.start(Feature.RING_PACKED.mask)
    bench.place(0, Areas(), 3)
    assert bench.device.queues[0].size == 3


@pytest.mark.parametrize(
    ("size", "align", "used"),
    [
        (8, 4096, 0x3000),
        (2, 4, 0x2000 + 2 * 16 + 12),  # 2 * (3 + 2) = 10, up to a multiple of 4
        (8, 4, 0x2000 + 8 * 16 + 24),  # without used_event it would be 20
        (2, 8, 0x2000 + 48),
        (64, 16, 0x2000 + 64 * 16 + 144),
    ],
)
def test_legacy_ring_placement(size: int, align: int, used: int) -> None:
    bench = Bench(legacy=True)
    bench.start()
    bench.write(Register.QUEUE_NUM, size)
    bench.write(Register.QUEUE_ALIGN, align)
    bench.write(Register.QUEUE_PFN, 2)
    assert bench.read(Register.QUEUE_PFN) == 2
    record = bench.device.queues[0].record
    assert record["desc"] == 0x2000
    assert record["driver"] == 0x2000 + 16 * size
    assert record["device"] == used


@pytest.mark.parametrize("align", [0, 3, 4097, 0xFFFFFFFF])
def test_bad_alignment_is_ignored(align: int, warnings: pytest.LogCaptureFixture) -> None:
    bench = Bench(legacy=True)
    bench.start()
    bench.write(Register.QUEUE_ALIGN, align)
    bench.write(Register.QUEUE_PFN, 2)
    assert bench.device.queues[0].record["device"] == 0x3000
    assert "alignment" in warnings.text


@pytest.mark.parametrize("page_size", [0, 3, 4095, 0xFFFFFFFF])
def test_bad_guest_page_size_is_ignored(page_size: int, warnings: pytest.LogCaptureFixture) -> None:
    bench = Bench(legacy=True)
    bench.start()
    bench.write(Register.GUEST_PAGE_SIZE, page_size)
    bench.write(Register.QUEUE_PFN, 3)
    assert bench.device.queues[0].record["desc"] == 0x3000
    assert "page size" in warnings.text


def test_without_guest_page_size_the_pfn_is_an_address(
    warnings: pytest.LogCaptureFixture,
) -> None:
    bench = Bench(legacy=True)
    bench.write(Register.QUEUE_PFN, 0x5000)
    assert bench.device.queues[0].record["desc"] == 0x5000
    assert "GuestPageSize" in warnings.text


def test_guest_page_size_survives_the_drivers_reset_but_not_the_machines() -> None:
    """Linux writes it while it probes, and resets the device afterwards."""
    bench = Bench(legacy=True)
    bench.write(Register.GUEST_PAGE_SIZE, 65536)
    bench.write(Register.STATUS, 0)
    bench.write(Register.QUEUE_PFN, 1)
    assert bench.device.queues[0].record["desc"] == 65536
    bench.transport.reset()
    bench.write(Register.QUEUE_PFN, 1)
    assert bench.device.queues[0].record["desc"] == 1


@pytest.mark.parametrize("page_size", [1 << 12, 1 << 31])
def test_legacy_queue_outside_ram_breaks_the_device_only(page_size: int) -> None:
    bench = Bench(legacy=True)
    bench.start()
    bench.write(Register.GUEST_PAGE_SIZE, page_size)
    bench.write(Register.QUEUE_PFN, 0xFFFFFFFF)
    bench.write(Register.QUEUE_NOTIFY, 0)
    assert bench.device.broken
    bench.write(Register.STATUS, 0)
    assert not bench.device.broken


@both
def test_a_queue_in_use_cannot_be_moved(legacy: bool, warnings: pytest.LogCaptureFixture) -> None:
    bench = Bench(legacy=legacy)
    bench.start()
    if legacy:
        bench.write(Register.QUEUE_PFN, 1)
    else:
        bench.place(0, Areas(), 8)
    before = bench.device.queues[0].record.copy()
    for register in (
        Register.QUEUE_NUM,
        Register.QUEUE_ALIGN if legacy else Register.QUEUE_DESC_LOW,
        Register.QUEUE_PFN if legacy else Register.QUEUE_READY,
    ):
        bench.write(register, 2)
    assert bench.device.queues[0].record == before
    assert "in use" in warnings.text


def test_modern_queue_addresses_have_64_bits() -> None:
    bench = Bench(legacy=False)
    bench.start()
    areas = Areas(0x1_0000_1000, 0x2_0000_2000, 0x8000_0003_0000_3000)
    bench.place(1, areas, 8)
    record = bench.device.queues[1].record
    assert (record["desc"], record["driver"], record["device"]) == (
        areas.desc,
        areas.driver,
        areas.device,
    )
    assert bench.read(Register.QUEUE_READY) == 1
    bench.write(Register.QUEUE_SEL, 0)
    assert bench.read(Register.QUEUE_READY) == 0


def test_queue_ready_0_stops_the_queue_and_drops_its_requests() -> None:
    bench = Bench(legacy=False)
    bench.start()
    bench.place(0, Areas(), 8)
    bench.write(Register.QUEUE_READY, 0)
    assert bench.read(Register.QUEUE_READY) == 0
    assert bench.device.queue_resets == [0]
    bench.write(Register.QUEUE_READY, 1)  # where it was, and of the same size
    assert bench.device.queues[0].size == 8
    assert bench.device.queues[0].record["desc"] == Areas().desc


@pytest.mark.parametrize("offered", [True, False])
def test_queue_reset_needs_ring_reset(offered: bool) -> None:
    feature = Feature.RING_RESET.mask
    bench = Bench(legacy=False, features=feature if offered else 0)
    bench.start(feature if offered else 0)
    bench.place(1, Areas(), 8)
    bench.write(Register.QUEUE_RESET, 1)
    assert bench.read(Register.QUEUE_RESET) == 0
    assert bench.read(Register.QUEUE_READY) == (0 if offered else 1)
    assert bench.device.queue_resets == ([1] if offered else [])
    if offered:
        bench.write(Register.QUEUE_READY, 1)
        assert bench.device.queues[1].size == QUEUE_SIZE
        assert bench.device.queues[1].record["desc"] == 0


@both
@orders
def test_a_buffer_goes_through_the_ring(legacy: bool, cpu: GuestEndian) -> None:
    bench = Bench(legacy=legacy, cpu=cpu)
    bench.start()
    size, base = 8, 0x4000
    if legacy:
        areas = Areas(base, base + 16 * size, base + 4096)
        bench.write(Register.QUEUE_SEL, 1)
        bench.write(Register.QUEUE_NUM, size)
        bench.write(Register.QUEUE_ALIGN, 4096)
        bench.write(Register.QUEUE_PFN, base >> 12)
    else:
        areas = Areas(0x4000, 0x5000, 0x6000)
        bench.place(1, areas, size)
    bench.write(Register.STATUS, bench.read(Register.STATUS) | 4)
    driver = SplitDriver(bench.host.ram.memory, areas, size, cpu.order if legacy else "little")
    bench.host.ram.write(0x8000, b"hello")
    driver.add([Buffer(0x8000, 5)])
    driver.publish()
    bench.write(Register.QUEUE_NOTIFY, 1)
    assert bench.device.taken == [b"hello"]
    assert bench.read(Register.INTERRUPT_STATUS) == 1
    assert bench.irq == [True]
    bench.write(Register.INTERRUPT_ACK, 1)
    assert bench.irq == [True, False]
