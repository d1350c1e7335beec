"""virtio-mmio registers: both versions, both byte orders, the latch, and hostile drivers."""

from __future__ import annotations

import logging
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.virtio.constants import Feature, Status, VirtioId
from devices.virtio.device import VirtioDevice
from devices.virtio.mmio import MAGIC, EmptyMmioSlot, Register, VirtioMmioTransport
from devices.virtio.queue import VirtQueue
from emu.memory.endian import GuestEndian
from tests.support.ring_driver import Areas, Buffer, SplitDriver
from tests.support.virtio import FakeHost

RAM_SIZE = 1 << 20
QUEUE_SIZE = 64
LITTLE, BIG = GuestEndian.LITTLE, GuestEndian.BIG
CONFIG_VALUE = 0x11223344


class Sink(VirtioDevice):
    """Takes what the driver gives and keeps it; one 32-bit field of configuration."""

    DEVICE_ID: ClassVar[VirtioId] = VirtioId.RNG

    def __init__(self, host: FakeHost, features: int = 0, queues: int = 2) -> None:
        super().__init__("sink", host, [QUEUE_SIZE] * queues, features)
        self.taken: list[bytes] = []
        self.written: list[tuple[int, bytes, GuestEndian]] = []
        self.queue_resets: list[int] = []

    def config_space(self, endian: GuestEndian) -> bytes:
        return CONFIG_VALUE.to_bytes(4, endian.order)

    def write_config(self, offset: int, data: bytes, endian: GuestEndian) -> None:
        self.written.append((offset, data, endian))

    def handle_queue(self, queue: VirtQueue) -> None:
        while elements := queue.pop():
            self.taken += [element.read() for element in elements]
            self.push(queue, [(element, 0) for element in elements])

    def on_queue_reset(self, queue: VirtQueue) -> None:
        self.queue_resets.append(queue.index)


class Bench:
    """A device behind a transport, and the driver's accessors."""

    def __init__(self, *, legacy: bool, cpu: GuestEndian = LITTLE, features: int = 0) -> None:
        self.host = FakeHost(RAM_SIZE)
        self.device = Sink(self.host, features)
        self.irq: list[bool] = []
        self.transport = VirtioMmioTransport(
            "mmio", self.device, legacy=legacy, set_irq=self.irq.append
        )
        self.transport.reset()
        self.host.endian = cpu

    def read(self, register: int) -> int:
        return int.from_bytes(self.transport.mmio_read(register, 4), "little")

    def write(self, register: int, value: int) -> None:
        self.transport.mmio_write(register, value.to_bytes(4, "little"))

    def features(self, select: int) -> int:
        self.write(Register.DEVICE_FEATURES_SEL, select)
        return self.read(Register.DEVICE_FEATURES)

    def acknowledge(self, features: int) -> None:
        for word in range(1 if self.transport.legacy else 2):
            self.write(Register.DRIVER_FEATURES_SEL, word)
            self.write(Register.DRIVER_FEATURES, features >> 32 * word & 0xFFFFFFFF)

    def start(self, features: int = 0) -> None:
        """Reset, negotiate and go, as a driver of the right kind does."""
        self.write(Register.STATUS, 0)
        self.write(Register.STATUS, 3)
        if self.transport.legacy:
            self.acknowledge(features)
            self.write(Register.GUEST_PAGE_SIZE, 4096)
        else:
            self.acknowledge(features | Feature.VERSION_1.mask)
            self.write(Register.STATUS, 11)
            assert self.read(Register.STATUS) == 11

    def place(self, index: int, areas: Areas, size: int) -> None:
        """Modern set-up of a queue."""
        self.write(Register.QUEUE_SEL, index)
        self.write(Register.QUEUE_NUM, size)
        for register, address in (
            (Register.QUEUE_DESC_LOW, areas.desc),
            (Register.QUEUE_DRIVER_LOW, areas.driver),
            (Register.QUEUE_DEVICE_LOW, areas.device),
        ):
            self.write(register, address & 0xFFFFFFFF)
            self.write(register + 4, address >> 32)
        self.write(Register.QUEUE_READY, 1)


@pytest.fixture
def warnings(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    """What is logged; kinds that other tests have seen count anew."""
    monkeypatch.setattr("emu.log._seen", set())
    monkeypatch.setattr(logging.getLogger("ppc64emu"), "propagate", True)
    return caplog


both = pytest.mark.parametrize("legacy", [True, False], ids=["legacy", "modern"])
orders = pytest.mark.parametrize("cpu", [LITTLE, BIG], ids=["le", "be"])


@both
@orders
def test_identity_is_little_endian_whatever_the_driver(legacy: bool, cpu: GuestEndian) -> None:
    bench = Bench(legacy=legacy, cpu=cpu)
    bench.write(Register.STATUS, 0)
    assert bench.transport.mmio_read(Register.MAGIC_VALUE, 4) == b"virt"
    assert bench.read(Register.VERSION) == (1 if legacy else 2)
    assert bench.read(Register.DEVICE_ID) == VirtioId.RNG
    assert bench.transport.mmio_read(Register.VENDOR_ID, 4) == b"QEMU"


@pytest.mark.parametrize("legacy", [True, False])
def test_empty_slot_has_device_id_0(legacy: bool) -> None:
    slot = EmptyMmioSlot(legacy=legacy)
    slot.mmio_write(Register.STATUS, b"\1\0\0\0")
    words = [int.from_bytes(slot.mmio_read(4 * n, 4), "little") for n in range(128)]
    assert words[:3] == [MAGIC, 1 if legacy else 2, 0]
    assert not any(words[4:])
    assert slot.mmio_read(3, 1) == b"\0"


def test_legacy_features_are_32_bits() -> None:
    bench = Bench(legacy=True, features=1 << 5 | 1 << 40)
    low = bench.features(0)
    assert low >> 5 & 1
    assert low >> Feature.NOTIFY_ON_EMPTY & 1
    assert bench.features(1) == 0
    assert bench.features(0xFFFFFFFF) == 0


def test_modern_features_are_64_bits_and_without_legacy_ones() -> None:
    bench = Bench(legacy=False, features=1 << 5 | 1 << 40)
    assert bench.features(0) >> 5 & 1
    assert not bench.features(0) >> Feature.NOTIFY_ON_EMPTY & 1
    assert bench.features(1) == 1 | 1 << 8
    assert bench.features(2) == 0


def test_features_above_the_interface_are_not_taken(warnings: pytest.LogCaptureFixture) -> None:
    for legacy, select in ((True, 1), (False, 2)):
        bench = Bench(legacy=legacy, features=1 << 5)
        bench.write(Register.DRIVER_FEATURES_SEL, select)
        bench.write(Register.DRIVER_FEATURES, 1 << 5)
        assert bench.device.features == 0
    assert "above bit" in warnings.text


def test_modern_driver_without_version_1_gets_no_features_ok() -> None:
    bench = Bench(legacy=False)
    bench.acknowledge(0)
    bench.write(Register.STATUS, 11)
    assert bench.read(Register.STATUS) == 3


@both
@orders
def test_config_space_order(legacy: bool, cpu: GuestEndian) -> None:
    bench = Bench(legacy=legacy, cpu=cpu)
    bench.write(Register.STATUS, 0)
    order = cpu.order if legacy else "little"
    expected = CONFIG_VALUE.to_bytes(4, order)
    assert bench.transport.mmio_read(Register.CONFIG, 4) == expected
    assert bench.transport.mmio_read(Register.CONFIG + 1, 1) == expected[1:2]
    assert bench.transport.mmio_read(Register.CONFIG + 2, 2) == expected[2:]
    assert bench.transport.mmio_read(Register.CONFIG + 2, 4) == expected[2:] + b"\0\0"
    bench.transport.mmio_write(Register.CONFIG + 1, b"xy")
    assert bench.device.written == [(1, b"xy", cpu if legacy else LITTLE)]


@both
@pytest.mark.parametrize("size", [1, 2])
def test_control_registers_are_32_bits(
    legacy: bool, size: int, warnings: pytest.LogCaptureFixture
) -> None:
    bench = Bench(legacy=legacy)
    assert bench.transport.mmio_read(Register.MAGIC_VALUE, size) == bytes(size)
    bench.transport.mmio_write(Register.STATUS, b"\3".ljust(size, b"\0"))
    assert bench.read(Register.STATUS) == 0
    assert "bytes" in warnings.text


@both
def test_unaligned_and_unknown_registers_read_0(legacy: bool) -> None:
    bench = Bench(legacy=legacy)
    for offset in (1, 2, 0x0FE, 0x01C, Register.QUEUE_NOTIFY, Register.INTERRUPT_ACK):
        assert bench.transport.mmio_read(offset, 4) == bytes(4)
        bench.transport.mmio_write(offset, b"\xff" * 4)


def test_registers_of_the_other_interface_do_nothing() -> None:
    modern, legacy = Bench(legacy=False), Bench(legacy=True)
    for register in (Register.GUEST_PAGE_SIZE, Register.QUEUE_ALIGN, Register.QUEUE_PFN):
        modern.write(register, 4096)
        assert modern.read(register) == 0
    legacy.write(Register.QUEUE_READY, 1)
    assert not any(queue.enabled for queue in legacy.device.queues)
    for register in (Register.QUEUE_READY, Register.CONFIG_GENERATION, Register.SHM_LEN_LOW):
        assert legacy.read(register) == 0


def test_there_is_no_shared_memory() -> None:
    bench = Bench(legacy=False)
    bench.write(Register.SHM_SEL, 3)
    for register in range(Register.SHM_LEN_LOW, Register.SHM_BASE_HIGH + 4, 4):
        assert bench.read(register) == 0xFFFFFFFF


def test_config_generation_and_interrupt() -> None:
    bench = Bench(legacy=False)
    bench.start()
    bench.write(Register.STATUS, 15)
    bench.device.config_changed()
    assert bench.read(Register.CONFIG_GENERATION) == 1
    assert bench.read(Register.INTERRUPT_STATUS) == 2
    assert bench.irq == [True]
    bench.write(Register.INTERRUPT_ACK, 1)
    assert bench.irq == [True]
    bench.write(Register.INTERRUPT_ACK, 0xFFFFFFFF)
    assert bench.irq == [True, False]
    assert bench.read(Register.INTERRUPT_STATUS) == 0


# Queues


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


# The latch


@both
@orders
def test_status_0_latches_the_cpus_order_and_clears_everything(
    legacy: bool, cpu: GuestEndian
) -> None:
    bench = Bench(legacy=legacy, cpu=cpu)
    assert bench.device.latched_endian is BIG  # since the machine's reset
    bench.start()
    bench.transport.notify_queue(0)
    bench.write(Register.QUEUE_SEL, 1)
    bench.write(Register.STATUS, 0)
    assert bench.device.latched_endian is cpu
    assert bench.read(Register.STATUS) == 0
    assert bench.read(Register.INTERRUPT_STATUS) == 0
    assert bench.irq[-1] is False
    assert bench.device.features == 0
    assert bench.transport.queues.selected == 0


def test_only_the_low_byte_of_status_counts() -> None:
    bench = Bench(legacy=True)
    bench.write(Register.STATUS, 3)
    bench.write(Register.STATUS, 0x100)
    assert bench.read(Register.STATUS) == 0
    assert bench.device.latched_endian is LITTLE


@orders
def test_legacy_queue_pfn_0_resets_the_whole_device(cpu: GuestEndian) -> None:
    other = LITTLE if cpu is BIG else BIG
    bench = Bench(legacy=True, cpu=other)
    bench.start()
    bench.write(Register.QUEUE_PFN, 1)
    bench.write(Register.STATUS, 7)
    assert bench.device.latched_endian is other
    bench.host.endian = cpu
    bench.write(Register.QUEUE_SEL, 1)
    bench.write(Register.QUEUE_PFN, 0)
    assert bench.device.latched_endian is cpu
    assert bench.read(Register.STATUS) == 0
    assert not bench.device.queues[0].enabled
    assert bench.read(Register.QUEUE_PFN) == 0


@orders
def test_machine_reset_makes_it_big(cpu: GuestEndian) -> None:
    bench = Bench(legacy=True, cpu=cpu)
    bench.start()
    bench.transport.notify_queue(0)
    bench.host.endian = BIG  # no CPU is being served
    bench.transport.reset()
    assert bench.device.latched_endian is BIG
    assert bench.irq == [True, False]


def test_the_order_lasts_until_the_next_reset() -> None:
    bench = Bench(legacy=True, cpu=LITTLE)
    bench.start()
    bench.host.endian = BIG
    bench.write(Register.STATUS, 7)
    assert bench.transport.mmio_read(Register.CONFIG, 4) == CONFIG_VALUE.to_bytes(4, "little")


def test_one_driver_after_the_other_in_the_other_order() -> None:
    bench = Bench(legacy=True)
    for cpu in (BIG, LITTLE, BIG):
        bench.host.endian = cpu
        bench.start()
        assert bench.transport.mmio_read(Register.CONFIG, 4) == CONFIG_VALUE.to_bytes(4, cpu.order)


# Drivers that mean harm


VALUES = st.one_of(
    st.sampled_from([0, 1, 2, 3, 4, 7, 11, 15, 64, 128, 4096, 0x7FFFFFFF, 0xFFFFFFFF]),
    st.integers(0, 0xFFFFFFFF),
)
OFFSETS = st.one_of(st.sampled_from([int(r) for r in Register]), st.integers(0, 0xFFC))
OPERATIONS = st.lists(
    st.tuples(st.booleans(), OFFSETS, st.sampled_from([1, 2, 4, 4, 4]), VALUES), max_size=60
)


@both
@orders
@settings(max_examples=150, deadline=None)
@given(operations=OPERATIONS, noise=st.binary(max_size=256))
def test_no_register_access_ever_raises(
    legacy: bool, cpu: GuestEndian, operations: list[tuple[bool, int, int, int]], noise: bytes
) -> None:
    bench = Bench(legacy=legacy, cpu=cpu, features=(1 << 41) - 1)
    bench.host.ram.write(0x1000, noise)
    for is_write, offset, size, value in operations:
        if is_write:
            data = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
            bench.transport.mmio_write(offset, data)
        else:
            assert len(bench.transport.mmio_read(offset, size)) == size
        for queue in bench.device.queues:
            assert 0 < queue.size <= QUEUE_SIZE
    assert bench.read(Register.STATUS) <= 0xFF
    bench.write(Register.STATUS, 0)
    assert bench.device.status == Status(0)
