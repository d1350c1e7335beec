"""The device tree of the PCI host bridge, against the one QEMU makes for the same functions."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import fdt
import pytest

from devices.pci.constants import HEADER_MULTIFUNCTION, HEADER_TYPE
from devices.pci.function import BarKind, PciFunction
from firmware.flat_tree import DeviceTree
from machines.pseries.phb import MSI_TOTAL
from machines.pseries.phb_names import function_name
from machines.pseries.phb_tree import phb_node
from machines.pseries.rtas import rtas_calls
from tests.support.pci import Registers
from tests.support.phb import PhbMachine

PHB = "pci@800000020000000"
QEMU = "qemu-system-ppc64"
# What QEMU's tree has for hot-plug, and numbers that are ours
OURS = {"ibm,pe-total-#msi", "ibm,ddw-applicable", "ibm,ddw-extensions"}
HOTPLUG = {"phandle", "ibm,my-drc-index"} | {
    f"ibm,drc-{name}" for name in ("types", "names", "power-domains", "indexes")
}
QEMU_DEVICES = (
    *("-device", "e1000,romfile=,addr=9"),
    *("-device", "virtio-rng-pci,addr=7.0,multifunction=on"),
    *("-device", "virtio-rng-pci,addr=7.1,disable-legacy=on"),
    *("-device", "virtio-serial-pci,addr=1f"),
)


@pytest.fixture(scope="module")
def machine() -> Iterator[PhbMachine]:
    machine = PhbMachine()
    yield machine
    machine.close()


def virtio(driver: str, device_id: int, class_code: int, identity: int, ports: int) -> PciFunction:
    """A function with the identity and BARs of one of QEMU's; ``ports`` 0 is modern only."""
    function = PciFunction(
        driver,
        vendor_id=0x1AF4,
        device_id=device_id,
        class_code=class_code,
        revision=0 if ports else 1,
        subsystem_vendor_id=0x1AF4,
        subsystem_id=identity,
    )
    if ports:
        function.add_bar(0, ports, BarKind.IO, Registers(ports))
    function.enable_msix(2, 1)
    function.add_bar(4, 0x4000, BarKind.MEM64_PREFETCH, Registers(0x4000))
    return function


def plug_like_qemu(machine: PhbMachine) -> None:
    network = PciFunction(
        "e1000",
        vendor_id=0x8086,
        device_id=0x100E,
        class_code=0x020000,
        revision=3,
        subsystem_vendor_id=0x1AF4,
        subsystem_id=0x1100,
    )
    network.add_bar(0, 0x20000, BarKind.MEM32, Registers(256))
    network.add_bar(1, 0x40, BarKind.IO, Registers(256))
    first = virtio("virtio-rng-pci", 0x1005, 0x00FF00, 4, 0x20)
    first.config[HEADER_TYPE] |= HEADER_MULTIFUNCTION
    bus = machine.phb.bus
    bus.add(network, "9")
    bus.add(first, "7.0")
    bus.add(virtio("virtio-rng-pci", 0x1044, 0x00FF00, 0x1100, 0), "7.1")
    bus.add(virtio("virtio-serial-pci", 0x1003, 0x078000, 3, 0x40), "1f")


def our_tree(machine: PhbMachine) -> fdt.FDT:
    tree = DeviceTree()
    phb_node(machine.phb, dict(rtas_calls()))(tree.root)
    return fdt.parse_dtb(tree.to_bytes())


def properties(node: fdt.Node) -> dict[str, str]:
    return {prop.name: prop.to_dts() for prop in node.props if prop.name not in HOTPLUG}


@pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"needs {QEMU}")
def test_tree_is_qemus(machine: PhbMachine, tmp_path: Path) -> None:
    machine.renew()
    plug_like_qemu(machine)
    blob = tmp_path / "qemu.dtb"
    board = ("-M", f"pseries,x-vof=on,dumpdtb={blob}", "-nodefaults", "-display", "none")
    command = [QEMU, *board, *QEMU_DEVICES]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    theirs = fdt.parse_dtb(blob.read_bytes()).get_node(PHB)
    ours = our_tree(machine).get_node(PHB)
    assert {node.name for node in ours.nodes} == {node.name for node in theirs.nodes}
    bridge, qemu_bridge = properties(ours), properties(theirs)
    assert bridge.keys() == qemu_bridge.keys()
    assert {name for name in bridge if bridge[name] != qemu_bridge[name]} <= OURS
    for node in ours.nodes:
        assert properties(node) == properties(theirs.get_subnode(node.name)), node.name


def test_numbers_of_our_own(machine: PhbMachine) -> None:
    machine.renew()
    node = our_tree(machine).get_node(PHB)
    tokens = dict(rtas_calls())
    assert node.get_property("ibm,pe-total-#msi").data == [MSI_TOTAL]
    names = ("query", "create", "remove")
    wanted = [tokens[f"ibm,{name}-pe-dma-window"] for name in names]
    assert node.get_property("ibm,ddw-applicable").data == wanted
    extensions = node.get_property("ibm,ddw-extensions").data
    assert extensions == [2, tokens["ibm,reset-pe-dma-window"], 1]


@pytest.mark.parametrize(
    ("class_code", "name"),
    [
        (0x010000, "scsi"),
        (0x010802, "nvme"),
        (0x018000, "mass-storage"),
        (0x020000, "ethernet"),
        (0x000200, "legacy-device"),
        (0x0C0330, "usb"),
        (0xFF0000, "pci"),
    ],
)
def test_names_by_class(class_code: int, name: str) -> None:
    assert function_name(class_code) == name
