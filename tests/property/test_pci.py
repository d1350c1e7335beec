"""Whatever a guest writes to a PCI function, read-only bits stay and nothing raises."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from devices.pci.msix import Msix
from tests.support.pci import MSIX_BAR, VECTORS, Bridge, Dummy

SIZES = st.sampled_from([1, 2, 4])
VALUES = st.one_of(st.sampled_from([0, 0xFFFFFFFF]), st.integers(0, 0xFFFFFFFF))
OFFSETS = st.one_of(st.integers(0, 0xFF), st.sampled_from([4, 0x10, 0x20, 0x42]), st.just(0x1FE))
WRITES = st.lists(st.tuples(OFFSETS, SIZES, VALUES), min_size=5, max_size=20)


@given(writes=WRITES, level=st.booleans())
def test_read_only_bits_never_change(writes: list[tuple[int, int, int]], level: bool) -> None:
    bridge = Bridge()
    function = Dummy()
    bridge.bus.add(function)
    function.set_intx(level)
    before = bytes(function.config)
    for offset, size, value in writes:
        bridge.bus.config_write(0, offset, size, value)
        assert 0 <= bridge.bus.config_read(0, offset, size) < 1 << 8 * size
        bridge.bus.find_io(value & 0xFFFF, size)
        bridge.bus.find_memory(value, size)
    assert len(function.config) == 256
    for old, new, mask in zip(before, function.config, function.write_mask, strict=True):
        assert (old ^ new) & ~mask == 0
    for bar in function.bars.values():
        low = int.from_bytes(function.config[bar.offset : bar.offset + 4], "little")
        assert low & (bar.size - 1) & 0xF & ~bar.address_mask == bar.kind.value
    # what the last word is, the line is
    expected = function.intx_line
    assert (bridge.lines[-1][2] if bridge.lines else False) == expected


@given(offset=st.sampled_from([0x10, 0x14, 0x18, 0x20]), value=st.integers(0, 0xFFFFFFFF))
def test_sizing_gives_the_size_whatever_was_there(offset: int, value: int) -> None:
    function = Dummy()
    function.config_write(offset, 4, value)
    function.config_write(offset, 4, 0xFFFFFFFF)
    bar = next(bar for bar in function.bars.values() if bar.offset == offset)
    low_bits = 0x3 if bar.kind.is_io else 0xF
    assert -(function.config_read(offset, 4) & ~low_bits) & 0xFFFFFFFF == bar.size


TABLE_ACCESS = st.tuples(st.integers(0, 0x1FFF), SIZES, VALUES)
STEP = st.one_of(
    st.tuples(st.just("table"), TABLE_ACCESS),
    st.tuples(st.just("entry"), st.tuples(st.integers(0, 16 * VECTORS), SIZES, VALUES)),
    st.tuples(st.just("control"), st.tuples(st.just(0), st.just(2), VALUES)),
    st.tuples(st.just("fire"), st.tuples(st.integers(0, VECTORS), SIZES, VALUES)),
)


@given(steps=st.lists(STEP, min_size=5, max_size=30))
def test_every_fired_vector_is_sent_or_pending(
    steps: list[tuple[str, tuple[int, int, int]]],
) -> None:
    """A plain model: the set of pending vectors and the number of messages."""
    bridge = Bridge()
    function = Dummy()
    bridge.bus.add(function)
    function.config_write(4, 2, 4)
    msix = function.msix
    assert isinstance(msix, Msix)
    handler = function.bars[MSIX_BAR].handler
    pending: set[int] = set()
    sent = 0
    for kind, (offset, size, value) in steps:
        if kind in ("table", "entry"):
            handler.mmio_write(offset, value.to_bytes(4, "little")[:size])
            assert len(handler.mmio_read(offset, size)) == size
        elif kind == "control":
            function.config_write(function.msix_control, size, value)
        elif offset < VECTORS and msix.enabled:
            pending.add(offset)
        if kind == "fire":
            function.msix_notify(offset)
        control = function.config_read(function.msix_control, 2)
        if control & 0xC000 == 0x8000:
            ready = {vector for vector in pending if not msix.table[16 * vector + 12] & 1}
            pending -= ready
            sent += len(ready)
        bits = int.from_bytes(msix.pending, "little")
        assert bits == sum(1 << vector for vector in pending)
        assert len(bridge.messages) == sent
    assert len(msix.table) == 16 * VECTORS
