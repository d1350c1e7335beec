"""Control messages of the virtio console (virtio 1.2, 5.3.6.2)."""

from __future__ import annotations

import enum
import struct
from collections import deque
from dataclasses import dataclass

from devices.virtio.queue import Element, VirtQueue
from emu.memory.endian import GuestEndian

_SAVED = struct.Struct(">IHHH")  # port, event, value, number of sizes
HEADER_SIZE = 8  # id u32, event u16, value u16


class Event(enum.IntEnum):
    """What a control message says."""

    DEVICE_READY = 0
    DEVICE_ADD = 1
    DEVICE_REMOVE = 2
    PORT_READY = 3
    CONSOLE_PORT = 4
    RESIZE = 5
    PORT_OPEN = 6
    PORT_NAME = 7


@dataclass(frozen=True)
class ControlMessage:
    """One message, in no byte order; ``sizes`` are the two 16-bit fields of RESIZE."""

    port: int
    event: int
    value: int = 1
    name: bytes = b""
    sizes: tuple[int, ...] = ()

    def encode(self, endian: GuestEndian) -> bytes:
        """The message in a byte order."""
        fields = struct.pack(
            f"{endian.struct}IHH{len(self.sizes)}H", self.port, self.event, self.value, *self.sizes
        )
        return fields + self.name

    @classmethod
    def decode(cls, element: Element, endian: GuestEndian) -> ControlMessage | None:
        """The message in a buffer, None if it is too short; nothing behind the header is read."""
        header = element.read(0, HEADER_SIZE)
        if len(header) < HEADER_SIZE:
            return None
        return cls(*struct.unpack(f"{endian.struct}IHH", header))


class ControlBacklog:
    """Messages to the driver that wait for its buffers, so that none is lost.

    Bounded: a driver that asks again and again without giving buffers gets no more than
    ``limit``.  vCPU thread.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._messages: deque[ControlMessage] = deque()

    def __len__(self) -> int:
        return len(self._messages)

    def save(self) -> bytes:
        """The messages for a state stream, big-endian."""
        return b"".join(
            _SAVED.pack(message.port, message.event, message.value, len(message.sizes))
            + struct.pack(f">{len(message.sizes)}HH", *message.sizes, len(message.name))
            + message.name
            for message in self._messages
        )

    def load(self, data: bytes) -> None:
        """Take saved messages; ``ValueError`` if they are none."""
        self._messages.clear()
        at = 0
        try:
            while at < len(data):
                port, event, value, count = _SAVED.unpack_from(data, at)
                *sizes, length = struct.unpack_from(f">{count}HH", data, at + _SAVED.size)
                at += _SAVED.size + 2 * count + 2
                name, at = data[at : at + length], at + length
                self._messages.append(ControlMessage(port, event, value, name, tuple(sizes)))
        except struct.error:
            raise ValueError("control messages are cut short") from None

    def add(self, message: ControlMessage) -> bool:
        """Queue a message; False if there are too many."""
        if len(self._messages) >= self._limit:
            return False
        self._messages.append(message)
        return True

    def clear(self) -> None:
        """Forget them all."""
        self._messages.clear()

    def deliver(self, queue: VirtQueue, endian: GuestEndian) -> list[tuple[Element, int]]:
        """Fill the driver's buffers, one message each; returns what to push.

        A message that is longer than its buffer is cut, as in QEMU.
        """
        used: list[tuple[Element, int]] = []
        while self._messages:
            elements = queue.pop(len(self._messages))
            if not elements:
                break
            for element in elements:
                message = self._messages.popleft()
                used.append((element, element.write(message.encode(endian))))
        return used
