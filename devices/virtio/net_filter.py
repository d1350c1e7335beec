"""Which frames the device takes from the network (virtio 1.2, 5.1.6.5; as QEMU's virtio-net)."""

from __future__ import annotations

from dataclasses import dataclass, field

MAC_TABLE_ENTRIES = 64
MAX_VLAN = 4096
_BROADCAST = b"\xff" * 6
_VLAN_TAG = b"\x81\x00"


@dataclass
class ReceiveFilter:
    """What the driver has set through the control queue; after reset everything is taken.

    A table that overflowed takes every frame of its kind. ``vlans`` None takes all of them.
    """

    mac: bytes
    promisc: bool = True
    allmulti: bool = False
    alluni: bool = False
    nomulti: bool = False
    nouni: bool = False
    nobcast: bool = False
    unicast: frozenset[bytes] = frozenset()
    multicast: frozenset[bytes] = frozenset()
    unicast_overflow: bool = False
    multicast_overflow: bool = False
    vlans: set[int] | None = field(default=None)

    def takes(self, frame: bytes) -> bool:
        """Whether a frame is for this guest; frames shorter than a header are not."""
        if len(frame) < 14:
            return False
        if self.promisc:
            return True
        if frame[12:14] == _VLAN_TAG and self.vlans is not None:
            tag = int.from_bytes(frame[14:16], "big") & MAX_VLAN - 1
            if tag not in self.vlans:
                return False
        destination = frame[:6]
        if destination[0] & 1:
            return self._takes_multicast(destination)
        if self.nouni:
            return False
        return (
            self.alluni
            or self.unicast_overflow
            or destination == self.mac
            or destination in self.unicast
        )

    def _takes_multicast(self, destination: bytes) -> bool:
        if destination == _BROADCAST:
            return not self.nobcast
        if self.nomulti:
            return False
        return self.allmulti or self.multicast_overflow or destination in self.multicast
