"""The virtio network device (virtio 1.2, 5.1; legacy 5.1.3.2, 5.1.4.1, 5.1.6.1)."""

from __future__ import annotations

import struct
import threading

from devices.host import DeviceHost
from devices.net.base import MAX_FRAME, NetBackend
from devices.virtio import net_control, net_header
from devices.virtio.constants import VirtioId
from devices.virtio.device import VirtioDevice
from devices.virtio.net_filter import ReceiveFilter
from devices.virtio.net_header import GSO_ECN, Gso, HeaderFlag, NetHeader
from devices.virtio.net_options import GUEST_OFFLOADS, MAC_SIZE, NetFeature, NetOptions
from devices.virtio.net_receive import ReceiveQueue
from devices.virtio.net_state import NET_STATE, NetImage
from devices.virtio.queue import Element, VirtQueue
from emu.log import guest_error
from emu.memory.endian import GuestEndian

_LINK_UP, _ANNOUNCE = 1, 2  # status field of the configuration space
_CONFIG_FIELDS = "6sHHHIB"  # mac, status, max_virtqueue_pairs, mtu, speed, duplex
_ARRIVED_LIMIT = 1024  # frames between back end and vCPU thread before the back end pauses
_SEGMENTATION: dict[int, NetFeature] = {
    Gso.TCPV4: NetFeature.HOST_TSO4,
    Gso.TCPV6: NetFeature.HOST_TSO6,
}


class VirtioNet(VirtioDevice):
    """A network card, connected to ``backend`` or to nothing.

    Frames that come before the driver is ready are dropped. When the driver gives no buffers,
    frames wait up to a limit, and the back end is asked to pause. The device does what it offers:
    it completes checksums itself where the back end cannot.
    """

    DEVICE_ID = VirtioId.NET
    STATE = NET_STATE

    def __init__(
        self, name: str, host: DeviceHost, options: NetOptions, backend: NetBackend | None = None
    ) -> None:
        super().__init__(name, host, options.queue_sizes(), options.features(backend))
        self._options = options
        self._backend = backend
        self.link_up = backend is None or backend.link_up
        self.announcing = False
        self.loaded = NetImage(self)
        self.header_size = net_header.LEGACY_SIZE
        self.mergeable = False
        self.queue_pairs = 1  # in use
        self.guest_offloads = 0
        self.frame_headers = backend is not None and backend.vnet_header
        self.plain_header = self._make_plain_header()
        self.filter = ReceiveFilter(options.mac_bytes)
        self._receive_queues = [
            ReceiveQueue(self, queue) for queue in self.queues[0 : 2 * options.pairs : 2]
        ]
        self._flows = [0] * 256  # queue pair that a flow was sent on last
        self._flow_lock = threading.Lock()  # of the four below
        self._arrived: list[bytes] = []
        self._posted = False
        self._paused = False
        self._sending: int | None = None  # thread that is in the back end's send
        self._answers: list[bytes] = []
        if backend is not None:
            backend.set_receiver(self._from_backend)

    # Configuration space and life cycle

    def config_space(self, endian: GuestEndian) -> bytes:
        """mac, status, max_virtqueue_pairs, mtu, speed, duplex, as far as features need."""
        status = (_LINK_UP if self.link_up else 0) | (_ANNOUNCE if self.announcing else 0)
        options = self._options
        space = struct.pack(
            endian.struct + _CONFIG_FIELDS,
            self.filter.mac,
            status,
            options.pairs,
            options.host_mtu,
            options.speed & 0xFFFFFFFF,
            options.duplex_code,
        )
        return space[: self._config_size()]

    def _config_size(self) -> int:
        size = MAC_SIZE
        for feature, end in (
            (NetFeature.STATUS, 8),
            (NetFeature.MQ, 10),
            (NetFeature.MTU, 12),
            (NetFeature.SPEED_DUPLEX, 17),
        ):
            if self.device_features & feature.mask:
                size = end
        return size

    def write_config(self, offset: int, data: bytes, endian: GuestEndian) -> None:
        """A legacy driver without CTRL_MAC_ADDR sets the address here (5.1.4.1)."""
        writable = not self.modern and not self.has_feature(NetFeature.CTRL_MAC_ADDR)
        if not writable or offset >= MAC_SIZE:
            guest_error(self.name, "write to read-only configuration space")
            return
        mac = self.filter.mac
        self.filter.mac = (mac[:offset] + data + mac[offset + len(data) :])[:MAC_SIZE]

    def on_reset(self) -> None:
        """Back to what the options say; waiting frames are dropped."""
        self.filter = ReceiveFilter(self._options.mac_bytes)
        self.announcing = False
        self.queue_pairs = 1
        self._flows = [0] * 256
        for queue in self._receive_queues:
            queue.clear()
        self._flow_control()
        self.on_features()

    def on_features(self) -> None:
        """Header format, filters, offloads and queue numbers follow the features."""
        self.mergeable = self.has_feature(NetFeature.MRG_RXBUF)
        long_header = self.mergeable or self.modern
        self.header_size = net_header.SIZE if long_header else net_header.LEGACY_SIZE
        self.filter.vlans = set() if self.has_feature(NetFeature.CTRL_VLAN) else None
        self._place_control_queue()
        self.set_guest_offloads(self.features & GUEST_OFFLOADS)

    def quiesce(self) -> None:
        """Give receive buffers back that no frame has filled yet."""
        for receive in self._receive_queues:
            receive.give_back()

    def check_loaded(self) -> None:
        """Also know first how large the third queue may be."""
        self._limit_third_queue()
        super().check_loaded()

    def resume(self) -> None:
        """Also take the frames that have come meanwhile."""
        super().resume()
        self._receive_arrived()

    def on_queue_reset(self, queue: VirtQueue) -> None:
        """Forget the elements of a receive queue."""
        index = self._receive_index(queue)
        if index is not None:
            self._receive_queues[index].clear()

    def close(self) -> None:
        """Disconnect from the back end and close it."""
        if self._backend is not None:
            self._backend.set_receiver(None)
            self._backend.close()

    # Queues: receive and transmit in pairs, then control; without MQ that is the third (5.1.2)

    def _control_index(self) -> int:
        return 2 * self._options.pairs if self.has_feature(NetFeature.MQ) else 2

    def _place_control_queue(self) -> None:
        """With several pairs the third queue is a receive queue or, without MQ, for control."""
        if self._options.pairs == 1 or self.queues[2].enabled:
            return
        self._limit_third_queue()
        self.queues[2].size = self.queues[2].max_size

    def _limit_third_queue(self) -> None:
        sizes = self._options.queue_sizes()
        multi = self.has_feature(NetFeature.MQ)
        self.queues[2].record["max_size"] = sizes[2] if multi else sizes[-1]

    def _receive_index(self, queue: VirtQueue) -> int | None:
        index = queue.index
        if index % 2 or index >= self._control_index():
            return None
        return index // 2

    def handle_queue(self, queue: VirtQueue) -> None:
        """Serve a notified queue."""
        receive = self._receive_index(queue)
        if queue.index == self._control_index():
            self._control(queue)
        elif receive is not None:
            self._receive_queues[receive].fill()
            self._flow_control()
        elif queue.index < self._control_index():
            self._transmit(queue)

    def _control(self, queue: VirtQueue) -> None:
        for element in queue.pop():
            if element.readable_bytes < net_control.HEADER_SIZE or not element.writable_bytes:
                self.fail("control message without room for its header or acknowledgement")
                return
            ack = net_control.serve(self, element)
            self.push(queue, [(element, element.write(bytes((ack,))))])
            if self.broken:
                return
        self._go_on(queue)

    def _go_on(self, queue: VirtQueue) -> None:
        """Come back for what is left of more than one batch, after the guest has run."""
        if not self.broken and queue.has_work():
            self.host.post(lambda: self.notify(queue.index))

    # Transmit

    def _transmit(self, queue: VirtQueue) -> None:
        elements = queue.pop()
        frames = []
        for element in elements:
            if element.readable_bytes < self.header_size:
                self.fail("transmit buffer too short for its header")
                return
            frame = self._outgoing(element)
            if frame is not None:
                frames.append(frame)
        if self.queue_pairs > 1:
            self._learn_flows(frames, queue.index // 2)
        answers = self._send(frames)
        self.push(queue, [(element, 0) for element in elements])
        self._receive(answers)
        self._go_on(queue)

    def _outgoing(self, element: Element) -> bytes | None:
        """The frame of an element as the back end takes it; None to drop it."""
        size = element.readable_bytes - self.header_size
        if not net_header.ETHERNET_HEADER <= size <= MAX_FRAME:
            guest_error(self.name, "frame of %d bytes", size)
            return None
        data = element.read()
        backend = self._backend
        if backend is None or not self.link_up:
            return None
        if backend.vnet_header:
            header = NetHeader.unpack(data, self.endian.struct)
            return header.pack("=") + data[self.header_size :]
        if not data[0] and not data[1]:  # flags, gso_type
            return data[self.header_size :]
        return self._finish(data, backend)

    def _finish(self, data: bytes, backend: NetBackend) -> bytes | None:
        """Do what the driver has left to the device."""
        header = NetHeader.unpack(data, self.endian.struct)
        frame = data[self.header_size :]
        kind = header.gso_type & ~GSO_ECN
        if kind != Gso.NONE:
            feature = _SEGMENTATION.get(kind)
            if feature is None or not self.has_feature(feature) or not backend.large_tcp:
                guest_error(self.name, "segmentation of type %d was not negotiated", kind)
                return None
        if not header.flags & HeaderFlag.NEEDS_CSUM or not self.has_feature(NetFeature.CSUM):
            return frame
        done = net_header.complete_checksum(frame, header.csum_start, header.csum_offset)
        if done is None:
            guest_error(self.name, "checksum field outside the frame")
        return done

    def _send(self, frames: list[bytes]) -> list[bytes]:
        """Hand over a batch; returns what the back end answered at once."""
        if self._backend is None or not frames:
            return []
        self._sending = threading.get_ident()
        try:
            self._backend.send(frames)
        finally:
            self._sending = None
        answers, self._answers = self._answers, []
        return answers

    # Receive

    def _from_backend(self, frames: list[bytes]) -> None:
        """A batch from the network; any thread."""
        if self._sending == threading.get_ident():
            self._answers += frames
            return
        with self._flow_lock:
            self._arrived += frames[: 2 * _ARRIVED_LIMIT - len(self._arrived)]
            post, self._posted = not self._posted, True
            if len(self._arrived) >= _ARRIVED_LIMIT:
                self._pause(True)
        if post:
            self.host.post(self._receive_arrived)

    def _receive_arrived(self) -> None:
        with self._flow_lock:
            self._posted = False
            if self.frozen:
                return
            frames, self._arrived = self._arrived, []
        self._receive(frames)
        self._flow_control()

    def _receive(self, frames: list[bytes]) -> None:
        """Sort frames into queues and hand over what fits."""
        ready = self._driver_ready and self.queues[0].enabled
        if not frames or self.broken or not self.link_up or not ready:
            return
        skip = self._frame_start
        for frame in frames:
            bare = frame[skip:] if skip else frame
            if self.filter.takes(bare):
                self._receive_queues[self._steer(bare)].add(frame)
        for queue in self._receive_queues[: self.queue_pairs]:
            if queue.waiting:
                queue.fill()

    def _flow_control(self) -> None:
        """Pause the back end while frames wait for buffers, or let it go on."""
        waiting = sum(len(queue.waiting) for queue in self._receive_queues)
        with self._flow_lock:
            self._pause(waiting + len(self._arrived) >= _ARRIVED_LIMIT // 4)

    def _pause(self, paused: bool) -> None:
        if self._backend is None or paused == self._paused:
            return
        self._paused = paused
        if paused:
            self._backend.pause()
        else:
            self._backend.resume()

    @property
    def _frame_start(self) -> int:
        return net_header.LEGACY_SIZE if self.frame_headers else 0

    def _make_plain_header(self) -> bytes:
        """A receive header that says nothing, or vouches for checksums if back end and driver do.

        num_buffers is 1 also where buffers are not merged (5.1.6.4.1).
        """
        vouched = self._backend is not None and self._backend.checksums_valid
        vouched = vouched and bool(self.guest_offloads & NetFeature.GUEST_CSUM.mask)
        header = NetHeader(HeaderFlag.DATA_VALID if vouched else 0).pack("<")
        header += struct.pack(self.endian.struct + "H", 1)
        return header[: self.header_size]

    # Several queue pairs: a flow comes back on the pair it was sent on (5.1.6.5.5)

    def _steer(self, frame: bytes) -> int:
        if self.queue_pairs == 1:
            return 0
        pair = self._flows[net_header.flow_hash(frame)]
        return pair if pair < self.queue_pairs and self.queues[2 * pair].enabled else 0

    def _learn_flows(self, frames: list[bytes], pair: int) -> None:
        for frame in frames:
            self._flows[net_header.flow_hash(frame[self._frame_start :])] = pair

    # What control commands work on

    def acknowledge_announce(self) -> bool:
        """The driver has announced itself; False if nobody asked it to."""
        asked, self.announcing = self.announcing, False
        return asked

    def set_queue_pairs(self, pairs: int) -> bool:
        """Use that many queue pairs; False if there are fewer."""
        if pairs > self._options.pairs:
            return False
        self.queue_pairs = pairs
        for queue in self._receive_queues[pairs:]:
            queue.waiting.clear()
        return True

    def set_guest_offloads(self, offloads: int) -> bool:
        """Which incomplete frames the guest takes now; False if some were not negotiated."""
        if offloads & ~(self.features & GUEST_OFFLOADS):
            return False
        self.guest_offloads = offloads
        self.plain_header = self._make_plain_header()
        if self._backend is not None:
            self._backend.set_offload(
                csum=bool(offloads & NetFeature.GUEST_CSUM.mask),
                tso4=bool(offloads & NetFeature.GUEST_TSO4.mask),
                tso6=bool(offloads & NetFeature.GUEST_TSO6.mask),
                ecn=bool(offloads & NetFeature.GUEST_ECN.mask),
                ufo=bool(offloads & NetFeature.GUEST_UFO.mask),
            )
        return True

    def on_loaded(self) -> None:
        """Offloads as the driver left them; header and filter follow features and fields."""
        self.filter = self.loaded.filter()
        self.set_guest_offloads(self.loaded.loaded_offloads & self.features & GUEST_OFFLOADS)

    # What the monitor and migration call, on the vCPU thread

    def set_link(self, up: bool) -> None:
        """Pull the cable or put it back (QEMU's `set_link`)."""
        if up == self.link_up:
            return
        self.link_up = up
        if self._backend is not None:
            self._backend.set_link(up)
        if self.has_feature(NetFeature.STATUS):
            self.config_changed()

    def announce(self) -> bool:
        """Ask the driver to tell the network where it is now; False if it cannot."""
        if not (
            self.has_feature(NetFeature.GUEST_ANNOUNCE) and self.has_feature(NetFeature.CTRL_VQ)
        ):
            return False
        self.announcing = True
        self.config_changed()
        return True
