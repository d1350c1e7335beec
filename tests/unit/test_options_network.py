"""-netdev, -nic and -net."""

from __future__ import annotations

import pytest

from devices.net.config import (
    DgramNetConfig,
    NetdevConfig,
    SocketAddress,
    SocketNetConfig,
    StreamNetConfig,
    TapConfig,
    UserNetConfig,
)
from emu.__main__ import main
from emu.config import DeviceConfig, MachineConfig
from emu.options import parse_command_line

MAC = "52:54:00:aa:bb:cc"


def parse(*argv: str) -> MachineConfig:
    return parse_command_line(argv, warn=lambda message: None)


NETDEVS: list[tuple[str, NetdevConfig]] = [
    ("user,id=n", UserNetConfig(id="n")),
    (
        "user,id=n,net=10.1.0.0/16,restrict=on,ipv6=off,hostfwd=tcp::2222-:22,hostfwd=udp::1-:2",
        UserNetConfig(
            id="n",
            net="10.1.0.0/16",
            restrict=True,
            ipv6=False,
            hostfwd=("tcp::2222-:22", "udp::1-:2"),
        ),
    ),
    (
        "user,id=n,tftp-server-name=x,ipv6-prefix=fec1::,ipv6-prefixlen=48,dnssearch=a,,b",
        UserNetConfig(
            id="n",
            tftp_server_name="x",
            ipv6_prefix="fec1::",
            ipv6_prefixlen=48,
            dnssearch=("a,b",),
        ),
    ),
    (
        '{"type":"user","id":"n","restrict":true,"hostfwd":[{"str":"tcp::1-:2"}]}',
        UserNetConfig(id="n", restrict=True, hostfwd=("tcp::1-:2",)),
    ),
    ("socket,id=n,listen=:1234", SocketNetConfig(id="n", listen=":1234")),
    ("socket,id=n,fd=7", SocketNetConfig(id="n", fd=7)),
    (
        "stream,id=n,server=on,addr.type=unix,addr.path=/s",
        StreamNetConfig(id="n", addr=SocketAddress(type="unix", path="/s"), server=True),
    ),
    (
        '{"type":"stream","id":"n","addr":{"type":"inet","host":"h","port":"44"},"reconnect":5}',
        StreamNetConfig(id="n", addr=SocketAddress(type="inet", host="h", port=44), reconnect=5),
    ),
    (
        '{"type":"stream","id":"n","addr":{"type":"fd","str":"3"}}',
        StreamNetConfig(id="n", addr=SocketAddress(type="fd", fd=3)),
    ),
    (
        "dgram,id=n,local.type=inet,local.host=h,local.port=1,"
        "remote.type=inet,remote.host=g,remote.port=2",
        DgramNetConfig(
            id="n",
            local=SocketAddress(type="inet", host="h", port=1),
            remote=SocketAddress(type="inet", host="g", port=2),
        ),
    ),
    (
        "tap,id=n,ifname=tap0,script=no,downscript=no,vnet_hdr=off",
        TapConfig(id="n", ifname="tap0", vnet_hdr=False),
    ),
]


@pytest.mark.parametrize(("text", "expected"), NETDEVS)
def test_netdev(text: str, expected: NetdevConfig) -> None:
    assert parse("-netdev", text).netdevs == {"n": expected}


NICS: list[tuple[list[str], tuple[DeviceConfig, ...]]] = [
    (["-nic", "none"], ()),
    (["-net", "none"], ()),
    (["-nic", "user"], (DeviceConfig("virtio-net-pci", {"netdev": "__org.qemu.nic0"}),)),
    (
        ["-nic", f"user,model=virtio,mac={MAC},id=n"],
        (DeviceConfig("virtio-net-pci", {"netdev": "n", "mac": MAC}),),
    ),
    (
        ["-nic", "user,model=virtio-net-pci-non-transitional"],
        (DeviceConfig("virtio-net-pci-non-transitional", {"netdev": "__org.qemu.nic0"}),),
    ),
    (
        ["-nic", "user", "-M", "virtmmio"],
        (DeviceConfig("virtio-net-device", {"netdev": "__org.qemu.nic0"}),),
    ),
    (
        ["-net", "user,restrict=on", "-net", f"nic,model=virtio,macaddr={MAC}"],
        (DeviceConfig("virtio-net-pci", {"netdev": "__org.qemu.nic0", "mac": MAC}),),
    ),
    (["-net", "nic"], (DeviceConfig("virtio-net-pci"),)),
    (
        ["-netdev", "user,id=a", "-net", "nic,netdev=a", "-device", "virtio-rng"],
        (DeviceConfig("virtio-net-pci", {"netdev": "a"}), DeviceConfig("virtio-rng-pci")),
    ),
    (
        ["-device", "virtio-rng-pci", "-nic", "user,id=a"],
        (DeviceConfig("virtio-net-pci", {"netdev": "a"}), DeviceConfig("virtio-rng-pci")),
    ),
]


@pytest.mark.parametrize(("argv", "expected"), NICS)
def test_nic_is_a_device_before_the_others(
    argv: list[str], expected: tuple[DeviceConfig, ...]
) -> None:
    assert parse(*argv).devices == expected


def test_parameters_of_nic_reach_its_network() -> None:
    config = parse("-nic", "user,id=a,hostfwd=tcp::1-:2", "-nic", "socket,connect=h:1")
    assert config.netdevs == {
        "a": UserNetConfig(id="a", hostfwd=("tcp::1-:2",)),
        "__org.qemu.nic1": SocketNetConfig(id="__org.qemu.nic1", connect="h:1"),
    }


def test_netdev_without_a_device_warns() -> None:
    warnings: list[str] = []
    parse_command_line(["-netdev", "user,id=a"], warn=warnings.append)
    assert warnings == ["-netdev user,id=a: netdev a has no peer"]


ERRORS: list[tuple[list[str], str]] = [
    (["-netdev", "foo,id=a"], "Parameter 'type' does not accept value 'foo'"),
    (["-netdev", "hubport,id=a,hubid=0"], "netdev type 'hubport' is not supported"),
    (["-netdev", "id=a"], "Parameter 'type' is missing"),
    (["-netdev", "user"], "Parameter 'id' is missing"),
    (["-netdev", "user,id=1"], "Parameter 'id' expects an identifier"),
    (["-netdev", "user,id=a,foo=1"], "Invalid parameter 'foo'"),
    (["-netdev", "user,id=a,addr.type=unix"], "Invalid parameter 'addr.type'"),
    (["-netdev", "user,id=a"] * 2, "Duplicate ID 'a' for netdev"),
    (["-netdev", "user,id=a,restrict=foo"], "Parameter 'restrict' expects 'on' or 'off'"),
    (["-netdev", "user,id=a,hostfwd=foo"], "Invalid host forwarding rule 'foo'"),
    (["-netdev", "socket,id=a"], "exactly one of listen=, connect=, mcast= or udp= is required"),
    (["-netdev", "stream,id=a"], "Parameter 'addr' is missing"),
    (["-netdev", "stream,id=a,addr.path=/s"], "Parameter 'addr.type' is missing"),
    (["-netdev", "stream,id=a,addr.type=foo"], "Parameter 'type' does not accept value 'foo'"),
    (["-netdev", "stream,id=a,addr.type=unix"], "Parameter 'addr.path' is missing"),
    (
        ["-netdev", "stream,id=a,addr.type=inet,addr.host=h,addr.port=70000"],
        "port '70000' is out of range",
    ),
    (["-netdev", '{"type":"user"'], "JSON parse error, "),
    (["-nic", "foo"], "Parameter 'type' does not accept value 'foo'"),
    (["-nic", "user,model=e1000"], "Unsupported NIC model: e1000"),
    (["-nic", "user,model=virtio-net-device"], "Unsupported NIC model: virtio-net-device"),
    (["-nic", "user,mac=xx"], "invalid syntax for ethernet address"),
    (["-nic", "user,netdev=a"], "Invalid parameter 'netdev'"),
    (["-net", "nic,foo=1"], "Invalid parameter 'foo'"),
    (["-net", "user"], "there is no -net nic for this network"),
    (["-net", "nic", "-net", "nic"], "only one -net nic and one network are supported"),
]


@pytest.mark.parametrize(("argv", "message"), ERRORS)
def test_mistake_is_one_line_that_names_the_option(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"ppc64emu: {argv[-2]} {argv[-1]}: {message}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["-netdev", "help"], "hostfwd=rule"),
        (["-net", "?"], "dgram"),
        (["-nic", "help"], "tap"),
        (["-nic", "model=help"], "virtio-net-pci-transitional"),
    ],
)
def test_help(argv: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    assert text in capsys.readouterr().out
