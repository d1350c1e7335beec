"""virtio-mmio registers: both versions, both byte orders, the latch, and hostile drivers."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devices.virtio.constants import Feature, Status, VirtioId
from devices.virtio.mmio import MAGIC, EmptyMmioSlot, Register
from emu.memory.endian import GuestEndian
from tests.unit.virtio_mmio_tools import BIG, CONFIG_VALUE, LITTLE, QUEUE_SIZE, Bench, both, orders


@pytest.fixture
def warnings(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> pytest.LogCaptureFixture:
    """What is logged; kinds that other tests have seen count anew."""
    monkeypatch.setattr("emu.log._seen", set())
    monkeypatch.setattr(logging.getLogger("ppc64emu"), "propagate", True)
    return caplog


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
