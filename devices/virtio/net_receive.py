"""Frames from the network into the driver's buffers (virtio 1.2, 5.1.6.3 and 5.1.6.4)."""

from __future__ import annotations

import struct
from collections import deque
from typing import Protocol

from devices.net.base import VNET_HEADER
from devices.virtio.net_header import (
    LEGACY_SIZE,
    HeaderFlag,
    NetHeader,
    complete_checksum,
    is_dhcp_reply,
)
from devices.virtio.queue import Element, VirtQueue
from emu.log import guest_error
from emu.memory.endian import GuestEndian

WAITING_LIMIT = 1024
"""Frames that wait for buffers of one queue; what comes beyond is dropped."""


class ReceivingDevice(Protocol):
    """What a receive queue needs of its device."""

    name: str
    broken: bool
    header_size: int
    mergeable: bool

    frame_headers: bool  # frames come with a header of the host's
    plain_header: bytes  # for frames that come without one, num_buffers 1 included

    @property
    def endian(self) -> GuestEndian:
        """Byte order of the header."""

    def push(self, queue: VirtQueue, used: list[tuple[Element, int]]) -> None:
        """Return elements."""

    def check_queue(self, queue: VirtQueue) -> None:
        """Break the device if the ring turned out bad."""

    def fail(self, why: str) -> None:
        """The driver broke the rules."""


class ReceiveQueue:
    """One receive queue: the frames that wait for it, and elements taken but not filled yet.

    Frames wait while the driver has given too few buffers. vCPU thread only.
    """

    def __init__(self, device: ReceivingDevice, queue: VirtQueue) -> None:
        self.waiting: deque[bytes] = deque()
        self.taken: deque[Element] = deque()
        self._device = device
        self._queue = queue

    def clear(self) -> None:
        """Forget everything: the queue or the device is reset."""
        self.waiting.clear()
        self.taken.clear()

    def give_back(self) -> None:
        """Give the elements that are not filled back to the queue; frames wait on."""
        self._queue.rewind(list(self.taken))
        self.taken.clear()

    def add(self, frame: bytes) -> None:
        """A frame has come; :meth:`fill` hands it over."""
        if len(self.waiting) < WAITING_LIMIT:
            self.waiting.append(frame)

    def fill(self) -> None:
        """Hand over what fits into the driver's buffers, with one interrupt at most.

        The driver is asked for notifications only while frames wait for buffers.
        """
        queue = self._queue
        if queue.record["notification"]:
            queue.set_notification(False)
        used: list[tuple[Element, int]] = []
        while self.waiting and not self._device.broken:
            if not self._hand_over(used) and not queue.set_notification(True):
                break
        if used:
            self._device.push(queue, used)

    def _hand_over(self, used: list[tuple[Element, int]]) -> bool:
        """Place the first waiting frame, or drop it; False if buffers are missing."""
        device = self._device
        header, payload = device.plain_header, self.waiting[0]
        if device.frame_headers:
            header, payload = self._translate(payload)
        elements = self._elements(len(header) + len(payload))
        if elements is None:
            return False
        self.waiting.popleft()
        if len(elements) > 1:
            header = header[:LEGACY_SIZE] + struct.pack(device.endian.struct + "H", len(elements))
        if elements:
            _scatter(header + payload, elements, used)
        return True

    def _translate(self, frame: bytes) -> tuple[bytes, bytes]:
        """The host's header as the guest's, and the frame behind it."""
        device = self._device
        header = NetHeader.unpack(frame, "=")
        payload = frame[VNET_HEADER:]
        if header.flags & HeaderFlag.NEEDS_CSUM and is_dhcp_reply(payload):
            done = complete_checksum(payload, header.csum_start, header.csum_offset)
            if done is not None:
                return device.plain_header, done
        return header.pack(device.endian.struct) + device.plain_header[LEGACY_SIZE:], payload

    def _elements(self, need: int) -> list[Element] | None:
        """Take elements with room for so many bytes; None if there are too few, [] if never.

        Without mergeable buffers one element must do, else the frame is dropped.
        """
        taken, device = self.taken, self._device
        room = count = 0
        while room < need:
            if count == len(taken) and not self._take_more():
                if count < self._queue.size:
                    return None
                guest_error(device.name, "all receive buffers together are too small for a frame")
                return []
            writable = taken[count].writable_bytes
            if writable < (1 if count else device.header_size):
                device.fail("receive buffer too short")
                return None
            room += writable
            count += 1
            if room < need and not device.mergeable:
                guest_error(device.name, "receive buffer of %d bytes too small for a frame", room)
                return []
        return [taken.popleft() for _ in range(count)]

    def _take_more(self) -> bool:
        elements = self._queue.pop(max(1, len(self.waiting) - len(self.taken)))
        self.taken.extend(elements)
        if not elements:
            self._device.check_queue(self._queue)
        return bool(elements)


def _scatter(data: bytes, elements: list[Element], used: list[tuple[Element, int]]) -> None:
    """Fill elements one after the other (5.1.6.3.2: each to its end before the next)."""
    if len(elements) == 1:
        used.append((elements[0], elements[0].write(data)))
        return
    view, done = memoryview(data), 0
    for element in elements:
        written = element.write(view[done : done + element.writable_bytes])
        used.append((element, written))
        done += written
