"""Commands of the control queue (virtio 1.2, 5.1.6.5).

Nothing is read beyond what a command may need, however long the driver's message is.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable
from typing import Protocol

from devices.virtio.net_filter import MAC_TABLE_ENTRIES, MAX_VLAN, ReceiveFilter
from devices.virtio.net_options import MAC_SIZE, NetFeature
from devices.virtio.queue import Element
from emu.memory.endian import GuestEndian

HEADER_SIZE = 2  # class, command
OK, ERROR = 0, 1
_MAX_PAIRS = 0x8000


class ControlClass(enum.IntEnum):
    """First byte of a message."""

    RX = 0
    MAC = 1
    VLAN = 2
    ANNOUNCE = 3
    MQ = 4
    GUEST_OFFLOADS = 5


_RX_COMMANDS = ("promisc", "allmulti", "alluni", "nomulti", "nouni", "nobcast")
_MAC_TABLE_SET, _MAC_ADDR_SET = 0, 1
_VLAN_ADD, _VLAN_DEL = 0, 1
_ANNOUNCE_ACK = 0
_MQ_PAIRS_SET = 0
_GUEST_OFFLOADS_SET = 0


class Controlled(Protocol):
    """What commands work on: the device."""

    filter: ReceiveFilter

    @property
    def endian(self) -> GuestEndian:
        """Byte order of the messages."""

    def has_feature(self, bit: int) -> bool:
        """Whether a feature was negotiated."""

    def acknowledge_announce(self) -> bool:
        """The driver has announced itself; whether it was asked to."""

    def set_queue_pairs(self, pairs: int) -> bool:
        """Use that many queue pairs; whether there are so many."""

    def set_guest_offloads(self, offloads: int) -> bool:
        """Hand over only such incomplete frames; whether all of them were negotiated."""


def serve(device: Controlled, element: Element) -> int:
    """Carry out one message; its acknowledgement, OK or ERROR."""
    kind, command = element.read(0, HEADER_SIZE)
    handler = _HANDLERS.get(kind)
    if handler is None or not device.has_feature(NetFeature.CTRL_VQ):
        return ERROR
    return OK if handler(device, command, _Message(element, device.endian)) else ERROR


class _Message:
    """Reads what follows the header."""

    def __init__(self, element: Element, endian: GuestEndian) -> None:
        self._element = element
        self._order = endian.struct
        self._offset = HEADER_SIZE

    def take(self, size: int) -> bytes | None:
        """The next bytes, or None if there are not so many."""
        data = self._element.read(self._offset, size)
        self._offset += len(data)
        return data if len(data) == size else None

    def skip(self, size: int) -> None:
        """Pass over bytes."""
        self._offset += size

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return self._element.readable_bytes - self._offset

    def integer(self, code: str) -> int | None:
        """An integer in the guest's order, ``code`` as in :mod:`struct`; None if cut off."""
        data = self.take(struct.calcsize(self._order + code))
        return None if data is None else int(struct.unpack(self._order + code, data)[0])


def _receive_mode(device: Controlled, command: int, message: _Message) -> bool:
    on = message.integer("B")
    if on is None or command >= len(_RX_COMMANDS):
        return False
    extra = command >= 2
    if not device.has_feature(NetFeature.CTRL_RX_EXTRA if extra else NetFeature.CTRL_RX):
        return False
    setattr(device.filter, _RX_COMMANDS[command], bool(on))
    return True


def _mac(device: Controlled, command: int, message: _Message) -> bool:
    if command == _MAC_ADDR_SET:
        if message.left != MAC_SIZE or not device.has_feature(NetFeature.CTRL_MAC_ADDR):
            return False
        mac = message.take(MAC_SIZE)
        device.filter.mac = mac if mac is not None else device.filter.mac
        return True
    if command != _MAC_TABLE_SET or not device.has_feature(NetFeature.CTRL_RX):
        return False
    unicast = _table(message, MAC_TABLE_ENTRIES)
    if unicast is None:
        return False
    multicast = _table(message, MAC_TABLE_ENTRIES - len(unicast[0]))
    if multicast is None or message.left:
        return False
    device.filter.unicast, device.filter.unicast_overflow = frozenset(unicast[0]), unicast[1]
    device.filter.multicast, device.filter.multicast_overflow = (
        frozenset(multicast[0]),
        multicast[1],
    )
    return True


def _table(message: _Message, room: int) -> tuple[list[bytes], bool] | None:
    """Addresses of one table, or none of them and True if they are too many; None if cut off."""
    entries = message.integer("I")
    if entries is None or entries * MAC_SIZE > message.left:
        return None
    if entries > room:
        message.skip(entries * MAC_SIZE)
        return [], True
    data = message.take(entries * MAC_SIZE) or b""
    return [data[at : at + MAC_SIZE] for at in range(0, len(data), MAC_SIZE)], False


def _vlan(device: Controlled, command: int, message: _Message) -> bool:
    tag = message.integer("H")
    if tag is None or tag >= MAX_VLAN or device.filter.vlans is None:
        return False
    if command == _VLAN_ADD:
        device.filter.vlans.add(tag)
    elif command == _VLAN_DEL:
        device.filter.vlans.discard(tag)
    else:
        return False
    return True


def _announce(device: Controlled, command: int, message: _Message) -> bool:
    return command == _ANNOUNCE_ACK and device.acknowledge_announce()


def _multiqueue(device: Controlled, command: int, message: _Message) -> bool:
    pairs = message.integer("H")
    if command != _MQ_PAIRS_SET or pairs is None or not 1 <= pairs <= _MAX_PAIRS:
        return False
    return device.has_feature(NetFeature.MQ) and device.set_queue_pairs(pairs)


def _offloads(device: Controlled, command: int, message: _Message) -> bool:
    offloads = message.integer("Q")
    if command != _GUEST_OFFLOADS_SET or offloads is None:
        return False
    if not device.has_feature(NetFeature.CTRL_GUEST_OFFLOADS):
        return False
    return device.set_guest_offloads(offloads)


_HANDLERS: dict[int, Callable[[Controlled, int, _Message], bool]] = {
    ControlClass.RX: _receive_mode,
    ControlClass.MAC: _mac,
    ControlClass.VLAN: _vlan,
    ControlClass.ANNOUNCE: _announce,
    ControlClass.MQ: _multiqueue,
    ControlClass.GUEST_OFFLOADS: _offloads,
}
