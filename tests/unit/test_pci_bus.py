"""A PCI bus: addresses of functions, what is not there, decoding of several functions."""

from __future__ import annotations

import pytest

from devices.pci.constants import HEADER_MULTIFUNCTION, HEADER_TYPE
from emu.chardev.config import ConfigError
from tests.support.pci import IO_BAR, Bridge, Dummy


@pytest.fixture
def bridge() -> Bridge:
    return Bridge()


def multifunction(name: str) -> Dummy:
    function = Dummy(name)
    function.config[HEADER_TYPE] |= HEADER_MULTIFUNCTION
    return function


@pytest.mark.parametrize(
    ("addr", "devfn"),
    [("0", 0), ("05", 0x28), ("5.0", 0x28), ("0x1f", 0xF8), ("1F.0", 0xF8), ("0x5.1", 0x29)],
)
def test_address_is_hexadecimal(bridge: Bridge, addr: str, devfn: int) -> None:
    function = Dummy()
    bridge.bus.add(function, addr)
    assert (function.devfn, bridge.bus.functions) == (devfn, {devfn: function})


@pytest.mark.parametrize("addr", ["20", "5.8", "x", "", "5.", "-1", "1.2.3"])
def test_bad_address_is_one_line(bridge: Bridge, addr: str) -> None:
    if addr == "5.":
        bridge.bus.add(Dummy(), addr)  # as sscanf("%x.%x") does
        return
    with pytest.raises(ConfigError, match=r"Property 'dummy.addr' doesn't take value"):
        bridge.bus.add(Dummy(), addr)


def test_free_slots_are_taken_in_order(bridge: Bridge) -> None:
    bridge.bus.add(Dummy(), "1")
    functions = [Dummy(), Dummy()]
    for function in functions:
        bridge.bus.add(function)
    assert [function.devfn for function in functions] == [0, 0x10]


def test_full_bus_says_so(bridge: Bridge) -> None:
    for _ in range(32):
        bridge.bus.add(Dummy())
    with pytest.raises(ConfigError, match="PCI: no slot/function available for dummy"):
        bridge.bus.add(Dummy())


def test_taken_slot_names_both_devices(bridge: Bridge) -> None:
    first = Dummy("net0")
    first.driver = "virtio-net-pci"
    bridge.bus.add(first, "5")
    with pytest.raises(ConfigError) as error:
        bridge.bus.add(Dummy(), "5.0")
    assert str(error.value) == (
        "PCI: slot 5 function 0 not available for dummy, in use by virtio-net-pci,id=net0"
    )


def test_functions_of_a_slot_need_a_multifunction_header(bridge: Bridge) -> None:
    bridge.bus.add(multifunction("a"), "3.0")
    bridge.bus.add(Dummy("b"), "3.1")
    bridge.bus.add(Dummy("c"), "4.0")
    with pytest.raises(ConfigError, match=r"can't be populated in function 4\.1"):
        bridge.bus.add(Dummy("d"), "4.1")
    bridge.bus.add(Dummy("e"), "6.2")
    with pytest.raises(ConfigError, match=r"6\.0 indicates single function, but 6\.2"):
        bridge.bus.add(Dummy("f"), "6.0")


@pytest.mark.parametrize("size", [1, 2, 4])
def test_missing_function_reads_ones(bridge: Bridge, size: int) -> None:
    bridge.bus.config_write(0x28, 4, size, 0)
    assert bridge.bus.config_read(0x28, 0, size) == (1 << 8 * size) - 1


def test_first_of_overlapping_bars_answers(bridge: Bridge) -> None:
    low, high = Dummy("low"), Dummy("high")
    bridge.bus.add(high, "7")
    bridge.bus.add(low, "1")
    for function in (low, high):
        function.config_write(0x10, 4, 0x1000)
        function.config_write(4, 2, 1)
    assert bridge.bus.find_io(0x1000, 1) == (low.registers[IO_BAR], 0)
    low.config_write(4, 2, 0)
    assert bridge.bus.find_io(0x1000, 1) == (high.registers[IO_BAR], 0)


def test_reset_reaches_every_function(bridge: Bridge) -> None:
    functions = [Dummy(), Dummy()]
    for function in functions:
        bridge.bus.add(function)
    bridge.bus.reset()
    assert [function.events for function in functions] == [["reset"], ["reset"]]
