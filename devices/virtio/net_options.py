"""Properties and features of the network device (virtio 1.2, 5.1.3; names as in QEMU)."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from devices.net.base import NetBackend
from emu.chardev.config import ConfigError

MAC_SIZE = 6
MAX_QUEUE_PAIRS = 64
_DEFAULT_MAC = bytes.fromhex("525400123456")
_MIN_QUEUE, _MAX_RX_QUEUE, _MAX_TX_QUEUE = 256, 1024, 256
_SPEED_UNKNOWN, _DUPLEX_UNKNOWN = -1, 0xFF


class NetFeature(enum.IntEnum):
    """Feature bits by number (virtio 1.2, 5.1.3)."""

    CSUM = 0
    GUEST_CSUM = 1
    CTRL_GUEST_OFFLOADS = 2
    MTU = 3
    MAC = 5
    GUEST_TSO4 = 7
    GUEST_TSO6 = 8
    GUEST_ECN = 9
    GUEST_UFO = 10
    HOST_TSO4 = 11
    HOST_TSO6 = 12
    HOST_ECN = 13
    HOST_UFO = 14
    MRG_RXBUF = 15
    STATUS = 16
    CTRL_VQ = 17
    CTRL_RX = 18
    CTRL_VLAN = 19
    CTRL_RX_EXTRA = 20
    GUEST_ANNOUNCE = 21
    MQ = 22
    CTRL_MAC_ADDR = 23
    SPEED_DUPLEX = 63

    @property
    def mask(self) -> int:
        """The bit itself."""
        return 1 << self.value


GUEST_OFFLOADS = (
    NetFeature.GUEST_CSUM.mask
    | NetFeature.GUEST_TSO4.mask
    | NetFeature.GUEST_TSO6.mask
    | NetFeature.GUEST_ECN.mask
    | NetFeature.GUEST_UFO.mask
)
"""What VIRTIO_NET_CTRL_GUEST_OFFLOADS switches."""


def parse_mac(text: str) -> bytes:
    """Six bytes of "52:54:00:12:34:56" (or with "-"); ConfigError in QEMU's words."""
    if not re.fullmatch(r"[0-9a-fA-F]{2}(?:([:-])[0-9a-fA-F]{2})(?:\1[0-9a-fA-F]{2}){4}", text):
        raise ConfigError(f"Property 'mac' doesn't take value '{text}'")
    return bytes.fromhex(re.sub("[:-]", "", text))


class MacPool:
    """Gives each network device of a machine an address of its own: 52:54:00:12:34:56 and up."""

    def __init__(self) -> None:
        self._used: set[bytes] = set()

    def reserve(self, mac: bytes) -> None:
        """Do not give this one out."""
        self._used.add(mac)

    def take(self) -> bytes:
        """The first free address."""
        for last in range(_DEFAULT_MAC[-1], 0xFF):
            mac = _DEFAULT_MAC[:-1] + bytes((last,))
            if mac not in self._used:
                self._used.add(mac)
                return mac
        raise ConfigError("too many network devices without an address of their own")


@dataclass(frozen=True, kw_only=True)
class NetOptions:
    """Properties of virtio-net; ConfigError when they cannot be.

    `mac` None is 52:54:00:12:34:56; a machine with several devices gives each one from a
    :class:`MacPool`. `queue_pairs` is the number of queues of the netdev, used with `mq`.
    Offloads that are on are offered only as far as the back end makes them true. `speed` is in
    Mbit/s, -1: unknown; `host_mtu` in bytes, 0: not told.
    """

    mac: str | None = None
    netdev: str | None = None
    csum: bool = True
    guest_csum: bool = True
    guest_tso4: bool = True
    guest_tso6: bool = True
    guest_ecn: bool = True
    guest_ufo: bool = True
    guest_announce: bool = True
    host_tso4: bool = True
    host_tso6: bool = True
    host_ecn: bool = True
    host_ufo: bool = True
    mrg_rxbuf: bool = True
    status: bool = True
    ctrl_vq: bool = True
    ctrl_rx: bool = True
    ctrl_vlan: bool = True
    ctrl_rx_extra: bool = True
    ctrl_mac_addr: bool = True
    ctrl_guest_offloads: bool = True
    mq: bool = False
    queue_pairs: int = 1
    rx_queue_size: int = 256
    tx_queue_size: int = 256
    host_mtu: int = 0
    speed: int = _SPEED_UNKNOWN
    duplex: str | None = None

    def __post_init__(self) -> None:
        if self.mac is not None:
            parse_mac(self.mac)
        for name, size, most in (
            ("rx_queue_size", self.rx_queue_size, _MAX_RX_QUEUE),
            ("tx_queue_size", self.tx_queue_size, _MAX_RX_QUEUE),
        ):
            if not _MIN_QUEUE <= size <= most or size & size - 1:
                raise ConfigError(
                    f"Invalid {name} (= {size}), must be a power of 2 "
                    f"between {_MIN_QUEUE} and {most}."
                )
        if not 1 <= self.queue_pairs <= MAX_QUEUE_PAIRS:
            raise ConfigError(
                f"Invalid number of queue pairs (= {self.queue_pairs}), "
                f"must be between 1 and {MAX_QUEUE_PAIRS}"
            )
        if not 0 <= self.host_mtu <= 0xFFFF:
            raise ConfigError(f"Property 'host_mtu' doesn't take value '{self.host_mtu}'")
        if self.duplex not in (None, "half", "full"):
            raise ConfigError("'duplex' must be 'half' or 'full'")
        if not _SPEED_UNKNOWN <= self.speed <= 0x7FFFFFFF:
            raise ConfigError("'speed' must be between 0 and INT_MAX")

    @property
    def mac_bytes(self) -> bytes:
        """The address as six bytes."""
        return parse_mac(self.mac) if self.mac is not None else _DEFAULT_MAC

    @property
    def pairs(self) -> int:
        """Queue pairs the device has."""
        return self.queue_pairs if self.mq else 1

    @property
    def duplex_code(self) -> int:
        """The config space's duplex field."""
        return {"half": 0, "full": 1}.get(self.duplex or "", _DUPLEX_UNKNOWN)

    def queue_sizes(self) -> list[int]:
        """Largest sizes of the queues, the control queue last."""
        transmit = min(self.tx_queue_size, _MAX_TX_QUEUE)
        return [self.rx_queue_size, transmit] * self.pairs + [CONTROL_QUEUE_SIZE]

    def features(self, backend: NetBackend | None) -> int:
        """Feature bits to offer with a back end."""
        wanted = {NetFeature.MAC}
        wanted |= {
            feature for feature in NetFeature if getattr(self, feature.name.lower(), False) is True
        }
        if self.host_mtu:
            wanted.add(NetFeature.MTU)
        if self.speed >= 0 or self.duplex is not None:
            wanted.add(NetFeature.SPEED_DUPLEX)
        if not self.ctrl_vq:
            wanted -= _NEED_CONTROL
        return sum(feature.mask for feature in wanted - self._untrue(wanted, backend))

    def _untrue(self, wanted: set[NetFeature], backend: NetBackend | None) -> set[NetFeature]:
        """Offloads nobody would do.

        The device itself completes the checksums of what the guest sends (CSUM). Large segments
        need a back end that takes them; incomplete frames for the guest come from a back end with
        headers only. GUEST_CSUM also lets the device vouch for checksums.
        """
        untrue: set[NetFeature] = set()
        headers = backend is not None and backend.vnet_header
        if not headers:
            untrue |= _LARGE_RECEIVE | {NetFeature.HOST_UFO}
        if not headers and not (backend is not None and backend.large_tcp):
            untrue |= _LARGE_SEND
        if not headers and not (backend is not None and backend.checksums_valid):
            untrue |= {NetFeature.GUEST_CSUM, NetFeature.CTRL_GUEST_OFFLOADS}
        if NetFeature.CSUM not in wanted:
            untrue |= _LARGE_SEND | {NetFeature.HOST_UFO}
        if NetFeature.GUEST_CSUM not in wanted:
            untrue |= _LARGE_RECEIVE | {NetFeature.CTRL_GUEST_OFFLOADS}
        return untrue


CONTROL_QUEUE_SIZE = 64
_LARGE_SEND = {NetFeature.HOST_TSO4, NetFeature.HOST_TSO6, NetFeature.HOST_ECN}
_LARGE_RECEIVE = {
    NetFeature.GUEST_TSO4,
    NetFeature.GUEST_TSO6,
    NetFeature.GUEST_ECN,
    NetFeature.GUEST_UFO,
}
_NEED_CONTROL = {
    NetFeature.CTRL_RX,
    NetFeature.CTRL_VLAN,
    NetFeature.CTRL_RX_EXTRA,
    NetFeature.CTRL_MAC_ADDR,
    NetFeature.CTRL_GUEST_OFFLOADS,
    NetFeature.GUEST_ANNOUNCE,
    NetFeature.MQ,
}
