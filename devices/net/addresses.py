"""The addresses of a user-mode network, from what the user gave (QEMU's `-netdev user`)."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass

from emu.chardev.config import ConfigError

_MAX_PORT = 65535


@dataclass(frozen=True)
class Ipv4Addresses:
    """Network, mask, host (gateway), first DHCP address and name server as 32-bit integers."""

    network: int
    mask: int
    host: int
    dhcp_start: int
    dns: int


@dataclass(frozen=True)
class Ipv6Addresses:
    """Prefix, its length in bits, host (gateway) and name server as 16 bytes each."""

    prefix: bytes
    prefix_length: int
    host: bytes
    dns: bytes


@dataclass(frozen=True)
class HostForward:
    """A port of the host that leads to one of the guest; addresses are 32-bit integers.

    A guest address of 0 is the first DHCP address; a host port of 0 is chosen by the host.
    """

    udp: bool
    host: int
    host_port: int
    guest: int
    guest_port: int


def parse_ipv4(text: str, error: str) -> int:
    """An address in any form `inet_aton` takes; ConfigError with that message for others."""
    try:
        return int.from_bytes(socket.inet_aton(text), "big")
    except (OSError, UnicodeError):
        raise ConfigError(error) from None


def parse_ipv6(text: str, error: str) -> bytes:
    """An IPv6 address; ConfigError with that message if it is none."""
    try:
        return socket.inet_pton(socket.AF_INET6, text)
    except (OSError, UnicodeError):
        raise ConfigError(error) from None


def _class_mask(network: int) -> int:
    """Mask of a network given without one: the address classes, as QEMU divides them."""
    for bits, pattern, mask in (
        (0x80000000, 0x00000000, 0xFF000000),  # class A
        (0xFFF00000, 0xAC100000, 0xFFF00000),  # private 172.16.0.0/12
        (0xC0000000, 0x80000000, 0xFFFF0000),  # class B
        (0xFFFF0000, 0xC0A80000, 0xFFFF0000),  # private 192.168.0.0/16
        (0xFFFF0000, 0xC6120000, 0xFFFE0000),  # benchmarks 198.18.0.0/15
        (0xE0000000, 0xE0000000, 0xFFFFFF00),
    ):
        if network & bits == pattern:
            return mask
    return 0xFFFFFFF0


def _network_and_mask(net: str) -> tuple[int, int]:
    address, slash, suffix = net.partition("/")
    network = parse_ipv4(address, "Failed to parse netmask")
    if not slash:
        return network, _class_mask(network)
    if not suffix.isascii() or not suffix.isdigit():
        return network, parse_ipv4(suffix, "Failed to parse netmask (trailing chars)")
    bits = int(suffix[:4])
    if not 4 <= bits <= 32:
        raise ConfigError("Invalid netmask provided (must be in range 4-32)")
    return network, 0xFFFFFFFF << (32 - bits) & 0xFFFFFFFF


def resolve_ipv4(
    net: str | None, host: str | None, dhcpstart: str | None, dns: str | None, restrict: bool
) -> Ipv4Addresses:
    """Addresses of the network; ConfigError in QEMU's words if they do not fit each other.

    What is not given is x.x.2.2 for the host, 2.3 for the name server and 2.15 for DHCP, cut to
    the network's size.
    """
    network, mask = _network_and_mask(net) if net is not None else (0x0A000200, 0xFFFFFF00)
    network &= mask
    inside = ~mask & 0xFFFFFFFF

    def given(text: str | None, default: int, error: str) -> int:
        return network | default & inside if text is None else parse_ipv4(text, error)

    gateway = given(host, 0x0202, "Failed to parse host")
    if gateway & mask != network:
        raise ConfigError("Host doesn't belong to network")
    server = given(dns, 0x0203, "Failed to parse DNS")
    if restrict and server & mask != network:
        raise ConfigError("DNS doesn't belong to network")
    if server == gateway:
        raise ConfigError("DNS must be different from host")
    first = given(dhcpstart, 0x020F, "Failed to parse DHCP start address")
    if first & mask != network:
        raise ConfigError("DHCP doesn't belong to network")
    if first in (gateway, server):
        raise ConfigError("DHCP must be different from host and DNS")
    return Ipv4Addresses(network, mask, gateway, first, server)


def resolve_ipv6(
    prefix: str | None, length: int | None, host: str | None, dns: str | None, restrict: bool
) -> Ipv6Addresses:
    """Addresses of the IPv6 network, fec0::/64 unless told; ConfigError as for IPv4."""
    base = parse_ipv6(prefix or "fec0::", "Failed to parse IPv6 prefix")
    bits = length or 64
    if not 0 <= bits <= 126:
        raise ConfigError(
            "Invalid IPv6 prefix provided (IPv6 prefix length must be between 0 and 126)"
        )

    def given(text: str | None, default: int, what: str) -> bytes:
        if text is None:
            return base[:15] + bytes((base[15] | default,))
        return parse_ipv6(text, f"Failed to parse IPv6 {what}")

    network = ipaddress.IPv6Network((base, bits), strict=False)
    gateway = given(host, 2, "host")
    if host is not None and ipaddress.IPv6Address(gateway) not in network:
        raise ConfigError("IPv6 Host doesn't belong to network")
    server = given(dns, 3, "DNS")
    if dns is not None and restrict and ipaddress.IPv6Address(server) not in network:
        raise ConfigError("IPv6 DNS doesn't belong to network")
    return Ipv6Addresses(base, bits, gateway, server)


def parse_hostfwd(rule: str) -> HostForward:
    """A rule `[tcp|udp]:[host address]:host port-[guest address]:guest port`.

    ConfigError in QEMU's words.
    """

    def fail(why: str) -> ConfigError:
        return ConfigError(f"Invalid host forwarding rule '{rule}' ({why})")

    def split(text: str, separator: str, why: str) -> tuple[str, str]:
        head, found, tail = text.partition(separator)
        if not found:
            raise fail(why)
        return head, tail

    def address(text: str, why: str) -> int:
        try:
            return parse_ipv4(text, "") if text else 0
        except ConfigError:
            raise fail(why) from None

    def port(text: str, lowest: int, why: str) -> int:
        try:
            number = int(text, 0)
        except ValueError:
            raise fail(why) from None
        if not lowest <= number <= _MAX_PORT:
            raise fail(why)
        return number

    protocol, rest = split(rule, ":", "No : separators")
    if protocol not in ("tcp", "udp", ""):
        raise fail("Bad protocol name")
    host_text, rest = split(rest, ":", "Missing : separator")
    host = address(host_text, "Bad host address")
    port_text, rest = split(rest, "-", "Bad host port separator")
    host_port = port(port_text, 0, "Bad host port")
    guest_text, guest_port_text = split(rest, ":", "Missing guest address")
    guest = address(guest_text, "Bad guest address")
    guest_port = port(guest_port_text, 1, "Bad guest port")
    return HostForward(protocol == "udp", host, host_port, guest, guest_port)


def parse_host_port(text: str) -> tuple[str, int]:
    """`[host]:port` of the socket back end; ConfigError in QEMU's words. The host may be empty."""
    host, colon, port_text = text.rpartition(":")
    if not colon:
        raise ConfigError(f"host address '{text}' doesn't contain ':' separating host from port")
    try:
        port = int(port_text, 0)
    except ValueError:
        raise ConfigError(f"port number '{port_text}' is invalid") from None
    if not 0 <= port <= _MAX_PORT:
        raise ConfigError(f"port number '{port_text}' is invalid")
    return host.removeprefix("[").removesuffix("]"), port
