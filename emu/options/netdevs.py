"""Network back ends as the command line writes them (`-netdev`, and what -nic and -net share)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from devices.net.config import (
    DgramNetConfig,
    NetdevConfig,
    SocketAddress,
    SocketNetConfig,
    StreamNetConfig,
    TapConfig,
    UserNetConfig,
)
from devices.properties import BOOL, INT32, STRING, UINT32, PropertyType, Value
from emu.config import ConfigError
from emu.options.syntax import check_identifier

Pairs = Sequence[tuple[str, str]]
_Types = Mapping[str, PropertyType]

#: Parameters that may be given several times.
_LISTS = ("hostfwd", "guestfwd", "dnssearch")
_ADDRESS = ("type", "host", "port", "path", "str")
#: Parameters of an address that change nothing here.
_IGNORED = ("ipv4", "ipv6", "keep-alive", "numeric", "to", "mptcp", "abstract", "tight")


@dataclass(frozen=True)
class NetdevType:
    """A type of back end: its form for the help, its parameters, and what makes it.

    `addresses` are parameters that are a socket address ("addr" stands for "addr.type" ...).
    """

    form: str
    parameters: _Types
    make: Callable[..., NetdevConfig]
    addresses: tuple[str, ...] = ()


_USER: _Types = {
    **dict.fromkeys(("ipv4", "ipv6", "restrict"), BOOL),
    "ipv6-prefixlen": UINT32,
    **dict.fromkeys(
        (
            *("net", "host", "hostname", "dhcpstart", "dns", "ipv6-prefix", "ipv6-host"),
            *("ipv6-dns", "domainname", "tftp", "tftp-server-name", "bootfile"),
            *_LISTS,
        ),
        STRING,
    ),
}

NETDEVS: Mapping[str, NetdevType] = {
    "user": NetdevType(
        "[,net=addr[/mask]][,host=addr][,restrict=on|off][,hostname=host][,dhcpstart=addr]"
        "[,dns=addr][,dnssearch=domain][,domainname=domain][,tftp=dir][,bootfile=f]"
        "[,hostfwd=rule][,ipv4=on|off][,ipv6=on|off]",
        _USER,
        UserNetConfig,
    ),
    "socket": NetdevType(
        ",listen=[host]:port | connect=host:port | mcast=maddr:port[,localaddr=addr] | "
        "udp=host:port,localaddr=[host]:port | fd=h",
        {
            "fd": INT32,
            **dict.fromkeys(("listen", "connect", "mcast", "udp", "localaddr"), STRING),
        },
        SocketNetConfig,
    ),
    "stream": NetdevType(
        "[,server=on|off][,reconnect=seconds],addr.type=inet|unix|fd"
        "[,addr.host=host][,addr.port=port][,addr.path=path][,addr.str=fd]",
        {"server": BOOL, "reconnect": UINT32},
        StreamNetConfig,
        ("addr",),
    ),
    "dgram": NetdevType(
        ",local.type=inet|unix|fd[,local.host=...][,remote.type=...]", {}, DgramNetConfig,
        ("local", "remote"),
    ),
    "tap": NetdevType(
        "[,ifname=name][,fd=h][,vnet_hdr=on|off],script=no,downscript=no",
        {
            "ifname": STRING,
            "fd": INT32,
            "vnet_hdr": BOOL,
            "script": STRING,
            "downscript": STRING,
        },
        TapConfig,
    ),
}  # fmt: skip


def netdev_from_pairs(pairs: Pairs, label: str | None = None) -> NetdevConfig:
    """Return the back end that the parameters describe, among them "type" and "id".

    `label` is the id if none is given. ConfigError in QEMU's words.
    """
    rest = [(key, value) for key, value in pairs if key not in ("type", "id")]
    single = dict(pairs)
    if "type" not in single:
        raise ConfigError("Parameter 'type' is missing")
    kind = find_netdev(single["type"])
    name = single.get("id", label)
    if name is None:
        raise ConfigError("Parameter 'id' is missing")
    if "id" in single:
        check_identifier(name)
    return kind.make(id=name, **_parameters(kind, rest))


def find_netdev(name: str) -> NetdevType:
    """Return the type with that name."""
    if name == "hubport":
        raise ConfigError("netdev type 'hubport' is not supported: there are no hubs")
    if name not in NETDEVS:
        raise ConfigError(f"Parameter 'type' does not accept value '{name}'")
    return NETDEVS[name]


def _parameters(kind: NetdevType, rest: Pairs) -> dict[str, object]:
    """Arguments of the configuration's class."""
    result: dict[str, object] = {}
    lists: dict[str, list[Value]] = {}
    addresses: dict[str, dict[str, str]] = {}
    for key, text in rest:
        owner, dot, member = key.partition(".")
        if owner in kind.addresses and (member in _ADDRESS + _IGNORED if dot else True):
            # JSON's {"str": ...} of a descriptor comes without its name.
            addresses.setdefault(owner, {})[member or "str"] = text
        elif key not in kind.parameters:
            raise ConfigError(f"Invalid parameter '{key}'")
        elif key in _LISTS:
            lists.setdefault(key, []).append(text)
        else:
            result[key.replace("-", "_")] = kind.parameters[key].parse("netdev", key, text)
    result.update({key: tuple(members) for key, members in lists.items()})
    result.update({key: _address(key, given) for key, given in addresses.items()})
    if kind.make is StreamNetConfig and "addr" not in result:
        raise ConfigError("Parameter 'addr' is missing")
    return result


def _address(name: str, given: Mapping[str, str]) -> SocketAddress:
    if "type" not in given:
        raise ConfigError(f"Parameter '{name}.type' is missing")
    kind = given["type"]
    needed = {"inet": ("host", "port"), "unix": ("path",), "fd": ("str",)}.get(kind, ())
    for key in needed:
        if key not in given:
            raise ConfigError(f"Parameter '{name}.{key}' is missing")
    if kind == "inet":
        port = given["port"]
        if not port.isdecimal() or int(port) > 65535:
            raise ConfigError(f"port '{port}' is out of range")
        return SocketAddress(type=kind, host=given["host"], port=int(port))
    if kind == "fd":
        if not given["str"].isdecimal():
            raise ConfigError(f"'{given['str']}' is no file descriptor")
        return SocketAddress(type=kind, fd=int(given["str"]))
    return SocketAddress(type=kind, path=given.get("path", ""))


def netdev_list() -> str:
    """The text of `-netdev help`."""
    lines = [f"  {name:8} {entry.form}" for name, entry in NETDEVS.items()]
    return "\n".join(["Available netdev backend types:", *lines])
