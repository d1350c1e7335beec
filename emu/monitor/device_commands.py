"""QMP commands for devices: balloon, disks, network links."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from devices.virtio.constants import VirtioId
from emu.monitor.registry import Arguments, QmpError, command

if TYPE_CHECKING:  # a machine without devices does not load their code
    from devices.virtio.balloon import VirtioBalloon
    from devices.virtio.block import VirtioBlock
    from devices.virtio.net import VirtioNet
    from emu.machine import Machine


def _of_kind(machine: Machine, kind: VirtioId) -> Iterator[tuple[str, Any]]:
    return ((name, dev) for name, dev in machine.devices.items() if dev.DEVICE_ID is kind)


def _balloon(machine: Machine) -> VirtioBalloon:
    for _, device in _of_kind(machine, VirtioId.BALLOON):
        return cast("VirtioBalloon", device)
    raise QmpError("No balloon device has been activated", "DeviceNotActive")


def _named(machine: Machine, name: str, kind: VirtioId) -> Any:
    device = dict(_of_kind(machine, kind)).get(name)
    if device is None:
        raise QmpError(f"Device '{name}' not found", "DeviceNotFound")
    return device


@command("query-balloon")
def _query_balloon(machine: Machine, _arguments: Arguments) -> dict[str, int]:
    return {"actual": _balloon(machine).actual}


@command("balloon", value=int)
def _set_balloon(machine: Machine, arguments: Arguments) -> dict[str, Any]:
    if arguments["value"] <= 0:
        raise QmpError("Parameter 'target' expects a size")
    _balloon(machine).set_target(arguments["value"])
    return {}


@command("set_link", name=str, up=bool)
def _set_link(machine: Machine, arguments: Arguments) -> dict[str, Any]:
    device: VirtioNet = _named(machine, arguments["name"], VirtioId.NET)
    machine.on_vcpu(lambda: device.set_link(arguments["up"]))
    return {}


@command("block_resize", device=str, size=int)
def _block_resize(machine: Machine, arguments: Arguments) -> dict[str, Any]:
    device: VirtioBlock = _named(machine, arguments["device"], VirtioId.BLOCK)
    try:
        machine.on_vcpu(lambda: device.resize(arguments["size"]))
    except (OSError, ValueError) as error:
        raise QmpError(f"Could not resize: {error}") from error
    return {}


@command("query-block")
def _query_block(machine: Machine, _arguments: Arguments) -> list[dict[str, Any]]:
    return [
        {
            "device": name,
            "type": "unknown",
            "removable": False,
            "locked": False,
            "inserted": {
                "file": device.image.path,
                "ro": device.image.read_only,
                "image": {"filename": device.image.path, "virtual-size": device.image.size},
            },
        }
        for name, device in _of_kind(machine, VirtioId.BLOCK)
    ]
