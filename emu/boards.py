"""From the configuration to the machine's board."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from devices.virtio.mmio_slots import MmioDevice
from emu.chardev.base import Chardev
from emu.chardev.config import ChardevConfig
from emu.config import ConfigError, MachineConfig, StrPath
from emu.cpu.errors import UnicornError
from firmware.errors import ImageError
from machines.board import Board

if TYPE_CHECKING:
    from devices.host import DeviceHost
    from devices.pci.bus import PciBus
    from machines.virtmmio.machine import VirtmmioServices

OpenChardev = Callable[[ChardevConfig], Chardev]
#: Makes the devices on a board: PCI functions go to the bus, the others are returned.
Attach = Callable[["DeviceHost", "PciBus | None"], "list[MmioDevice]"]


def build_board(
    config: MachineConfig, services: VirtmmioServices, open_chardev: OpenChardev, attach: Attach
) -> Board:
    """The board that a configuration asks for, with its devices; ConfigError if that fails."""
    build = _virtmmio if config.machine == "virtmmio" else _pseries
    try:
        return build(config, services, open_chardev, attach)
    except ConfigError as error:
        raise config.explain(error) from error
    except (ImageError, UnicornError) as error:
        raise config.explain(ConfigError(str(error), _blamed(config, str(error)))) from error
    except (MemoryError, OSError) as error:
        raise ConfigError(f"cannot allocate {config.ram_size >> 20} MiB: {error}") from error


def _pseries(
    config: MachineConfig, services: VirtmmioServices, open_chardev: OpenChardev, attach: Attach
) -> Board:
    from machines.pseries.machine import PseriesMachine, PseriesOptions

    options = PseriesOptions(
        ram_size=config.ram_size,
        cpu=config.cpu,
        cpus=config.smp,
        kernel=_path(config.kernel),
        initrd=_path(config.initrd),
        bios=_path(config.bios),
        append=config.append,
        name=config.name or None,
        uuid=config.uuid,
        rtc_base=config.rtc_base,
        ttys=[(vty.reg, open_chardev(vty.chardev)) for vty in config.vtys()],
        attach=attach,
        test_exit=services.request_exit if config.test_exit else None,
    )
    return PseriesMachine(options, services)


def _virtmmio(
    config: MachineConfig, services: VirtmmioServices, open_chardev: OpenChardev, attach: Attach
) -> Board:
    from machines.virtmmio.machine import VirtmmioMachine, VirtmmioOptions

    options = VirtmmioOptions(
        ram_size=config.ram_size,
        cpu=config.cpu,
        kernel=_path(config.kernel),
        bios=_path(config.bios),
        initrd=_path(config.initrd),
        append=config.append,
        console=open_chardev(config.serial[0]) if config.serial else None,
        attach=lambda host: attach(host, None),
    )
    return VirtmmioMachine(options, services)


def _blamed(config: MachineConfig, message: str) -> str:
    """The field whose file a message begins with; "" for none."""
    fields = ("kernel", "initrd", "bios")
    return next((f for f in fields if message.startswith(f"{_path(getattr(config, f))}:")), "")


def _path(path: StrPath | None) -> str | None:
    return None if path is None else os.fspath(path)
