"""-netdev, -nic and -net: networks, and adapters in their short form."""

from __future__ import annotations

from devices.properties import MAC_ADDRESS
from emu.config import ConfigError
from emu.options.builder import ConfigBuilder
from emu.options.netdevs import netdev_from_pairs, netdev_list
from emu.options.nics import NIC_MODELS, Nic
from emu.options.syntax import parse_keyvals, parse_pairs
from emu.options.table import HelpRequested, option

_GROUP = "Network"
_HELP = ("help", "?")


@option(
    "netdev",
    argument="type,id=id[,prop=value...]",
    help="network, for -device virtio-net-pci,netdev=ID: user (NAT), socket, stream, dgram, tap "
    "('-netdev help' for their properties); also in JSON",
    group=_GROUP,
)
def netdev(build: ConfigBuilder, text: str) -> None:
    """-netdev: a back end with an id."""
    pairs = parse_pairs(text, implied="type")
    if dict(pairs).get("type") in _HELP:
        raise HelpRequested(netdev_list())
    build.add_netdev(netdev_from_pairs(pairs))


@option(
    "nic",
    argument="none|type[,model=driver][,mac=addr][,prop=value...]",
    help="network and adapter in one, as in -nic user,model=virtio-net-pci (the default model)",
    group=_GROUP,
)
def nic(build: ConfigBuilder, text: str) -> None:
    """-nic: a back end and the device that uses it."""
    pairs = parse_pairs(text, implied="type")
    given = dict(pairs)
    if given.get("model") in _HELP:
        raise HelpRequested("\n".join(["Supported NIC models:", *NIC_MODELS]))
    if given.get("type") in _HELP:
        raise HelpRequested(netdev_list())
    if given.get("type") == "none":
        return
    rest = [(key, value) for key, value in pairs if key not in ("model", "mac")]
    config = netdev_from_pairs(rest, build.nics.next_name())
    build.add_netdev(config)
    build.nics.add(Nic(build.where, given.get("model"), _mac(given), config.id))


@option(
    "net",
    argument="none|nic[,model=driver][,macaddr=addr][,netdev=id]|type[,prop=...]",
    help="the old form: one -net nic and one -net type make an adapter with that network",
    group=_GROUP,
)
def net(build: ConfigBuilder, text: str) -> None:
    """-net: half of a network adapter."""
    pairs = parse_pairs(text, implied="type")
    kind = dict(pairs).get("type")
    if kind in _HELP:
        raise HelpRequested(netdev_list())
    if kind == "none":
        return
    if kind == "nic":
        known = ("type", "model", "macaddr", "netdev", "id", "name", "vectors", "addr")
        given = parse_keyvals(text, implied="type", known=known)
        given["mac"] = given.pop("macaddr", "")
        entry = Nic(build.where, given.get("model"), _mac(given), given.get("netdev"))
        build.nics.add_half(entry)
    else:
        config = netdev_from_pairs(pairs, build.nics.next_name())
        build.add_netdev(config)
        build.nics.add_network(build.where, config.id)


def _mac(given: dict[str, str]) -> str | None:
    text = given.get("mac")
    if not text:
        return None
    try:
        MAC_ADDRESS.parse("nic", "mac", text)
    except ConfigError:
        raise ConfigError("invalid syntax for ethernet address") from None
    return text
