"""Whatever RTAS calls a guest makes about PCI, the bridge stays consistent."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machines.pseries.phb import BUID, LIOBN, LSI_BASE, LSI_COUNT
from machines.pseries.rtas import HARDWARE_ERROR, PARAMETER_ERROR, SUCCESS
from tests.support.pci import Dummy
from tests.support.phb import PhbMachine

SLOT = 5 << 3
#: Inputs behind config_addr and BUID, and outputs
CALLS = {
    "ibm,read-pci-config": (1, 2),
    "ibm,write-pci-config": (2, 1),
    "ibm,query-interrupt-source-number": (1, 3),
    "ibm,change-msi": (3, 4),
    "ibm,query-pe-dma-window": (0, 6),
    "ibm,create-pe-dma-window": (2, 4),
    "ibm,reset-pe-dma-window": (0, 1),
}
WORDS = st.one_of(
    st.integers(0, 8),
    st.sampled_from([12, 16, 21, 24, 29, 31, 63, 0xFFFFFFFF, LIOBN]),
    st.integers(0, 0xFFFFFFFF),
)
ADDRESSES = st.one_of(
    st.integers(0, 0xFF).map(lambda register: SLOT << 8 | register),
    st.integers(0, 0xFFFFFFFF),
)
STEP = st.tuples(
    st.sampled_from([*CALLS, "ibm,remove-pe-dma-window"]),
    ADDRESSES,
    st.one_of(st.just(BUID), st.integers(0, (1 << 64) - 1)),
    st.lists(WORDS, min_size=3, max_size=3),
)


@pytest.fixture(scope="module")
def machine() -> Iterator[PhbMachine]:
    machine = PhbMachine()
    yield machine
    machine.close()


@given(steps=st.lists(STEP, min_size=1, max_size=10))
def test_bridge_stays_consistent(
    machine: PhbMachine, steps: list[tuple[str, int, int, list[int]]]
) -> None:
    machine.renew()
    phb = machine.phb
    phb.bus.add(Dummy(), "5")
    fixed = {LSI_BASE + line for line in range(LSI_COUNT)}
    for name, address, buid, words in steps:
        if name in CALLS:
            count, outputs = CALLS[name]
            inputs = (address, buid >> 32, buid & 0xFFFFFFFF, *words[:count])
        else:
            inputs, outputs = (LIOBN + words[0] % 3,), 1
        status = machine.call(name, *inputs, outputs=outputs)[0]
        assert status in (SUCCESS, PARAMETER_ERROR, HARDWARE_ERROR)
        given_out = {
            irq for one in phb.msis.values() for irq in range(one.first, one.first + one.count)
        }
        assert set(machine.xics.names) == fixed | given_out
        ranges = sorted(
            (window.bus_offset, window.bus_offset + window.size)
            for window in phb.dma_windows
            if window.enabled
        )
        assert all(one[1] <= two[0] for one, two in pairwise(ranges))
    phb.reset()
    assert set(machine.xics.names) == fixed
