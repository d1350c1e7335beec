"""Linux enumerates a PCI function of our own and reaches its registers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator

import pytest

from devices.host import DeviceHost
from devices.pci.bus import PciBus
from devices.virtio.mmio_slots import MmioDevice
from emu.machine import Machine
from machines.pseries.phb import IO_WINDOW, MEM32_WINDOW, MEM64_WINDOW
from tests.boot.guests import BE, BOOT_SECONDS, LE, READY, Guest, trouble_in
from tests.support.pci import IO_BAR, MEM32_BAR, MEM64_BAR, MSIX_BAR, Dummy

pytestmark = [pytest.mark.boot, pytest.mark.timeout(300)]
PROMPT = re.compile(r"guest:[^\n]*# ")
PATH = "/sys/bus/pci/devices/0000:00:05.0"
SECONDS = 60.0


class DummyMachine(Machine):
    """A machine with a dummy function in slot 5."""

    dummy: Dummy

    def _attach(self, host: DeviceHost, bus: PciBus | None) -> list[MmioDevice]:
        devices = super()._attach(host, bus)
        assert bus is not None
        self.dummy = Dummy()
        bus.add(self.dummy, "5")
        return devices

    def type(self, command: str, answer: str | re.Pattern[str]) -> None:
        """Type a command and wait for its answer and the next prompt."""
        self.console.send(command + "\n")
        self.console.wait_for(answer, timeout=SECONDS)
        self.console.wait_for(PROMPT, timeout=SECONDS)


def start(guest: Guest) -> DummyMachine:
    if guest.missing:
        pytest.skip(guest.missing)
    made = DummyMachine(dataclasses.replace(guest.config(), ram_size=512 << 20))
    made.start()
    return made


def check_bars(dummy: Dummy) -> None:
    """Every BAR has an address in the window of its kind."""
    for index, window in (
        (IO_BAR, IO_WINDOW),
        (MSIX_BAR, MEM32_WINDOW),
        (MEM32_BAR, MEM32_WINDOW),
        (MEM64_BAR, MEM64_WINDOW),
    ):
        bar = dummy.bars[index]
        data = dummy.config[bar.offset : bar.offset + bar.register_bytes]
        address = int.from_bytes(data, "little") & bar.address_mask
        assert address
        assert window.pci_address <= address <= window.pci_address + window.size - bar.size


@pytest.fixture(scope="module")
def machine() -> Iterator[DummyMachine]:
    with start(LE) as made:
        made.console.wait_for(PROMPT, timeout=BOOT_SECONDS)
        yield made


def test_function_is_found_with_its_identity(machine: DummyMachine) -> None:
    machine.type(f"cat {PATH}/vendor {PATH}/device", "\r\n0x1af4\r\n0x10f0\r\n")
    machine.type(f"cat {PATH}/class {PATH}/revision", "\r\n0xff0000\r\n0x03\r\n")
    machine.type(f"cat {PATH}/subsystem_vendor", "\r\n0x1234\r\n")


def test_bars_are_assigned_in_the_windows(machine: DummyMachine) -> None:
    check_bars(machine.dummy)
    machine.type(f"echo 1 > {PATH}/enable; echo enabled", "\r\nenabled\r\n")
    assert machine.dummy.command & 3 == 3


def test_io_bar_is_read_and_written(machine: DummyMachine) -> None:
    machine.type(f"echo 1 > {PATH}/enable; echo again", "\r\nagain\r\n")
    machine.type(f"dd if={PATH}/resource0 bs=1 count=4 2>&1 | hexdump -C", "00 01 02 03")
    machine.type(
        f"printf '\\252' | dd of={PATH}/resource0 bs=1 seek=7 2>&1; echo written", "\r\nwritten\r\n"
    )
    assert machine.dummy.registers[IO_BAR].data[7] == 0xAA


def test_pin_has_the_source_of_its_slot(machine: DummyMachine) -> None:
    """Slot 5, INTA: line 1, in the tree as XICS source 0x1201."""
    node = "/proc/device-tree/pci@800000020000000/pci@5"
    machine.type(f"hexdump -C {node}/interrupts", "00 00 00 01")
    machine.type(f"cat {PATH}/irq", re.compile(r"\r\n[1-9]\d*\r\n"))


def test_kernel_has_nothing_to_complain_about(machine: DummyMachine) -> None:
    text = machine.console.text
    assert trouble_in(text) == []
    assert "can't assign" not in text
    assert "failed to assign" not in text
    assert "pci_bus 0000:00: root bus resource [mem 0x210000000000" in text


def test_big_endian_kernel_assigns_too() -> None:
    with start(BE) as machine:
        machine.console.wait_for(READY, timeout=BOOT_SECONDS)
        check_bars(machine.dummy)
        assert trouble_in(machine.console.text) == []
