"""What a console adds to a state stream: its ports, and messages the driver has not taken yet."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from emu.migration.fields import blob, flag, u16

if TYPE_CHECKING:
    from devices.virtio.console import VirtioSerial

_PORT = struct.Struct(">IBBBII")  # nr, ready, guest and host connected, offset, bytes of input
_MAX_PORTS_SIZE = 64 << 20
_MAX_BACKLOG = 1 << 20


def _save_ports(device: VirtioSerial) -> bytes:
    saved = b""
    for nr, port in sorted(device.ports.items()):
        waiting = port.input.save() if port.input is not None else b""
        flags = port.guest_ready, port.guest_connected, port.host_connected
        saved += _PORT.pack(nr, *flags, port.offset, len(waiting)) + waiting
    return saved


def _load_ports(device: VirtioSerial, data: bytes) -> None:
    at = 0
    seen = set()
    while at < len(data):
        if at + _PORT.size > len(data):
            raise ValueError("ports are cut short")
        nr, ready, guest, host, offset, size = _PORT.unpack_from(data, at)
        waiting = data[at + _PORT.size : at + _PORT.size + size]
        at += _PORT.size + size
        port = device.ports.get(nr)
        if port is None:
            raise ValueError(f"there is no port {nr} here")
        if nr in seen:
            raise ValueError(f"port {nr} comes twice")
        if len(waiting) != size:
            raise ValueError(f"input of port {nr} is cut short")
        seen.add(nr)
        port.guest_ready, port.guest_connected = bool(ready), bool(guest)
        port.host_connected, port.offset = bool(host), offset
        if port.input is not None:
            port.input.load(waiting)
    if missing := set(device.ports) - seen:
        raise ValueError(f"the source has no port {min(missing)}")


CONSOLE_STATE = (
    u16("cols"),
    u16("rows"),
    flag("driver_knows_ports"),
    blob("ports", _MAX_PORTS_SIZE, getter=_save_ports, setter=_load_ports),
    blob(
        "control_messages",
        _MAX_BACKLOG,
        getter=lambda device: device.backlog.save(),
        setter=lambda device, data: device.backlog.load(data),
    ),
)
