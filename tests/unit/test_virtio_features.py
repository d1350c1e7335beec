"""Features that properties switch on or off are offered accordingly."""

from __future__ import annotations

from pathlib import Path

import pytest

from devices.virtio.constants import Feature
from devices.virtio.device import VirtioDevice
from emu.machine import Machine
from emu.options import parse_command_line

SWITCHES = {
    "event_idx=off": (Feature.RING_EVENT_IDX, False),
    "indirect_desc=off": (Feature.RING_INDIRECT_DESC, False),
    "notify_on_empty=off": (Feature.NOTIFY_ON_EMPTY, False),
    "any_layout=off": (Feature.ANY_LAYOUT, False),
    "event_idx=on": (Feature.RING_EVENT_IDX, True),
    "packed=on": (Feature.RING_PACKED, True),
    "packed=off": (Feature.RING_PACKED, False),
}
LEGACY = (Feature.NOTIFY_ON_EMPTY, Feature.ANY_LAYOUT)


def _device(folder: Path, *properties: str) -> tuple[Machine, VirtioDevice]:
    image = folder / "spin.bin"
    image.write_bytes(bytes(0x100) + bytes.fromhex("48000000"))  # b .
    argv = [
        "-nodefaults",
        "-bios",
        str(image),
        "-device",
        ",".join(("virtio-rng-pci", *properties)),
    ]
    machine = Machine(parse_command_line(argv))
    (device,) = machine.devices.values()
    return machine, device


@pytest.mark.parametrize("switch", SWITCHES)
def test_property_decides_what_is_offered(tmp_path: Path, switch: str) -> None:
    feature, wanted = SWITCHES[switch]
    machine, device = _device(tmp_path, switch)
    with machine:
        offered = device.offered_features(feature not in LEGACY)
    assert bool(offered & feature.mask) is wanted


def test_modern_drivers_do_not_see_legacy_bits(tmp_path: Path) -> None:
    machine, device = _device(tmp_path)
    with machine:
        offered = device.offered_features(True)
    assert not offered & (Feature.NOTIFY_ON_EMPTY.mask | Feature.ANY_LAYOUT.mask)
    assert offered & Feature.VERSION_1.mask
