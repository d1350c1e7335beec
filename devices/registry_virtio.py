"""The virtio devices: their properties, and how each is made from them.

Names and defaults of properties are QEMU's; those that an options dataclass of the device has
(with `_` for `-`) are handed to it, the others have no effect or only one possible value.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from devices.properties import (
    BOOL,
    ERROR_POLICY,
    INT32,
    MAC_ADDRESS,
    ON_OFF_AUTO,
    RNG_LINK,
    SIZE,
    STRING,
    UINT16,
    UINT32,
    UINT64,
    Property,
    Values,
)
from emu.chardev.config import ConfigError

if TYPE_CHECKING:
    from devices.block.image import Image
    from devices.host import DeviceHost
    from devices.net.base import NetBackend
    from devices.virtio.device import VirtioDevice

MAX_VECTORS = 2048  # of an MSI-X table (PCI 3.0, 6.8.2.3)
_T = TypeVar("_T")


class Backends(Protocol):
    """Host sides by id; each is opened once, for one device. ConfigError if that cannot be."""

    def drive(self, name: str, *, share_write: bool) -> Image:
        """The disk image of a -drive or -blockdev; `share_write`: others may write to it too."""

    def netdev(self, name: str) -> NetBackend:
        """The network of a -netdev."""

    def entropy_file(self, name: str) -> str | None:
        """The file of an rng-random object; None for rng-builtin."""

    def mac_address(self, wanted: str | None) -> str:
        """An address for a network device: what it wants, or the next free one."""


@dataclass(frozen=True)
class VirtioType:
    """A virtio device type.

    `make` builds it from name, host, properties and backends. `vectors` is QEMU's default number
    of MSI-X vectors. `required` is a property that must be given.
    """

    name: str
    category: str
    description: str
    properties: tuple[Property, ...]
    make: Callable[[str, DeviceHost, Values, Backends], VirtioDevice]
    vectors: Callable[[Values], int] = lambda values: 2
    has_vectors: bool = True
    only_one: bool = False


def options_from(cls: type[_T], values: Values, **extra: object) -> _T:
    """Make an options dataclass from the properties that it has; those not given keep defaults."""
    names = {entry.name for entry in dataclasses.fields(cls)}  # type: ignore[arg-type]
    given: dict[str, Any] = {key.replace("-", "_"): value for key, value in values.items()}
    chosen = {key: value for key, value in given.items() if key in names and value is not None}
    return cls(**{**chosen, **extra})


def _flag(name: str, default: bool = True, *supported: bool) -> Property:
    return Property(name, BOOL, default, "on/off", supported or None)


_BOOT_INDEX = Property("bootindex", INT32, None, "order of boot devices")


def _make_block(name: str, host: DeviceHost, values: Values, backends: Backends) -> VirtioDevice:
    from devices.virtio.block import VirtioBlock
    from devices.virtio.block_options import BlockOptions

    options = options_from(BlockOptions, values)  # before the image is opened
    image = backends.drive(str(values["drive"]), share_write=bool(values.get("share-rw")))
    return VirtioBlock(name, host, options, image)


_BLOCK = (
    _BOOT_INDEX,
    _flag("config-wce"),
    _flag("discard"),
    Property("discard_granularity", SIZE, None, "bytes (default: the logical block size)"),
    Property("drive", STRING, None, "Node name or ID of a block device to use as a backend"),
    Property("logical_block_size", SIZE, None, "A power of two between 512 B and 2 MiB"),
    Property("max-discard-sectors", UINT32, 4194303),
    Property("max-write-zeroes-sectors", UINT32, 4194303),
    Property("min_io_size", SIZE, 0),
    Property("num-queues", UINT16, 65535, "65535: one per CPU; virtio-blk-device: one"),
    Property("opt_io_size", SIZE, 0),
    Property("physical_block_size", SIZE, None, "A power of two between 512 B and 2 MiB"),
    Property("queue-size", UINT16, 256),
    Property("request-merging", BOOL, True, "no effect"),
    Property("rerror", ERROR_POLICY, "auto", "reading errors", ("report", "auto")),
    _flag("scsi", False, False),
    Property("serial", STRING, None, "serial number, 20 characters"),
    _flag("share-rw", False),
    Property("werror", ERROR_POLICY, "auto", "writing errors", ("report", "auto")),
    Property("write-cache", ON_OFF_AUTO),
    _flag("write-zeroes"),
)


def _make_net(name: str, host: DeviceHost, values: Values, backends: Backends) -> VirtioDevice:
    from devices.virtio.net import VirtioNet
    from devices.virtio.net_options import NetOptions

    netdev, mac = values.get("netdev"), values.get("mac")
    wanted = mac if isinstance(mac, str) else None
    options = options_from(NetOptions, values, mac=backends.mac_address(wanted))
    return VirtioNet(
        name, host, options, backends.netdev(netdev) if isinstance(netdev, str) else None
    )


_NET = (
    _BOOT_INDEX,
    *(
        _flag(name)
        for name in (
            "csum",
            "ctrl_guest_offloads",
            "ctrl_mac_addr",
            "ctrl_rx",
            "ctrl_rx_extra",
            "ctrl_vlan",
            "ctrl_vq",
            "guest_announce",
            "guest_csum",
            "guest_ecn",
            "guest_tso4",
            "guest_tso6",
            "guest_ufo",
            "host_ecn",
            "host_tso4",
            "host_tso6",
            "host_ufo",
            "mrg_rxbuf",
            "status",
        )
    ),
    Property("duplex", STRING, None, "half or full"),
    _flag("failover", False, False),
    _flag("guest_rsc_ext", False, False),
    _flag("hash", False, False),
    Property("host_mtu", UINT16, 0),
    Property("mac", MAC_ADDRESS, None, "Ethernet 6-byte MAC Address, example: 52:54:00:12:34:56"),
    _flag("mq", False),
    Property("netdev", STRING, None, "ID of a netdev to use as a backend"),
    _flag("rss", False, False),
    Property("rx_queue_size", UINT16, 256),
    Property("speed", INT32, -1, "Mbit/s"),
    Property("tx", STRING, None, "no effect"),
    Property("tx_queue_size", UINT16, 256),
)


def _make_serial(name: str, host: DeviceHost, values: Values, backends: Backends) -> VirtioDevice:
    from devices.virtio.console import SerialOptions, VirtioSerial

    return VirtioSerial(name, host, options_from(SerialOptions, values))


_SERIAL = (_flag("emergency-write"), Property("max_ports", UINT32, 31))


def _make_rng(name: str, host: DeviceHost, values: Values, backends: Backends) -> VirtioDevice:
    from devices.virtio.rng import RngOptions, VirtioRng

    rng = values.get("rng")
    filename = backends.entropy_file(rng) if isinstance(rng, str) and rng else None
    options = options_from(RngOptions, values, filename=filename)
    try:
        return VirtioRng(name, host, options)
    except ConfigError as error:
        raise ConfigError(str(error), f"objects[{rng}]") from error


_RNG = (
    Property("max-bytes", UINT64, (1 << 63) - 1, "bytes given in each period"),
    Property("period", UINT32, 1 << 16, "milliseconds"),
    Property("rng", RNG_LINK, None, "ID of an rng-* object (default: rng-builtin)"),
)


def _make_balloon(name: str, host: DeviceHost, values: Values, backends: Backends) -> VirtioDevice:
    from devices.virtio.balloon import BalloonOptions, VirtioBalloon

    return VirtioBalloon(name, host, options_from(BalloonOptions, values))


_BALLOON = (
    _flag("deflate-on-oom", False),
    _flag("free-page-hint", False, False),
    _flag("free-page-reporting", False),
    Property("guest-stats-polling-interval", UINT32, 0, "seconds; 0: never"),
    _flag("page-poison"),
)


def _block_vectors(values: Values) -> int:
    """A vector for each queue, and one for configuration changes."""
    queues = values.get("num-queues")
    return 2 if not isinstance(queues, int) or queues == 65535 else queues + 1


#: A new virtio device is a line here.
VIRTIO_TYPES = (
    VirtioType("blk", "Storage devices", "disk", _BLOCK, _make_block, _block_vectors),
    VirtioType("net", "Network devices", "Ethernet", _NET, _make_net, lambda values: 4),
    VirtioType("serial", "Input devices", "bus of console and serial ports", _SERIAL, _make_serial),
    VirtioType("rng", "Misc devices", "random numbers", _RNG, _make_rng),
    VirtioType(
        "balloon",
        "Misc devices",
        "memory balloon",
        _BALLOON,
        _make_balloon,
        lambda values: 0,
        has_vectors=False,
        only_one=True,
    ),
)
