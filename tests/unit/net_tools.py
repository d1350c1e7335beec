"""A host, a back end and a driver for the network device, and frames to send."""

from __future__ import annotations

import queue
import socket
import struct
import time
from collections.abc import Callable, Sequence

from devices.net.base import NetBackend
from devices.virtio.constants import Feature, Status
from devices.virtio.net import VirtioNet
from devices.virtio.net_header import NetHeader
from devices.virtio.net_options import NetFeature, NetOptions
from emu.events import EventLoop
from emu.memory.dma import Dma
from emu.memory.endian import GuestEndian
from emu.memory.ram import GuestRam
from tests.support.ring_driver import Areas, Buffer, SplitDriver

GUEST_MAC = bytes.fromhex("525400123456")
PEER_MAC = bytes.fromhex("525400aabbcc")
RAM_SIZE = 16 << 20
_RINGS, _BUFFERS = 1 << 20, 4 << 20


class NetHost:
    """RAM, an event loop (not started), and the work that was posted."""

    def __init__(self) -> None:
        self.ram = GuestRam(RAM_SIZE)
        self.written: list[tuple[int, int]] = []
        self.dma = Dma(self.ram, lambda address, size: self.written.append((address, size)))
        self.loop = EventLoop()
        self.endian = GuestEndian.BIG
        self.posted: list[Callable[[], None]] = []

    def current_endian(self) -> GuestEndian:
        """The order of the guest that runs."""
        return self.endian

    def post(self, work: Callable[[], None]) -> None:
        """Keep work for :meth:`run`."""
        self.posted.append(work)

    def run(self) -> int:
        """Run what was posted up to now; how much that was."""
        work, self.posted = self.posted, []
        for one in work:
            one()
        return len(work)


class FakeBackend(NetBackend):
    """Keeps what the guest sends; ``answer`` makes frames that come back at once."""

    def __init__(self, *, headers: bool = False, user: bool = False) -> None:
        super().__init__("net0", EventLoop())
        self.vnet_header = headers
        self.sent: list[bytes] = []
        self.paused = False
        self.offload: dict[str, bool] = {}
        self.answer: Callable[[bytes], list[bytes]] = lambda frame: []
        self.large = user

    @property
    def large_tcp(self) -> bool:  # type: ignore[override]
        """As the user back end."""
        return self.large

    @property
    def checksums_valid(self) -> bool:  # type: ignore[override]
        """As the user back end."""
        return self.large

    def send(self, frames: Sequence[bytes]) -> None:
        """Keep frames, answer them."""
        for frame in frames:
            self.sent.append(bytes(frame))
            self.deliver(self.answer(frame))

    def set_offload(self, *, csum: bool, tso4: bool, tso6: bool, ecn: bool, ufo: bool) -> None:
        """Remember what the guest takes."""
        self.offload = {"csum": csum, "tso4": tso4, "tso6": tso6, "ecn": ecn, "ufo": ufo}

    def pause(self) -> None:
        """The device has no room."""
        self.paused = True

    def resume(self) -> None:
        """The device has room again."""
        self.paused = False


class Interrupts:
    """A transport that counts."""

    def __init__(self) -> None:
        self.queues: list[int] = []
        self.config = 0

    def notify_queue(self, index: int) -> None:
        """A queue's interrupt."""
        self.queues.append(index)

    def notify_config(self) -> None:
        """The configuration's interrupt."""
        self.config += 1


class NetGuest:
    """A driver: negotiates ``features`` and places all queues."""

    def __init__(
        self,
        device: VirtioNet,
        host: NetHost,
        endian: GuestEndian = GuestEndian.BIG,
        modern: bool = False,
        features: Sequence[NetFeature | Feature] = (),
        size: int = 0,
    ) -> None:
        self.device, self.host, self.modern = device, host, modern
        self.interrupts = Interrupts()
        device.transport = self.interrupts
        self.endian = GuestEndian.LITTLE if modern else endian
        self.order = self.endian.struct
        host.endian = endian
        device.set_status(0)
        ready = Status.ACKNOWLEDGE | Status.DRIVER
        device.set_status(ready)
        mask = sum(feature.mask for feature in features)
        device.set_features(mask | (Feature.VERSION_1.mask if modern else 0), modern)
        if modern:
            ready |= Status.FEATURES_OK
            device.set_status(ready)
            assert device.status & Status.FEATURES_OK
        merge = NetFeature.MRG_RXBUF in features
        self.header_size = 12 if modern or merge else 10
        self.event_idx = Feature.RING_EVENT_IDX in features
        self.rings: list[SplitDriver] = []
        self._buffers: list[dict[int, list[Buffer]]] = []
        self._next = _BUFFERS
        for index in range(len(device.queues)):
            self._place(index, size)
        device.set_status(ready | Status.DRIVER_OK)

    def _place(self, index: int, size: int) -> None:
        ring = self.device.queues[index]
        if size:
            ring.size = min(size, ring.size)
        base = _RINGS + index * 0x10000
        self.host.ram.write(base, bytes(0x10000))
        areas = Areas(base, base + 0x8000, base + 0xA000, 0)
        memory = self.host.ram.memory
        self.rings.append(SplitDriver(memory, areas, ring.size, self.endian.order, self.event_idx))
        self._buffers.append({})
        ring.place(areas.desc, areas.driver, areas.device)
        self.device.enable_queue(ring)

    def buffer(self, size: int, writable: bool = False, data: bytes = b"") -> Buffer:
        """Fresh RAM."""
        if self._next + size > RAM_SIZE:
            self._next = _BUFFERS
        place = self._next
        self._next += size + 16
        self.host.ram.write(place, data.ljust(size, b"\xee") if writable else data)
        return Buffer(place, size, writable)

    def add(self, index: int, buffers: Sequence[Buffer], kick: bool = True) -> int:
        """Make a chain available."""
        head = self.rings[index].add(buffers)
        assert head is not None
        self._buffers[index][head] = list(buffers)
        if self.rings[index].publish() and kick:
            self.device.notify(index)
        return head

    def give(self, *sizes: int, index: int = 0, kick: bool = True) -> None:
        """Receive buffers of these sizes, each an element."""
        for size in sizes:
            self.add(index, [self.buffer(size, True)], kick=False)
        if kick:
            self.device.notify(index)

    def send(
        self, frame: bytes, header: NetHeader | None = None, index: int = 1, pieces: int = 2
    ) -> None:
        """Transmit; the header has a descriptor of its own unless ``pieces`` is 1."""
        start = (header or NetHeader()).pack(self.order).ljust(self.header_size, b"\0")
        if pieces == 1:
            parts = [start + frame]
        else:
            parts = [start, frame]
        self.add(index, [self.buffer(len(part), data=part) for part in parts])

    def used(self, index: int) -> list[tuple[list[Buffer], int]]:
        """Chains that came back, and how much was written to each."""
        return [
            (self._buffers[index].pop(head), written)
            for head, written in self.rings[index].collect()
        ]

    def received(self, index: int = 0) -> list[bytes]:
        """Frames received, each with its header; pieces of one frame are put together."""
        frames: list[bytes] = []
        missing = 0
        for buffers, written in self.used(index):
            data = b"".join(self.host.ram.read(b.address, b.length) for b in buffers)[:written]
            if missing:
                frames[-1] += data
                missing -= 1
                continue
            frames.append(data)
            if self.header_size == 12:
                missing = struct.unpack_from(self.order + "H", data, 10)[0] - 1
        return frames

    def frames(self, index: int = 0) -> list[bytes]:
        """Frames received without their headers."""
        return [frame[self.header_size :] for frame in self.received(index)]

    def control(self, kind: int, command: int, data: bytes = b"", index: int = 2) -> int:
        """Send a control message; the acknowledgement."""
        message = self.buffer(2 + len(data), data=bytes((kind, command)) + data)
        ack = self.buffer(1, True)
        self.add(index, [message, ack])
        used = self.used(index)
        assert [written for _, written in used] == [1]
        return self.host.ram.read(ack.address, 1)[0]

    def pack(self, form: str, *values: int) -> bytes:
        """A structure in the guest's order."""
        return struct.pack(self.order + form, *values)


def make(
    options: NetOptions | None = None, backend: NetBackend | None = None
) -> tuple[VirtioNet, NetHost]:
    """A device without a driver."""
    host = NetHost()
    return VirtioNet("net0", host, options or NetOptions(), backend), host


# Frames


def frame_of(size: int = 64, destination: bytes = GUEST_MAC, kind: int = 0x88B5) -> bytes:
    """An Ethernet frame with a pattern in it."""
    start = destination + PEER_MAC + kind.to_bytes(2, "big")
    return (start + bytes(n * 7 & 0xFF for n in range(size)))[:size]


def internet_checksum(data: bytes) -> int:
    """RFC 1071, word by word."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def address(text: str) -> bytes:
    """Four bytes of an IPv4 address."""
    return socket.inet_aton(text)


def ipv4(protocol: int, source: str, destination: str, payload: bytes) -> bytes:
    """An IPv4 packet."""
    start = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0)
    start += address(source) + address(destination)
    return start[:10] + struct.pack(">H", internet_checksum(start)) + start[12:] + payload


def pseudo(protocol: int, source: str, destination: str, length: int) -> bytes:
    """The pseudo header of UDP and TCP."""
    return address(source) + address(destination) + struct.pack(">BBH", 0, protocol, length)


def udp(source: str, destination: str, ports: tuple[int, int], data: bytes) -> bytes:
    """A UDP datagram in IPv4 without a checksum."""
    return ipv4(17, source, destination, struct.pack(">HHHH", *ports, 8 + len(data), 0) + data)


def icmp_echo(source: str, destination: str, number: int, data: bytes) -> bytes:
    """A ping in IPv4."""
    start = struct.pack(">BBHHH", 8, 0, 0, 77, number) + data
    start = start[:2] + struct.pack(">H", internet_checksum(start)) + start[4:]
    return ipv4(1, source, destination, start)


def tcp(
    source: str,
    destination: str,
    ports: tuple[int, int],
    sequence: tuple[int, int],
    flags: int,
    data: bytes = b"",
    complete: bool = True,
) -> bytes:
    """A TCP segment in IPv4, its checksum done or left at the pseudo header's sum."""
    segment = struct.pack(">HHIIBBHHH", *ports, *sequence, 0x50, flags, 65535, 0, 0) + data
    over = pseudo(6, source, destination, len(segment))
    value = internet_checksum(over + segment) if complete else ~internet_checksum(over) & 0xFFFF
    segment = segment[:16] + struct.pack(">H", value) + segment[18:]
    return ipv4(6, source, destination, segment)


class Inbox:
    """A receiver that keeps frames for a test on another thread."""

    def __init__(self) -> None:
        self.frames: queue.Queue[bytes] = queue.Queue()
        self.batches: list[int] = []

    def __call__(self, frames: list[bytes]) -> None:
        self.batches.append(len(frames))
        for frame in frames:
            self.frames.put(frame)

    def take(self, wanted: Callable[[bytes], bool] = bool, timeout: float = 10.0) -> bytes:
        """The next frame that is wanted; others are passed over."""
        end = time.monotonic() + timeout
        while True:
            frame = self.frames.get(timeout=max(0.0, end - time.monotonic()))
            if wanted(frame):
                return frame

    def empty(self) -> bool:
        """Whether nothing is there now."""
        return self.frames.empty()
