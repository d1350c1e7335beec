"""What each network back end can be told, as frozen dataclasses (QEMU 7.2's `-netdev`).

Names are QEMU's with `-` and `.` replaced by `_`. Each class checks itself when it is made;
errors are in QEMU's words.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from devices.net.addresses import (
    HostForward,
    Ipv4Addresses,
    Ipv6Addresses,
    parse_host_port,
    parse_hostfwd,
    resolve_ipv4,
    resolve_ipv6,
)
from emu.chardev.config import ConfigError

if TYPE_CHECKING:
    from devices.net.base import NetBackend
    from emu.events import EventLoop

_IFNAMSIZ = 16
_MAX_BOOTFILE = 127  # and a NUL, in a BOOTP message (RFC 951)


@dataclass(frozen=True, kw_only=True)
class NetdevConfig:
    """What every network back end has; the subclasses are the types."""

    id: str


@dataclass(frozen=True, kw_only=True)
class UserNetConfig(NetdevConfig):
    """User-mode network (`-netdev user`): NAT by libslirp, no privileges needed."""

    ipv4: bool = True
    net: str | None = None
    host: str | None = None
    dhcpstart: str | None = None
    dns: str | None = None
    ipv6: bool = True
    ipv6_prefix: str | None = None
    ipv6_prefixlen: int | None = None
    ipv6_host: str | None = None
    ipv6_dns: str | None = None
    restrict: bool = False
    hostname: str | None = None
    domainname: str | None = None
    dnssearch: tuple[str, ...] = ()
    tftp: str | None = None
    tftp_server_name: str | None = None
    bootfile: str | None = None
    hostfwd: tuple[str, ...] = ()
    guestfwd: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.ipv4 and (self.net or self.host or self.dns):
            raise ConfigError("IPv4 disabled but netmask/host/dns provided")
        if not self.ipv6 and (self.ipv6_prefix or self.ipv6_host or self.ipv6_dns):
            raise ConfigError("IPv6 disabled but prefix/host6/dns6 provided")
        if not self.ipv4 and not self.ipv6:
            raise ConfigError("IPv4 and IPv6 disabled")
        self.ipv4_addresses()
        self.ipv6_addresses()
        self._check_names()
        self.host_forwards()
        if self.guestfwd:
            raise ConfigError("guestfwd is not supported")

    def _check_names(self) -> None:
        if self.domainname == "":
            raise ConfigError("'domainname' parameter cannot be empty")
        for name, text in (
            ("domainname", self.domainname),
            ("vhostname", self.hostname),  # QEMU's name of it
            ("tftp-server-name", self.tftp_server_name),
        ):
            if text is not None and len(os.fsencode(text)) > 255:
                raise ConfigError(f"'{name}' parameter cannot exceed 255 bytes")
        if self.bootfile is not None and len(os.fsencode(self.bootfile)) > _MAX_BOOTFILE:
            raise ConfigError(f"'bootfile' parameter cannot exceed {_MAX_BOOTFILE} bytes")

    def ipv4_addresses(self) -> Ipv4Addresses:
        """The IPv4 network."""
        return resolve_ipv4(self.net, self.host, self.dhcpstart, self.dns, self.restrict)

    def ipv6_addresses(self) -> Ipv6Addresses:
        """The IPv6 network."""
        return resolve_ipv6(
            self.ipv6_prefix, self.ipv6_prefixlen, self.ipv6_host, self.ipv6_dns, self.restrict
        )

    def host_forwards(self) -> list[HostForward]:
        """The forwarding rules, in the order given."""
        return [parse_hostfwd(rule) for rule in self.hostfwd]


@dataclass(frozen=True, kw_only=True)
class SocketNetConfig(NetdevConfig):
    """Socket to another emulator (`-netdev socket`): exactly one of the four addresses.

    `listen` and `connect` are TCP (each frame after its length, 32 bits big-endian), `mcast` and
    `udp` carry one frame in a datagram. `localaddr` is the interface for `mcast`, and where to
    listen for `udp`. A lone `fd` is an open socket.
    """

    listen: str | None = None
    connect: str | None = None
    mcast: str | None = None
    udp: str | None = None
    localaddr: str | None = None
    fd: int | None = None

    def __post_init__(self) -> None:
        given = (self.listen, self.connect, self.mcast, self.udp, self.fd)
        if sum(one is not None for one in given) != 1:
            raise ConfigError("exactly one of listen=, connect=, mcast= or udp= is required")
        if self.localaddr is not None and self.mcast is None and self.udp is None:
            raise ConfigError("localaddr= is only valid with mcast= or udp=")
        if self.udp is not None and self.localaddr is None:
            raise ConfigError("localaddr= is mandatory with udp=")
        for text in (self.listen, self.connect, self.udp):
            if text is not None:
                parse_host_port(text)
        if self.udp is not None and self.localaddr is not None:
            parse_host_port(self.localaddr)
        if self.mcast is not None:
            _check_multicast(self.mcast)


def _check_multicast(text: str) -> None:
    host, _ = parse_host_port(text)
    try:
        address = ipaddress.IPv4Address(host)
    except ValueError:
        return  # a name: known only when it is looked up
    if not address.is_multicast:
        raise ConfigError(
            f"specified mcastaddr {host} (0x{int(address):08x}) "
            "does not contain a multicast address"
        )


@dataclass(frozen=True, kw_only=True)
class SocketAddress:
    """QEMU's SocketAddress: `type` is "inet" (`host`, `port`), "unix" (`path`) or "fd" (`fd`)."""

    type: str
    host: str = ""
    port: int = 0
    path: str = ""
    fd: int = -1

    def __post_init__(self) -> None:
        if self.type not in ("inet", "unix", "fd"):
            raise ConfigError(f"Parameter 'type' does not accept value '{self.type}'")
        if self.type == "unix" and not self.path:
            raise ConfigError("Parameter 'path' is missing")
        if self.type == "unix" and len(os.fsencode(self.path)) > 107:
            raise ConfigError(f"UNIX socket path '{self.path}' is too long")
        if self.type == "inet" and not 0 <= self.port <= 65535:
            raise ConfigError(f"port {self.port} is out of range")

    def __str__(self) -> str:
        if self.type == "unix":
            return f"unix:{self.path}"
        return f"fd:{self.fd}" if self.type == "fd" else f"tcp:{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class StreamNetConfig(NetdevConfig):
    """Stream socket (`-netdev stream`), same format on the wire as `socket`.

    `reconnect`: seconds between a client's attempts; 0: it connects once.
    """

    addr: SocketAddress
    server: bool = False
    reconnect: float = 0.0

    def __post_init__(self) -> None:
        if self.reconnect < 0:
            raise ConfigError("reconnect must not be negative")
        if self.reconnect and self.server:
            raise ConfigError("'reconnect' option is incompatible with socket in server mode")


@dataclass(frozen=True, kw_only=True)
class DgramNetConfig(NetdevConfig):
    """Datagram socket (`-netdev dgram`): a frame in a datagram from `local` to `remote`.

    A multicast address in `remote` joins that group; `local` is then the interface, if given.
    """

    local: SocketAddress | None = None
    remote: SocketAddress | None = None

    def __post_init__(self) -> None:
        if self.multicast:
            return
        if self.local is None:
            raise ConfigError("dgram requires local= parameter")
        if self.local.type == "fd":
            if self.remote is not None:
                raise ConfigError("type=fd does not take remote= parameter")
        elif self.remote is None:
            raise ConfigError("type=inet or type=unix requires remote parameter")
        elif self.remote.type != self.local.type:
            raise ConfigError("remote and local types must be the same")

    @property
    def multicast(self) -> bool:
        """Whether the remote address is a multicast group."""
        if self.remote is None or self.remote.type != "inet":
            return False
        try:
            return ipaddress.IPv4Address(self.remote.host).is_multicast
        except ValueError:
            return False


@dataclass(frozen=True, kw_only=True)
class TapConfig(NetdevConfig):
    """Interface of the host's kernel (`-netdev tap`); scripts are never run.

    `ifname` is an existing or new interface, chosen by the kernel if empty; `fd` is an open
    descriptor of one. `vnet_hdr`: None takes offload headers if the kernel has them.
    """

    ifname: str = ""
    fd: int | None = None
    vnet_hdr: bool | None = None
    script: str = "no"
    downscript: str = "no"

    def __post_init__(self) -> None:
        if self.fd is not None and (self.ifname or self.vnet_hdr is not None):
            raise ConfigError(
                "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, fds=, "
                "and vhostfds= are invalid with fd="
            )
        if self.script not in ("no", "") or self.downscript not in ("no", ""):
            raise ConfigError("tap scripts are not supported: use script=no,downscript=no")
        if len(os.fsencode(self.ifname)) >= _IFNAMSIZ:
            raise ConfigError(f"interface name '{self.ifname}' is too long")


def open_netdev(config: NetdevConfig, loop: EventLoop) -> NetBackend:
    """Open the back end; ConfigError, one line, if the host refuses. Main thread."""
    # Imported when used: each would cost every start a few milliseconds.
    match config:
        case UserNetConfig():
            from devices.net.user import UserBackend

            return UserBackend(config, loop)
        case SocketNetConfig() | StreamNetConfig() | DgramNetConfig():
            from devices.net.socket import open_socket

            return open_socket(config, loop)
        case TapConfig():
            from devices.net.tap import TapBackend

            return TapBackend(config, loop)
        case _:
            raise ConfigError(f"netdev '{config.id}' has no known type")
