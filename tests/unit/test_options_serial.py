"""-serial, -chardev and -device spapr-vty."""

from __future__ import annotations

import pytest

from emu.__main__ import main
from emu.config import (
    DeviceConfig,
    FileConfig,
    MachineConfig,
    MemoryConfig,
    NullConfig,
    PtyConfig,
    SocketConfig,
    StdioConfig,
)
from emu.options import parse_command_line


def parse(*argv: str) -> MachineConfig:
    return parse_command_line(argv, warn=lambda message: pytest.fail(message))


SERIALS: list[tuple[list[str], tuple[object, ...]]] = [
    (["-nographic"], (StdioConfig(id="serial0", mux=True, signal=False),)),
    (["-nographic", "-monitor", "none"], (StdioConfig(id="serial0"),)),
    (["-nographic", "-serial", "null"], (NullConfig(id="serial0"),)),
    (["-display", "none"], (StdioConfig(id="serial0"),)),
    (["-nodefaults"], ()),
    (["-nographic", "-nodefaults"], ()),
    (["-serial", "none"], ()),
    (["-serial", "none", "-serial", "pty"], (PtyConfig(id="serial0"),)),
    (["-serial", "mon:stdio"], (StdioConfig(id="serial0", mux=True, signal=False),)),
    (["-serial", "mon:pty"], (PtyConfig(id="serial0", mux=True),)),
    (["-serial", "file:/tmp/a,b"], (FileConfig(id="serial0", path="/tmp/a,b"),)),
    (["-serial", "ringbuf"], (MemoryConfig(id="serial0", size=65536),)),
    (["-serial", "unix:/s"], (SocketConfig(id="serial0", path="/s"),)),
    (
        ["-serial", "unix:/s,server"],
        (SocketConfig(id="serial0", path="/s", server=True, wait=True),),
    ),
    (
        ["-serial", "unix:/s,server=on,wait=off"],
        (SocketConfig(id="serial0", path="/s", server=True),),
    ),
    (
        ["-serial", "tcp:localhost:44,reconnect=5"],
        (SocketConfig(id="serial0", host="localhost", port=44, reconnect=5),),
    ),
    (
        ["-serial", "tcp::0,server,nowait", "-serial", "null"],
        (SocketConfig(id="serial0", server=True), NullConfig(id="serial1")),
    ),
    (
        ["-serial", "chardev:c", "-chardev", "socket,id=c,path=/a,,b,server,nowait"],
        (SocketConfig(id="c", path="/a,b", server=True),),
    ),
    (
        ["-serial", "chardev:c", "-chardev", "stdio,id=c,mux=on,signal=off"],
        (StdioConfig(id="c", mux=True, signal=False),),
    ),
    (
        ["-serial", "chardev:c", "-chardev", "file,id=c,path=x,append=on"],
        (FileConfig(id="c", path="x", append=True),),
    ),
    (
        ["-serial", "chardev:c", "-chardev", "ringbuf,id=c,size=4K"],
        (MemoryConfig(id="c", size=4096),),
    ),
]


@pytest.mark.parametrize(("argv", "expected"), SERIALS)
def test_serial(argv: list[str], expected: tuple[object, ...]) -> None:
    assert parse(*argv).serial == expected


def test_spapr_vty_replaces_the_default_console() -> None:
    config = parse("-chardev", "null,id=c", "-device", "spapr-vty,chardev=c,reg=0x71000000")
    assert config.serial == ()
    assert config.devices == (DeviceConfig("spapr-vty", {"chardev": "c", "reg": "0x71000000"}),)
    assert [(vty.reg, vty.chardev.id) for vty in config.vtys()] == [(0x71000000, "c")]


def test_vty_addresses_are_the_next_free_ones() -> None:
    config = parse(
        *("-serial", "null", "-chardev", "null,id=a", "-chardev", "null,id=b"),
        *("-device", "spapr-vty,chardev=a", "-device", "spapr-vty,chardev=b,reg=0x71000001"),
    )
    expected = [(0x71000000, "serial0"), (0x71000002, "a"), (0x71000001, "b")]
    assert [(vty.reg, vty.chardev.id) for vty in config.vtys()] == expected


ERRORS: list[tuple[list[str], str]] = [
    (["-serial", "foo"], "-serial foo: 'foo' is not a valid char driver"),
    (["-serial", "tcp:host"], "-serial tcp:host: expected tcp:HOST:PORT"),
    (["-serial", "tcp:h:99999"], "-serial tcp:h:99999: port 99999 is out of range"),
    (["-serial", "tcp:h:0"], "-serial tcp:h:0: a client socket needs a port"),
    (["-serial", "unix:/s,foo=1"], "-serial unix:/s,foo=1: Invalid parameter 'foo'"),
    (["-serial", "unix:"], "-serial unix:: chardev: socket: either a path or a port is needed"),
    (["-serial", "unix:/s,wait=on"], "-serial unix:/s,wait=on: 'wait' option is incompatible"),
    (["-serial", "unix:/s,telnet=on"], "-serial unix:/s,telnet=on: telnet is not supported"),
    (["-serial", "file:"], "-serial file:: chardev: file: no filename given"),
    (["-serial", "chardev:zz"], "-serial chardev:zz: there is no chardev 'zz'"),
    (["-chardev", "stdio"], "-chardev stdio: chardev: no id specified"),
    (["-chardev", "foo,id=a"], "-chardev foo,id=a: 'foo' is not a valid char driver name"),
    (["-chardev", "null,id=1"], "-chardev null,id=1: Parameter 'id' expects an identifier"),
    (["-chardev", "null,id=a,x=1"], "-chardev null,id=a,x=1: Invalid parameter 'x'"),
    (["-chardev", "ringbuf,id=a,size=3"], "-chardev ringbuf,id=a,size=3: size of ringbuf"),
    (["-chardev", "socket,id=a"], "-chardev socket,id=a: chardev: socket: either a path or"),
    (["-chardev", "null,id=a", "-chardev", "pty,id=a"], "-chardev pty,id=a: Duplicate ID 'a'"),
    (["-device", "spapr-vty,x=1"], "-device spapr-vty,x=1: Property 'spapr-vty.x' not found"),
    (["-device", "spapr-vty"], "-device spapr-vty: spapr-vty needs a chardev property"),
    (
        ["-device", "spapr-vty,chardev=zz"],
        "-device spapr-vty,chardev=zz: Property 'spapr-vty.chardev' can't find value 'zz'",
    ),
    (
        ["-device", "spapr-vty,reg=0x100000000"],
        "-device spapr-vty,reg=0x100000000: Parameter 'reg' expects uint32_t",
    ),
    (
        [
            *("-serial", "null", "-chardev", "null,id=a"),
            *("-device", "spapr-vty,chardev=a,reg=0x71000000"),
        ],
        "-device spapr-vty,chardev=a,reg=0x71000000: spapr-vty devices conflict at address",
    ),
    (
        ["-serial", "chardev:a", "-chardev", "null,id=a", "-device", "spapr-vty,chardev=a"],
        "-device spapr-vty,chardev=a: Property 'spapr-vty.chardev' can't take value 'a'",
    ),
    (
        ["-serial", "stdio", "-serial", "mon:stdio"],
        "-serial mon:stdio: cannot use stdio by multiple character devices",
    ),
]


@pytest.mark.parametrize(("argv", "message"), ERRORS)
def test_mistake_is_one_line_and_status_1(
    argv: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"ppc64emu: {message}")
    assert err.count("\n") == 1
