"""Consoles: virtual terminals from serial ports and spapr-vty devices, and monitors."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from emu.chardev.config import ChardevConfig, ConfigError
from emu.config_devices import PlannedDevice

#: Unit address of the first virtual terminal on the VIO bus, as in QEMU's pseries.
FIRST_VTY_REG = 0x7100_0000
#: As many interrupts as there are for them in machines.pseries.
MAX_VTYS = 0x80
#: As in machines.pseries.machine, whose import would take long.
_NVRAM_REG = 0x7100_0100


@dataclass(frozen=True)
class VtyConfig:
    """One virtual terminal: `reg` is its unit address, `chardev` the host side."""

    reg: int
    chardev: ChardevConfig


@dataclass(frozen=True)
class MonitorConfig:
    """A monitor on a character device; `mode` is "control" (QMP) or "readline"."""

    chardev: ChardevConfig
    mode: str = "control"


def plan_vtys(
    serial: Sequence[ChardevConfig],
    devices: Sequence[PlannedDevice],
    chardevs: Mapping[str, ChardevConfig],
) -> tuple[VtyConfig, ...]:
    """All terminals: the serial ports from FIRST_VTY_REG on, then the spapr-vty devices.

    ConfigError for too many, or two at one address.
    """
    asked = {device.where: device for device in devices if device.driver.name == "spapr-vty"}
    terminals = [
        (f"serial[{index}]", VtyConfig(FIRST_VTY_REG + index, chardev))
        for index, chardev in enumerate(serial)
    ]
    taken = {vty.reg for _, vty in terminals}
    taken |= {device.values.get("reg") for device in asked.values()}  # type: ignore[misc]
    free = (reg for reg in itertools.count(FIRST_VTY_REG) if reg not in taken)
    for where, device in asked.items():
        reg = device.values.get("reg")
        address = reg if isinstance(reg, int) else next(free)
        terminals.append((where, VtyConfig(address, chardevs[str(device.values["chardev"])])))
    _check(terminals)
    return tuple(vty for _, vty in terminals)


def _check(terminals: list[tuple[str, VtyConfig]]) -> None:
    regs = {_NVRAM_REG}
    for index, (where, vty) in enumerate(terminals):
        if index == MAX_VTYS:
            raise ConfigError(f"only {MAX_VTYS} terminals are supported", where)
        if vty.reg in regs:
            raise ConfigError(f"spapr-vty devices conflict at address {vty.reg:#x}", where)
        regs.add(vty.reg)
