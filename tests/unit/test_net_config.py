"""Configuration of network back ends: defaults, and errors in QEMU 7.2's words."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import Any

import pytest

from devices.net.addresses import HostForward, parse_hostfwd
from devices.net.config import (
    DgramNetConfig,
    NetdevConfig,
    SocketAddress,
    SocketNetConfig,
    StreamNetConfig,
    TapConfig,
    UserNetConfig,
)
from emu.chardev.config import ConfigError

UNIX = SocketAddress(type="unix", path="/tmp/x")
INET = SocketAddress(type="inet", host="127.0.0.1", port=5)


def refuses(make: Callable[..., object], message: str, **values: Any) -> None:
    """Check the whole message."""
    with pytest.raises(ConfigError) as caught:
        make(**values)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ipv4": False, "ipv6": False}, "IPv4 and IPv6 disabled"),
        (
            {"ipv4": False, "net": "10.0.2.0/24"},
            "IPv4 disabled but netmask/host/dns provided",
        ),
        ({"ipv6": False, "ipv6_dns": "::1"}, "IPv6 disabled but prefix/host6/dns6 provided"),
        ({"net": "abc"}, "Failed to parse netmask"),
        ({"net": "10.0.2.0/x"}, "Failed to parse netmask (trailing chars)"),
        ({"net": "10.0.2.0/33"}, "Invalid netmask provided (must be in range 4-32)"),
        ({"net": "10.0.2.0/0"}, "Invalid netmask provided (must be in range 4-32)"),
        ({"host": "x"}, "Failed to parse host"),
        ({"host": "1.2.3.4"}, "Host doesn't belong to network"),
        ({"dns": "q"}, "Failed to parse DNS"),
        ({"dns": "10.0.2.2"}, "DNS must be different from host"),
        ({"dns": "8.8.8.8", "restrict": True}, "DNS doesn't belong to network"),
        ({"dhcpstart": "z"}, "Failed to parse DHCP start address"),
        ({"dhcpstart": "1.2.3.4"}, "DHCP doesn't belong to network"),
        ({"dhcpstart": "10.0.2.3"}, "DHCP must be different from host and DNS"),
        ({"ipv6_prefix": "zz"}, "Failed to parse IPv6 prefix"),
        (
            {"ipv6_prefixlen": 200},
            "Invalid IPv6 prefix provided (IPv6 prefix length must be between 0 and 126)",
        ),
        ({"ipv6_host": "zz"}, "Failed to parse IPv6 host"),
        ({"ipv6_host": "fe80::1"}, "IPv6 Host doesn't belong to network"),
        ({"hostname": "a" * 256}, "'vhostname' parameter cannot exceed 255 bytes"),
        ({"domainname": ""}, "'domainname' parameter cannot be empty"),
        (
            {"hostfwd": ("foo",)},
            "Invalid host forwarding rule 'foo' (No : separators)",
        ),
        ({"guestfwd": ("tcp:10.0.2.4:1-null",)}, "guestfwd is not supported"),
    ],
)
def test_user_network_that_cannot_be(values: dict[str, Any], message: str) -> None:
    refuses(UserNetConfig, message, id="n", **values)


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ("sctp::1-:1", "Bad protocol name"),
        ("tcp:1", "Missing : separator"),
        ("tcp:x:1-:1", "Bad host address"),
        ("tcp::22:22", "Bad host port separator"),
        ("tcp::99999-:1", "Bad host port"),
        ("tcp::x-:1", "Bad host port"),
        ("tcp::1-22", "Missing guest address"),
        ("tcp::1-x:22", "Bad guest address"),
        ("tcp::1-:0", "Bad guest port"),
        ("tcp::1-:", "Bad guest port"),
    ],
)
def test_bad_forwarding_rule(rule: str, reason: str) -> None:
    refuses(parse_hostfwd, f"Invalid host forwarding rule '{rule}' ({reason})", rule=rule)


def test_forwarding_rules() -> None:
    assert parse_hostfwd("tcp::2222-:22") == HostForward(False, 0, 2222, 0, 22)
    assert parse_hostfwd(":127.0.0.1:0-10.0.2.16:0x50") == HostForward(
        False, 0x7F000001, 0, 0x0A000210, 80
    )
    assert parse_hostfwd("udp:127.1:1-:2").udp


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (None, "10.0.2.0/24 10.0.2.2 10.0.2.3 10.0.2.15"),
        ("192.168.7.0/24", "192.168.7.0/24 192.168.7.2 192.168.7.3 192.168.7.15"),
        ("192.168.7.99/255.255.255.0", "192.168.7.0/24 192.168.7.2 192.168.7.3 192.168.7.15"),
        ("192.168.0.0", "192.168.0.0/16 192.168.2.2 192.168.2.3 192.168.2.15"),
        ("172.16.0.0", "172.16.0.0/12 172.16.2.2 172.16.2.3 172.16.2.15"),
        ("10.1.0.0", "10.0.0.0/8 10.0.2.2 10.0.2.3 10.0.2.15"),
    ],
)
def test_addresses_follow_the_network(net: str | None, expected: str) -> None:
    found = UserNetConfig(id="n", net=net).ipv4_addresses()
    text = [str(ipaddress.IPv4Address(a)) for a in (found.host, found.dns, found.dhcp_start)]
    network = ipaddress.IPv4Network((found.network, bin(found.mask).count("1")))
    assert f"{network} {' '.join(text)}" == expected


def test_ipv6_addresses() -> None:
    found = UserNetConfig(id="n", ipv6_prefix="fd00:1::", ipv6_prefixlen=48).ipv6_addresses()
    assert str(ipaddress.IPv6Address(found.host)) == "fd00:1::2"
    assert str(ipaddress.IPv6Address(found.dns)) == "fd00:1::3"
    assert found.prefix_length == 48


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (SocketNetConfig, {}, "exactly one of listen=, connect=, mcast= or udp= is required"),
        (
            SocketNetConfig,
            {"listen": ":1", "connect": ":2"},
            "exactly one of listen=, connect=, mcast= or udp= is required",
        ),
        (
            SocketNetConfig,
            {"listen": "foo"},
            "host address 'foo' doesn't contain ':' separating host from port",
        ),
        (SocketNetConfig, {"listen": ":x"}, "port number 'x' is invalid"),
        (SocketNetConfig, {"listen": ":99999"}, "port number '99999' is invalid"),
        (SocketNetConfig, {"udp": "127.0.0.1:2"}, "localaddr= is mandatory with udp="),
        (
            SocketNetConfig,
            {"mcast": "1.2.3.4:5"},
            "specified mcastaddr 1.2.3.4 (0x01020304) does not contain a multicast address",
        ),
        (DgramNetConfig, {}, "dgram requires local= parameter"),
        (DgramNetConfig, {"remote": UNIX}, "dgram requires local= parameter"),
        (
            DgramNetConfig,
            {"local": UNIX},
            "type=inet or type=unix requires remote parameter",
        ),
        (
            DgramNetConfig,
            {"local": UNIX, "remote": INET},
            "remote and local types must be the same",
        ),
        (
            StreamNetConfig,
            {"addr": UNIX, "server": True, "reconnect": 1.0},
            "'reconnect' option is incompatible with socket in server mode",
        ),
        (
            TapConfig,
            {"ifname": "tap0", "fd": 3},
            "ifname=, script=, downscript=, vnet_hdr=, helper=, queues=, fds=, "
            "and vhostfds= are invalid with fd=",
        ),
        (
            TapConfig,
            {"script": "/etc/qemu-ifup"},
            "tap scripts are not supported: use script=no,downscript=no",
        ),
        (TapConfig, {"ifname": "a" * 16}, f"interface name '{'a' * 16}' is too long"),
    ],
)
def test_socket_or_tap_that_cannot_be(
    kind: type[NetdevConfig], values: dict[str, Any], message: str
) -> None:
    refuses(kind, message, id="n", **values)


def test_socket_address_that_cannot_be() -> None:
    refuses(SocketAddress, "Parameter 'path' is missing", type="unix")
    refuses(SocketAddress, "Parameter 'type' does not accept value 'vsock'", type="vsock")


def test_bytes_that_are_no_text_are_no_address() -> None:
    with pytest.raises(ConfigError, match="Bad host address"):
        parse_hostfwd("tcp:\udcff:1-:2")
    with pytest.raises(ConfigError, match="Failed to parse IPv6 prefix"):
        UserNetConfig(id="n", ipv6_prefix="\udcff")


@pytest.mark.parametrize("name", ["hostname", "domainname", "tftp_server_name", "bootfile"])
def test_names_of_any_bytes_have_a_longest(name: str) -> None:
    limit = 127 if name == "bootfile" else 255
    values: dict[str, Any] = {name: "\udcff" * limit}
    UserNetConfig(id="n", **values)
    with pytest.raises(ConfigError, match=f"cannot exceed {limit} bytes"):
        UserNetConfig(id="n", **{name: values[name] + "x"})
