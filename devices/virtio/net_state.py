"""What a network device adds to a state stream: filters, offloads, queue pairs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from devices.virtio.net_filter import MAC_TABLE_ENTRIES, MAX_VLAN, ReceiveFilter
from emu.migration.fields import blob, flag, raw, u8, u16, u64

if TYPE_CHECKING:
    from devices.virtio.net import VirtioNet

MAC_SIZE = 6
_FLAGS = ("promisc", "allmulti", "alluni", "nomulti", "nouni", "nobcast")
_OVERFLOWS = ("unicast_overflow", "multicast_overflow")


class NetImage:
    """The receive filter and offloads between device and stream."""

    def __init__(self, device: VirtioNet) -> None:
        self._device = device
        self._filter = ReceiveFilter(bytes(MAC_SIZE))
        self.loaded_offloads = 0

    @property
    def mac(self) -> bytes:
        """The address."""
        return self._device.filter.mac

    @mac.setter
    def mac(self, value: bytes) -> None:
        self._filter = ReceiveFilter(value)

    @property
    def flags(self) -> int:
        """Bits for the filter's switches, in the order of _FLAGS and _OVERFLOWS."""
        names = (*_FLAGS, *_OVERFLOWS)
        return sum(getattr(self._device.filter, name) << bit for bit, name in enumerate(names))

    @flags.setter
    def flags(self, value: int) -> None:
        for bit, name in enumerate((*_FLAGS, *_OVERFLOWS)):
            setattr(self._filter, name, bool(value >> bit & 1))

    @property
    def unicast(self) -> bytes:
        """Addresses, one after the other."""
        return b"".join(sorted(self._device.filter.unicast))

    @unicast.setter
    def unicast(self, value: bytes) -> None:
        self._filter.unicast = _addresses(value)

    @property
    def multicast(self) -> bytes:
        """Addresses, one after the other."""
        return b"".join(sorted(self._device.filter.multicast))

    @multicast.setter
    def multicast(self, value: bytes) -> None:
        self._filter.multicast = _addresses(value)

    @property
    def vlans(self) -> bytes:
        """A bit for each VLAN, little-endian; all of them when there is no filter."""
        vlans = self._device.filter.vlans
        if vlans is None:
            return b""
        return sum(1 << vlan for vlan in vlans).to_bytes(MAX_VLAN // 8, "little")

    @vlans.setter
    def vlans(self, value: bytes) -> None:
        bits = int.from_bytes(value, "little")
        chosen = {vlan for vlan in range(MAX_VLAN) if bits >> vlan & 1}
        self._filter.vlans = chosen if value else None

    @property
    def offloads(self) -> int:
        """Which incomplete frames the guest takes."""
        return self._device.guest_offloads

    @offloads.setter
    def offloads(self, value: int) -> None:
        self.loaded_offloads = value

    def filter(self) -> ReceiveFilter:
        """The filter that was loaded."""
        return self._filter


def _addresses(value: bytes) -> frozenset[bytes]:
    if len(value) % MAC_SIZE:
        raise ValueError("a table of addresses is cut short")
    return frozenset(value[at : at + MAC_SIZE] for at in range(0, len(value), MAC_SIZE))


NET_STATE = (
    raw("mac", MAC_SIZE, "loaded.mac"),
    u8("filter", "loaded.flags"),
    blob("unicast", MAC_TABLE_ENTRIES * MAC_SIZE, "loaded.unicast"),
    blob("multicast", MAC_TABLE_ENTRIES * MAC_SIZE, "loaded.multicast"),
    blob("vlans", MAX_VLAN // 8, "loaded.vlans"),
    u64("curr_guest_offloads", "loaded.offloads"),
    u16("curr_queue_pairs", "queue_pairs"),
    flag("announcing"),
)
